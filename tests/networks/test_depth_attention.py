"""Depth attention: what a slice sees, and that any method may switch it on."""

from __future__ import annotations

import pytest
import torch
from depth_tester import DepthTester
from network_tester import LABELS, image, tiny_backbone

from sam_monai import PTSAM, SSAM, InputError
from sam_monai.adaptations import depth_attention as depth
from sam_monai.networks import slices


class TestSSAMWithDepth(DepthTester):
    def build(self, backbone, labels=LABELS, **others):
        return SSAM(backbone, labels=labels, depth_attention=True, **others)


class TestPTSAMWithDepth(DepthTester):
    def build(self, backbone, labels=LABELS, **others):
        return PTSAM(backbone, labels=labels, depth_attention=True, **others)


@pytest.mark.parametrize("number", [0, 1])  # in windows of 3 that pad 4 x 4 patches, and global
def test_a_slice_reaches_the_others_at_its_own_place_and_nowhere_else(number):
    encoder = tiny_backbone().image_encoder
    block = encoder.blocks[number]
    depth.add_depth_attention(encoder)
    layer = block.depth_attention
    for parameter in layer.parameters():
        parameter.data.normal_()
    x = image(10, 4, 4, 32)  # two volumes of five slices
    changed = x.clone()
    changed[6, 2, 3] += torch.randn(32)
    with torch.no_grad():
        difference = (block(changed, 5) - block(x, 5)).abs().amax(-1)
    assert not difference[:5].any()  # the other volume
    others = difference[[5, 7, 8, 9]]
    assert (others[:, 2, 3] > 1e-4).all()
    others[:, 2, 3] = 0
    assert not others.any()


@pytest.mark.parametrize("slices", [1, 5, 70])
def test_attention_over_depth_is_attention_with_a_bias_of_cosines(slices):
    layer = depth.DepthAttention(32, 2)
    layer.amplitudes.data.normal_()
    q, k, v = torch.randn(3, 4, 2, slices, 16).unbind(0)
    distance = torch.arange(slices)[:, None] - torch.arange(slices)
    waves = torch.stack([torch.cos(2 * torch.pi * distance / w) for w in depth.WAVELENGTHS], -1)
    bias = torch.einsum("hm,ijm->hij", layer.amplitudes, waves)
    expected = (q @ k.transpose(2, 3) / 4 + bias).softmax(-1) @ v
    with torch.no_grad():
        torch.testing.assert_close(layer.attend(q, k, v), expected, rtol=1e-4, atol=1e-5)


def test_a_deep_volume_passes_in_parts_that_overlap():
    for deep, n in ((19, 8), (8, 8), (9, 8), (100, 16), (7, 3), (601, 16)):
        kept = []
        for start, stop, first, last in slices.passes(2 * deep, deep, n):
            assert start <= first < last <= stop and (stop - start == min(n, deep) or deep * 2 <= n)
            assert start // deep == (stop - 1) // deep
            if deep > n > 2:  # the outer eighths see too little
                margin = max(1, n // 8)
                assert first in (0, deep) or first - start >= margin
                assert last in (deep, 2 * deep) or stop - last >= margin
            kept += range(first, last)
        assert kept == list(range(2 * deep))


def test_merging_with_depth_attention_is_refused():
    with pytest.raises(InputError, match="depth attention"):
        SSAM(tiny_backbone(), labels=LABELS, depth_attention=True).merged()
