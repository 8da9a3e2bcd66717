"""What every network with depth attention must be, besides what all networks must be."""

from __future__ import annotations

import pytest
import torch
from network_tester import NetworkTester, image, perturb

from sam_monai.backbones.blocks import attention_blocks


class DepthTester(NetworkTester):
    def answers(self, network, x):
        return network(x[..., None].expand(-1, -1, -1, -1, 3))[:, 1:]

    def test_a_picture_has_no_depth(self, network):
        for block in attention_blocks(network.backbone):
            block.depth_attention.adapter.up.weight.data.normal_()
        x = image(1, 1, 32, 32)
        flat, deep = network(x), network(x[..., None])[..., 0]
        for block in attention_blocks(network.backbone):
            block.depth_attention = None
        assert torch.equal(flat, network(x)) and not torch.allclose(deep, flat, atol=1e-3)

    def test_a_volume_is_its_slices(self, network):
        """Not with depth attention, once it is trained."""
        volume = image(1, 1, 40, 48, 5)
        with torch.no_grad():
            torch.testing.assert_close(network(volume)[..., 2], network(volume[..., 2]), rtol=1e-4, atol=1e-4)
            perturb(network)
            assert not torch.allclose(network(volume)[..., 2], network(volume[..., 2]), atol=1e-3)

    def test_no_more_than_slices_per_batch_enter_the_encoder_together(self, network):
        seen = []
        network.slices_per_batch = 8
        network.backbone.image_encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        network(image(1, 1, 32, 32, 19))
        assert seen == [8, 8, 8]
        network(image(3, 1, 32, 32, 3))
        assert seen[3:] == [6, 3]

    def test_volumes_of_a_batch_do_not_mix(self, network):
        perturb(network)
        volumes = image(2, 1, 32, 32, 4)
        with torch.no_grad():
            torch.testing.assert_close(network(volumes)[1:], network(volumes[1:]), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("slices", [1, 2, 7, 8, 13, 29])
    def test_any_number_of_slices_is_segmented(self, network, slices):
        perturb(network)
        logits = network(image(1, 1, 20, 20, slices))
        assert logits.shape == (1, 3, 20, 20, slices) and logits.isfinite().all()
