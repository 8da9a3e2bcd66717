"""Med-SA as every network of the collection, with and without depth, and how many parameters it trains."""

from __future__ import annotations

import torch
from depth_tester import DepthTester
from network_tester import LABELS, NetworkTester, tiny_backbone

from sam_monai import MedSA
from sam_monai.adaptations import depth_attention as depth
from sam_monai.backbones.backbone import random_backbone
from sam_monai.backbones.blocks import attention_blocks
from sam_monai.backbones.weights import KNOWN_WEIGHTS


def automatic_and_prompted(network, x):
    coords, labels = torch.tensor([[[5.0, 9.0], [20.0, 30.0]]] * 2), torch.tensor([[1, 0]] * 2)
    clicked = network(x, point_coords=coords, point_labels=labels)
    boxed = network(x, boxes=torch.tensor([[[5.0, 9, 20, 30]]] * 2))
    drawn = network(x, masks=torch.where(x[:, :1] > 0.5, 3.0, -3.0))
    return torch.cat([network(x)[:, 1:], clicked[:, 1:], boxed[:, 1:], drawn[:, 1:]], 1)


class TestMedSA2D(NetworkTester):
    def answers(self, network, x):
        return automatic_and_prompted(network, x)

    def build(self, backbone, labels=LABELS, **others):
        return MedSA(backbone, labels=labels, depth_attention=False, **others)


class TestMedSA(DepthTester):
    def answers(self, network, x):
        return torch.cat([automatic_and_prompted(network, x), super().answers(network, x)[..., 0]], 1)

    def build(self, backbone, labels=LABELS, **others):
        return MedSA(backbone, labels=labels, **others)


def trained(module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_adapters_of_vit_b_are_7_1_million_numbers_and_10_65_with_depth():
    network = MedSA(random_backbone(KNOWN_WEIGHTS["sam_vit_b"], 256), depth_attention=False)
    assert trained(network.backbone.image_encoder) == 12 * 2 * (768 * 192 + 192 + 192 * 768 + 768) == 7_100_928
    # down and up of HyP-Adpt, its two makers and norms, and two adapters of 256, in each of two blocks
    makers = 2 * (256 * 64 + 64 + 64 * 4096 + 4096 + 2 * 64)
    assert trained(network.backbone.mask_decoder) == 2 * (2 * 256 * 64 + 64 + 256 + makers + 2 * 33_088) == 1_329_792
    depth.add_depth_attention(network.backbone.image_encoder)
    assert trained(network.backbone.image_encoder) == 10_651_392 + 12 * 12 * 4


def test_every_attention_block_of_tiny_vit_is_adapted_at_its_own_width():
    network = MedSA("lite_medsam", image_size=64)
    widths = [(b.width, b.space_adapter.down.out_features, b.depth_attention.adapter.down.in_features)
              for b in attention_blocks(network.backbone.image_encoder)]  # fmt: skip
    assert widths == [(128, 32, 128)] * 2 + [(160, 40, 160)] * 6 + [(320, 80, 320)] * 2


def test_a_thawed_decoder_trains_and_travels_whole():
    network = MedSA(tiny_backbone(), labels=LABELS, thaw_decoder=True)
    assert all(p.requires_grad for p in network.backbone.mask_decoder.parameters())
    assert "backbone.mask_decoder.iou_token.weight" in network.state_dict()
