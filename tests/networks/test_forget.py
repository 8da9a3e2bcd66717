"""Copies of weights in another form are never out of date, and `forget` drops them all."""

from __future__ import annotations

import gc

import pytest
import torch
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import PTSAM, SSAM, MedSA
from sam_monai.backbones.frozen import KEPT


@pytest.mark.parametrize("kind", [SSAM, PTSAM, MedSA])
@pytest.mark.parametrize("backbone", ["vit", "tiny_vit"])
@pytest.mark.parametrize("amp", [True, False])
def test_after_forget_every_weight_counts_as_it_is(kind, backbone, amp, monkeypatch):
    monkeypatch.setattr("sam_monai.networks.slicewise.fast_bfloat16", lambda device: True)

    def build():
        torch.manual_seed(0)
        base = tiny_backbone() if backbone == "vit" else "lite_medsam"
        return kind(base, labels=LABELS, image_size=64 if backbone == "vit" else 32, amp=amp)

    def edit(network):
        """Every weight, frozen ones and buffers too, without a trace that torch could see."""
        generator = torch.Generator().manual_seed(1)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_floating_point() and "running_var" not in name:
                tensor.data += 0.02 * torch.randn(tensor.shape, generator=generator)

    network, fresh, x = build(), build(), image(1, 1, 40, 40)
    with torch.no_grad():
        network(x)
        edit(network)
        stale = network(x)
        network.forget()
        edit(fresh)
        assert torch.equal(network(x), fresh(x)) and not torch.equal(stale, fresh(x))


def test_copies_go_with_their_network():
    network = SSAM(tiny_backbone(), labels=LABELS)
    perturb(network)
    gc.collect()
    before = len(KEPT)
    with torch.no_grad():
        network(image(1, 1, 30, 30))
    assert len(KEPT) > before
    network.forget()
    assert len(KEPT) == before
    with torch.no_grad():
        network(image(1, 1, 30, 30))
    del network
    gc.collect()
    assert len(KEPT) <= before
