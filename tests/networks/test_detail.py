"""The path from the encoder's early features to the masks."""

from __future__ import annotations

import pytest
import torch
from network_tester import NetworkTester, image, perturb, tiny_backbone

from sam_monai import PTSAM, SSAM, InputError, MedSA
from sam_monai.adaptations.detail import RATE
from sam_monai.backbones.tiny_vit import build_tiny_vit


class TestSSAMWithDetail(NetworkTester):
    def build(self, backbone, labels=("liver", "spleen"), **others):
        return SSAM(backbone, labels=labels, detail=True, **others)

    def test_masks_change_where_four_pixels_of_a_cell_differ(self, network):
        """One mask pixel is 4 x 4 of the image's in a ViT, and the path sees a neighbourhood of five of them."""
        for layer in (network.backbone.image_encoder.detail.first, network.backbone.image_encoder.detail.last):
            layer.weight.data.normal_()
        with torch.no_grad():
            x = image(1, 3, 64, 64)
            embedding = network.encode(x)
            embedding[:, 256 + 32 * 7 : 256 + 32 * 8] += 1  # of each cell: row 1, column 3, as 2 * 2 + 1 and 2 + 1
            changed = (network(x, embedding) - network(x))[0, 1].abs()
        cells = changed.unflatten(0, (4, 4, 4)).unflatten(3, (4, 4, 4)).mean((0, 2, 3, 5))
        assert cells[1, 3] == cells.max() and cells[1, 3] > 3 * cells[3, 0]

    def test_it_has_a_rate_of_its_own(self, network):
        groups = network.parameter_groups(0.1, 0.2, 0.3)
        sizes = [sum(p.numel() for p in group["params"]) for group in groups]
        assert len(groups) == 4 and groups[3]["lr"] == RATE and groups[3]["weight_decay"] == 0
        assert sizes[3] == sum(p.numel() for p in network.backbone.image_encoder.detail.parameters())
        assert sum(sizes) == sum(p.numel() for p in network.parameters() if p.requires_grad)

    def test_an_embedding_without_detail_is_refused(self, network):
        x = image(1, 3, 64, 64)
        with pytest.raises(InputError, match="not of this image"):
            network(x, network.encode(x)[:, :256])

    def test_a_network_without_it_refuses_the_adapter(self, network):
        with pytest.raises(InputError, match="detail True"):
            SSAM(tiny_backbone(), labels=network.labels).load_state_dict(network.state_dict())

    def test_a_plain_sam_has_no_place_for_it(self, network):
        with pytest.raises(InputError, match="detail"):
            network.merged()


class TestMedSAWithDetail(NetworkTester):
    def build(self, backbone, labels=("liver", "spleen"), **others):
        return MedSA(backbone, labels=labels, detail=True, depth_attention=False, **others)

    def answers(self, network, x):
        coords, kinds = torch.tensor([[[5.0, 9.0], [20.0, 30.0]]] * 2), torch.tensor([[1, 0]] * 2)
        clicked = network(x, point_coords=coords, point_labels=kinds)
        boxed = network(x, boxes=torch.tensor([[[5.0, 9, 20, 30]]] * 2))
        drawn = network(x, masks=torch.where(x[:, :1] > 0.5, 3.0, -3.0))
        return torch.cat([network(x)[:, 1:], clicked[:, 1:], boxed[:, 1:], drawn[:, 1:]], 1)


class TestPTSAMWithDetail(NetworkTester):
    def build(self, backbone, labels=("liver", "spleen"), **others):
        return PTSAM(backbone, labels=labels, detail=True, **others)

    test_checkpointing_keeps_less_and_gives_the_same_gradients = None  # its blocks train nothing

    def test_embeddings_that_training_changes_are_not_kept(self, tmp_path):
        assert PTSAM(tiny_backbone(), labels=["a"], detail=True, embedding_cache=tmp_path).embedding_cache is None
        assert PTSAM(tiny_backbone(), labels=["a"], embedding_cache=tmp_path).embedding_cache is not None


@pytest.mark.parametrize("stride", [4, 16])
def test_the_first_stage_of_a_tiny_vit_is_as_fine_as_its_masks(stride):
    encoder = build_tiny_vit(64, stride)
    seen = []
    encoder.detail = torch.nn.Identity()
    encoder.detail.forward = lambda early: (seen.append(early.shape), early.new_zeros(1, 512, *cells))[1]
    cells = (64 // stride, 64 // stride)
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 64, 64)).shape == (1, 768, *cells)
    assert seen == [(1, encoder.early_width, 4 * cells[0], 4 * cells[1])]


def test_a_trained_path_travels_in_the_adapter():
    network = SSAM(tiny_backbone(), labels=["a"], detail=True, amp=False)
    optimizer = torch.optim.AdamW(network.parameter_groups(0.005, 0.002, 0.0))
    x, checker = image(1, 1, 64, 64), (torch.arange(64)[:, None] // 4 + torch.arange(64) // 4) % 2 * 1.0
    before = network(x)
    for _ in range(3):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x)[0, 1], checker)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert network.backbone.image_encoder.detail.last.weight.any() and not torch.equal(network(x), before)
    perturb(network)
    state = network.state_dict()
    other = SSAM(tiny_backbone(), labels=["a"], detail=True, amp=False)
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(other(x), network(x))
