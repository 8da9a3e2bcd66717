"""Any number of channels enter SAM's three by a mixture that starts as their mean and is part of the adapter."""

from __future__ import annotations

import pytest
import torch
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import PTSAM, SSAM, InputError, MedSA
from sam_monai.backbones.backbone import Backbone
from sam_monai.backbones.tiny_vit import build_tiny_vit
from sam_monai.backbones.weights import KNOWN_WEIGHTS
from sam_monai.networks import identity
from sam_monai.networks.adapter_files import load_network, verify, write_adapter
from sam_monai.networks.mixture import ChannelMixture

NAMES = ("FLAIR", "T1w", "T1gd", "T2w")
METHODS = pytest.mark.parametrize("method", [SSAM, PTSAM, MedSA])


def build(method=PTSAM, names=NAMES, **others):
    torch.manual_seed(0)
    return method(tiny_backbone(), labels=LABELS, amp=False, channel_names=names, **others)


@METHODS
@pytest.mark.parametrize("shape", [(40, 48), (30, 26, 3)])
def test_an_untrained_adapter_is_sam_on_the_mean_of_the_channels(method, shape):
    x = image(2, 4, *shape)
    with torch.no_grad():
        mixed, grey = build(method)(x), build(method, None)(x.mean(1, keepdim=True))
    torch.testing.assert_close(mixed, grey, rtol=1e-4, atol=1e-4)


def test_one_mixture_is_the_mean_in_float32_whatever_the_autocast():
    x = image(3, 5, 9, 7)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ChannelMixture(5)(x)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, x.mean(1, keepdim=True).expand(-1, 3, -1, -1))


@METHODS
def test_it_is_trained_with_the_adapter_and_travels_with_it(method):
    network = build(method).train()
    groups = network.parameter_groups(0.01, 0.3, 0.1)  # the mixture is part of the image's way, and no prompt
    (own,) = [g for g in groups if any(p is network.mixture.weight for p in g["params"])]
    assert own["weight_decay"] == 0 and own["lr"] == 0.01
    before, x = network.mixture.weight.clone(), image(2, 4, 32, 32)
    optimizer = torch.optim.AdamW(groups)
    network(x)[:, 1:].square().mean().backward()
    assert network.mixture.weight.grad.abs().min() > 0 and network.mixture.bias.grad.any()
    optimizer.step()
    assert not torch.equal(network.mixture.weight, before)
    perturb(network)
    state = network.state_dict()
    assert {"mixture.weight", "mixture.bias"} <= state.keys()
    other = build(method)
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(other.eval()(x), network.eval()(x))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_learns_through_an_encoder_of_which_nothing_is_trained(checkpointing):
    weights = KNOWN_WEIGHTS["lite_medsam"]
    backbone = Backbone(build_tiny_vit(64, weights.stride), weights, 64, base="random")
    network = PTSAM(backbone, labels=LABELS, channel_names=NAMES, checkpointing=checkpointing, embedding_cache="unused")
    assert network.embedding_cache is None  # embeddings change with the mixture
    network.train()(image(1, 4, 64, 64))[:, 1:].square().mean().backward()
    assert network.mixture.weight.grad.any()


def test_the_record_says_names_and_order_and_other_ones_are_refused():
    network = build()
    record = identity.from_tensor(network.state_dict()["identity"])
    assert record["channel_names"] == list(NAMES)
    for other in (None, NAMES[::-1], NAMES[:3], ("a", "b", "c", "d")):
        with pytest.raises(InputError, match="made for channel_names FLAIR, T1w, T1gd, T2w; this network has") as error:
            build(names=other).load_state_dict(network.state_dict())
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="made for channel_names grey or colours"):
        build().load_state_dict(build(names=None).state_dict())


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_another_number_of_channels_is_refused(channels):
    network = build()
    for call in (network, network.encode):
        with pytest.raises(InputError, match=r"takes 4 channels \(FLAIR, T1w, T1gd, T2w\)"):
            call(image(1, channels, 32, 32))


@pytest.mark.parametrize("names", [["T1"], [], ["T1", "T1"], "T1", ["T1", ""]])
def test_names_that_are_none_are_refused(names):
    with pytest.raises(InputError, match="channel_names"):
        build(names=names)


def test_a_network_is_made_anew_from_the_file(tmp_path, monkeypatch):
    network = build()
    perturb(network)
    write_adapter(network.state_dict(), tmp_path / "model.pt")
    verify(tmp_path / "model.pt", build())
    monkeypatch.setattr("sam_monai.networks.base.build_backbone", lambda *_: tiny_backbone())
    made = load_network(tmp_path / "model.pt")
    made.amp = False
    assert made.channel_names == NAMES
    with torch.no_grad():
        torch.testing.assert_close(made.eval()(image(1, 4, 32, 32)), network.eval()(image(1, 4, 32, 32)))


def test_clicks_are_answered_on_several_channels():
    network, x = build(MedSA), image(1, 4, 40, 40)
    coords, labels = torch.tensor([[[10.0, 12.0]]]), torch.tensor([[1]])
    assert network(x, point_coords=coords, point_labels=labels).shape == (1, 2, 40, 40)


def test_it_does_not_merge_into_a_plain_sam():
    with pytest.raises(InputError, match="channels of its own"):
        build(SSAM).merged()
