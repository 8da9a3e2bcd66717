"""TinyViT in training: what is made faster there has the answers and the gradients of torch's own layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from network_tester import image, perturb

from sam_monai.adaptations import ssam_singular_values as svd
from sam_monai.backbones import onednn, tiny_vit
from sam_monai.backbones.backbone import random_backbone
from sam_monai.backbones.weights import KNOWN_WEIGHTS


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (1, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_of_a_convolution_by_channel_is_torchs(stride, shape, bias):
    layer = torch.nn.Conv2d(5, 5, 3, stride, 1, groups=5, bias=bias).requires_grad_(False)
    x = image(2, 5, *shape).requires_grad_()
    ours, expected = onednn.convolved(layer, x, layer.weight, layer.bias), layer(x)
    assert "ByChannel" in type(ours.grad_fn).__name__
    torch.testing.assert_close(ours, expected)
    of_ours, of_expected = (torch.autograd.grad(answer.square().sum(), x)[0] for answer in (ours, expected))
    torch.testing.assert_close(of_ours, of_expected)


def test_a_convolution_by_channel_that_learns_is_torchs_own():
    layer = torch.nn.Conv2d(5, 5, 3, 1, 1, groups=5)
    x = image(2, 5, 8, 8).requires_grad_()
    answer = onednn.convolved(layer, x, layer.weight, layer.bias)
    assert all(gradient.any() for gradient in torch.autograd.grad(answer.square().sum(), (x, *layer.parameters())))


@pytest.fixture
def encoder() -> torch.nn.Module:
    """A tuned TinyViT of 64 x 64 px in stages of other sizes, with numbers of its own everywhere."""
    torch.manual_seed(0)
    encoder = random_backbone(KNOWN_WEIGHTS["lite_medsam"], 64).image_encoder
    norms: list[Any] = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
    svd.tune_image_encoder(encoder)
    perturb(encoder)
    return encoder


def gradients(encoder, x) -> tuple[torch.Tensor, list[torch.Tensor]]:
    trained = [p for p in encoder.parameters() if p.requires_grad]
    answer = encoder(x)
    return answer.detach(), list(torch.autograd.grad(answer.square().mean(), trained))


def plainly(layer, x, weight, bias) -> torch.Tensor:
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def test_kernels_of_one_pixel_learn_by_their_factors_what_they_learn_by_themselves(encoder, monkeypatch):
    x = image(2, 3, 64, 64).double()
    answer, ours = gradients(encoder.double(), x)
    monkeypatch.setattr(svd.SVDConv2d, "learning", lambda *_: None)
    for module in (onednn, tiny_vit):
        monkeypatch.setattr(module, "convolved", plainly)
    expected, theirs = gradients(encoder, x)
    assert far(answer, expected) < 1e-6
    assert max(map(far, ours, theirs)) < 1e-5


@pytest.mark.parametrize("tokens", [60, 3000])  # the values scale these, or the factor
def test_a_change_that_bf16_would_round_away_reaches_the_answers_of_every_singular_value(tokens):
    torch.manual_seed(0)
    layer: Any = torch.nn.Linear(64, 96, bias=False).requires_grad_(False)
    change = 1e-3
    svd.tune(layer)
    x = torch.randn(tokens, 64)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        before = layer(x).detach().float()
        layer.svd_scale.data += change
        moved = layer(x).detach().float() - before
    parts = (x @ layer.svd_vh.T) * layer.svd_s  # each value's own part of the answer
    shares = ((moved @ layer.svd_u) * parts).sum(0) / parts.square().sum(0) / change
    assert (shares - 1).abs().median() < 0.7  # rounded, a value moves by four to eight times as much or not at all


def test_gelu_of_the_first_tuned_layer_is_rounded_after_it_and_learns_as_in_float32(encoder):
    first, x = encoder.layers[0].blocks[0].conv1, image(2, 64, 24, 24) - 0.5
    expected = first(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = first(x)
    assert rounded.dtype == torch.bfloat16 and far(rounded.float(), expected) < 0.003
    learn = (first.c.svd_scale, first.c.svd_shift)
    ways = [torch.autograd.grad(answer.float().square().sum(), learn) for answer in (rounded, expected)]
    assert max(map(far, *ways)) < 0.02


def test_norms_in_bf16_are_those_of_float32_rounded():
    norm = torch.nn.LayerNorm(48)
    perturb(norm)
    x = image(3, 10, 48).bfloat16().requires_grad_()
    inputs = (x, norm.weight, norm.bias)
    with torch.autocast("cpu", torch.bfloat16):
        expected = norm(x).bfloat16()
        norm.__class__ = tiny_vit.OwnPrecisionNorm
        ours = norm(x)
        in_float32 = norm(x.float())
    torch.testing.assert_close(ours, expected)
    assert in_float32.dtype == torch.float32
    ways = [torch.autograd.grad(answer.float().square().sum(), inputs) for answer in (ours, expected)]
    for found, theirs in zip(*ways, strict=True):
        assert far(found.float(), theirs.float()) < 0.01


@pytest.mark.skipif(not onednn.known(torch.float32), reason="torch has other operators")
def test_layers_that_need_no_gradients_use_the_fast_operators_in_training_too(monkeypatch):
    encoder = random_backbone(KNOWN_WEIGHTS["lite_medsam"], 64).image_encoder
    x = image(1, 3, 64, 64)
    with torch.no_grad():
        expected = encoder(x)
    used = []
    usable = onednn.usable
    monkeypatch.setattr(onednn, "usable", lambda *given: used.append(usable(*given)) or used[-1])
    torch.testing.assert_close(encoder(x), expected)
    assert used and all(used)


def test_folded_for_an_export_it_is_plain_layers_with_the_same_answers(encoder):
    x, before = image(1, 3, 64, 64), encoder.state_dict().keys()
    with torch.no_grad():
        expected = encoder(x)
        svd.fold(encoder)
        tiny_vit.fold_norms(encoder)
        assert far(encoder(x), expected) < 1e-3
    assert encoder.state_dict().keys() <= before
    assert not any(isinstance(module, (torch.nn.BatchNorm2d, tiny_vit.FoldedConvBN)) for module in encoder.modules())
