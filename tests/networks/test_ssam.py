"""S-SAM: what is tuned, how many numbers that is, and that it merges."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import torch
from network_tester import LABELS, NetworkTester, image, perturb, tiny_backbone
from segment_anything.modeling import Sam

from sam_monai import SSAM, InputError
from sam_monai.__main__ import main
from sam_monai.adaptations import ssam_singular_values as svd
from sam_monai.backbones.backbone import build_backbone, random_backbone
from sam_monai.backbones.weights import KNOWN_WEIGHTS, SAM_MEAN
from sam_monai.networks import adapter_files


class TestSSAM(NetworkTester):
    def build(self, backbone, labels=LABELS, **others):
        return SSAM(backbone, labels=labels, **others)


def trained(network) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.fixture
def no_decomposition(monkeypatch):
    """Counting needs no singular values."""

    def shapes_only(matrix, full_matrices):
        rank = min(matrix.shape)
        return torch.zeros(len(matrix), rank), torch.zeros(rank), torch.zeros(rank, matrix.shape[1])

    monkeypatch.setattr(torch.linalg, "svd", shapes_only)


@pytest.mark.parametrize(("text_encoder", "expected"), [("clip", 440_064), ("minilm", 407_296)])
def test_vit_b_at_256_px_trains_as_many_numbers_as_the_paper_counts(no_decomposition, text_encoder, expected):
    network = SSAM(random_backbone(KNOWN_WEIGHTS["sam_vit_b"], 256), text_encoder=text_encoder)
    assert trained(network) == expected


def test_a_tuned_weight_is_the_weight_to_the_last_bit_until_it_is_trained():
    for layer in (torch.nn.Linear(40, 70), torch.nn.Conv2d(5, 30, 3)):
        before = layer.weight.detach().clone()
        svd.tune(layer)
        assert torch.equal(layer.tuned_weight(), before)


def test_a_tuned_weight_follows_the_papers_equation():
    layer = torch.nn.Linear(20, 30)
    svd.tune(layer)
    layer.svd_scale.data.uniform_(0.5, 1.5)
    layer.svd_shift.data.uniform_(-0.5, 0.5)
    u, s, vh = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
    expected = u @ torch.diag(torch.relu(layer.svd_scale.detach() * s + layer.svd_shift.detach())) @ vh
    torch.testing.assert_close(layer.tuned_weight().detach().double(), expected, rtol=1e-4, atol=1e-5)


def test_the_patch_embedding_and_the_decoder_are_not_tuned():
    network = SSAM(tiny_backbone())
    tuned = {name for name, _ in svd.tuned_layers(network)}
    assert "backbone.image_encoder.blocks.0.attn.qkv" in tuned and "backbone.image_encoder.neck.2" in tuned
    assert len(tuned) == 4 * 4 + 2 and all(name.startswith("backbone.image_encoder.") for name in tuned)
    assert not any(p.requires_grad for p in network.backbone.mask_decoder.parameters())
    assert not any(p.requires_grad for p in network.backbone.image_encoder.patch_embed.parameters())
    assert not network.backbone.image_encoder.neck[1].weight.requires_grad


@pytest.mark.parametrize("amp", [False, True])
def test_weights_are_formed_once_however_many_slices_there_are_and_anew_after_training(monkeypatch, amp):
    network, formed = SSAM(tiny_backbone(), slices_per_batch=1, amp=amp), []
    form = svd.SingularValueTuning.tuned_weight
    monkeypatch.setattr(svd.SVDLinear, "tuned_weight", lambda layer: formed.append(layer) or form(layer))
    linear = [layer for _, layer in svd.tuned_layers(network) if isinstance(layer, svd.SVDLinear)]
    x = image(1, 1, 32, 32, 4)
    with torch.no_grad():
        before = network.encode(x)
        assert torch.equal(network.encode(x), before) and formed == linear
        linear[0].svd_scale.data *= 1.5  # which leaves no trace but the number itself
        assert not torch.equal(network.encode(x), before) and formed == [*linear, linear[0]]
        linear[1].weight.mul_(2)
        network.encode(x)
        assert formed == [*linear, *linear[:2]]


def test_the_factors_give_the_answers_and_gradients_of_the_weights_that_they_form():
    layer = torch.nn.Linear(40, 70).requires_grad_(False)
    svd.tune(layer)
    perturb(layer)
    x = image(9, 40).requires_grad_()
    inputs = (x, layer.svd_scale, layer.svd_shift)
    factored = layer(x)
    formed = torch.nn.functional.linear(x, layer.tuned_weight(), layer.bias)
    torch.testing.assert_close(factored, formed, rtol=1e-4, atol=1e-5)
    ways = [torch.autograd.grad(answer.square().sum(), inputs) for answer in (factored, formed)]
    for ours, expected in zip(*ways, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_merged_it_is_a_plain_sam_for_segment_anything():
    network = SSAM(tiny_backbone(), labels=LABELS, amp=False)
    perturb(network)
    state, tokens = network.merged()
    plain = tiny_backbone(seed=3)
    sam = Sam(plain.image_encoder, plain.prompt_encoder, plain.mask_decoder)
    sam.load_state_dict(state)
    x = image(1, 3, 64, 64)
    with torch.no_grad():
        features = sam.image_encoder((x - network.backbone.pixel_mean) / network.backbone.pixel_std)
        for label, name in enumerate(LABELS, 1):
            logits, _ = sam.mask_decoder(
                image_embeddings=features,
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=tokens[name][None],
                dense_prompt_embeddings=sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(1, -1, 4, 4),
                multimask_output=False,
            )
            logits = sam.postprocess_masks(logits, (64, 64), (64, 64))
            torch.testing.assert_close(logits[:, 0], network(x)[:, label], rtol=1e-4, atol=1e-4)


def test_merged_it_is_a_plain_sam_for_kornia(tmp_path):
    from kornia.models.sam import Sam as KorniaSam
    from kornia.models.sam.architecture.image_encoder import ImageEncoderViT
    from kornia.models.sam.architecture.mask_decoder import MaskDecoder
    from kornia.models.sam.architecture.prompt_encoder import PromptEncoder
    from kornia.models.sam.architecture.transformer import TwoWayTransformer

    network = SSAM(tiny_backbone(), labels=LABELS, amp=False)
    perturb(network)
    state, tokens = network.merged()
    torch.save(state, tmp_path / "merged.pth")
    layers = {"depth": 4, "embed_dim": 32, "num_heads": 2, "global_attn_indexes": (1, 3), "window_size": 3}
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    sam = KorniaSam(
        ImageEncoderViT(img_size=64, norm_layer=norm, use_rel_pos=True, **layers),
        PromptEncoder(256, (4, 4), (64, 64), mask_in_chans=16),
        MaskDecoder(
            transformer_dim=256, transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
        ),
    )
    sam.load_checkpoint(str(tmp_path / "merged.pth"))
    sam.eval()
    x = image(1, 3, 64, 64)
    with torch.no_grad():
        logits, _ = sam.mask_decoder(
            image_embeddings=sam.image_encoder((x - network.backbone.pixel_mean) / network.backbone.pixel_std),
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=torch.stack([tokens[name] for name in LABELS]),
            dense_prompt_embeddings=sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(2, -1, 4, 4),
            multimask_output=False,
        )
        logits = torch.nn.functional.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(logits[:, 0], network(x)[0, 1:], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_merged_at_1024_px_it_opens_in_segment_anythings_own_builder(tmp_path):
    from segment_anything import sam_model_registry

    network = SSAM(random_backbone(KNOWN_WEIGHTS["sam_vit_b"], 1024), labels=["liver"])
    torch.save(network.merged()[0], tmp_path / "merged.pth")
    sam_model_registry["vit_b"](checkpoint=tmp_path / "merged.pth")


def test_tiny_vit_does_not_merge_into_a_plain_sam():
    with pytest.raises(InputError, match="ViT"):
        SSAM("lite_medsam", image_size=64).merged()


def test_a_batch_of_one_label_trains_and_a_labels_token_does_not_depend_on_the_others():
    torch.manual_seed(0)
    one = SSAM(tiny_backbone(), labels=["liver"]).train()
    two = SSAM(tiny_backbone(), labels=["spleen", "liver"]).train()
    two.text_affine.load_state_dict(one.text_affine.state_dict())
    torch.testing.assert_close(one.prompt_tokens()[0], two.prompt_tokens()[1])
    one(image(1, 1, 32, 32))[:, 1].mean().backward()


def test_label_vectors_travel_with_the_adapter_and_no_text_encoder_runs_at_inference(monkeypatch):
    state = SSAM(tiny_backbone(), labels=LABELS).state_dict()
    monkeypatch.setattr("sam_monai.networks.ssam.encode_labels", None)
    network = SSAM(tiny_backbone())
    network.load_state_dict(state)
    assert torch.equal(network.label_vectors, state["label_vectors"]) and network.label_vectors.any()


def test_an_adapter_brings_its_image_size_and_how_its_images_were_prepared():
    trained_at_96 = SSAM("lite_medsam", labels=LABELS, image_size=96, preprocessing={"intensity": "mr"}, amp=False)
    network = SSAM("lite_medsam", amp=False)
    assert network.image_size == 256
    network.load_state_dict(trained_at_96.state_dict())
    assert network.image_size == 96 and network.preprocessing == {"intensity": "mr"}
    x = image(1, 1, 50, 40)
    assert torch.equal(network(x), trained_at_96(x))
    with pytest.raises(InputError, match="image_size 96.*image_size 64"):
        SSAM("lite_medsam", image_size=64).load_state_dict(trained_at_96.state_dict())


def test_the_real_backbone_is_the_one_its_hash_names():
    assert build_backbone("lite_medsam", image_size=64).base == build_backbone("lite_medsam").base


def test_decompositions_are_made_once_for_a_base_and_anew_where_the_file_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("SAM_MONAI_CACHE", str(tmp_path))
    made, linalg_svd = [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **more: made.append(1) or linalg_svd(*args, **more))

    def layers(base):
        torch.manual_seed(0)
        encoder = tiny_backbone().image_encoder
        svd.tune_image_encoder(encoder, base)
        return [layer.svd_u.clone() for _, layer in svd.tuned_layers(encoder)]

    first = layers("abc")
    assert len(made) == len(first) and [file.name for file in tmp_path.rglob("*.*")] == ["abc.1.safetensors"]
    assert all(torch.equal(a, b) for a, b in zip(first, layers("abc"), strict=True)) and len(made) == len(first)
    svd.decompositions_file("abc").write_bytes(b"damaged")
    layers("abc")
    assert len(made) == 2 * len(first) and svd.read_decompositions("abc")
    layers("random")
    assert len(made) == 3 * len(first) and len(list(tmp_path.rglob("*.*"))) == 1
    monkeypatch.setenv("SAM_MONAI_CACHE", "/dev/null/none")
    assert len(layers("abc")) == len(first)


def test_decompositions_of_other_weights_under_the_hash_of_a_base_are_not_taken(tmp_path, monkeypatch):
    """As of a base whose weights a program has changed."""
    monkeypatch.setenv("SAM_MONAI_CACHE", str(tmp_path))
    for change in (0.1, 0.0):
        torch.manual_seed(0)
        encoder = tiny_backbone().image_encoder
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(change * torch.randn_like(parameter))
        svd.tune_image_encoder(encoder, "abc")
        for _, layer in svd.tuned_layers(encoder):
            made = (layer.svd_u * layer.svd_s) @ layer.svd_vh
            torch.testing.assert_close(made, layer.weight.flatten(1), rtol=1e-3, atol=1e-4)


def test_a_merged_sam_says_where_its_images_are_prepared_otherwise(tmp_path, monkeypatch, capsys):
    network = SSAM(tiny_backbone(), labels=LABELS)
    monkeypatch.setattr(adapter_files, "load_network", lambda *_: network)
    (tmp_path / "a.pt").touch()
    assert main(["merge", str(tmp_path / "a.pt"), str(tmp_path / "sam.safetensors")]) == 1
    assert "segment-anything reads .pth" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "a.pt"), str(tmp_path / "sam.pth")]) == 0
    assert ("SamPredictor gives wrong masks" in capsys.readouterr().out) == (
        network.backbone.weights.pixel_mean != SAM_MEAN or network.backbone.weights.resize != "pad"
    )


def test_a_merge_that_is_killed_between_its_two_files_can_be_run_again(tmp_path, monkeypatch):
    network = SSAM(tiny_backbone(), labels=LABELS)
    monkeypatch.setattr(adapter_files, "load_network", lambda *_: network)
    (tmp_path / "a.pt").touch()
    words = ["merge", str(tmp_path / "a.pt"), str(tmp_path / "sam.pth")]
    if (child := os.fork()) == 0:
        try:
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            main(words)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "sam.pth").exists()
    assert main(words) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt", "sam.pth", "sam_prompts.pth"]
    assert main(words) == 1  # and replaces nothing
