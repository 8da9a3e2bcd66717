"""Masks as prompts: what SAM says to them, which layers are trained, and adapters from before there were any."""

from __future__ import annotations

import json

import pytest
import torch
from monai.inferers import SimpleInferer
from monai.networks.utils import copy_model_state
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import InputError, MedSA
from sam_monai.networks import identity
from sam_monai.networks.click_tokens import to_low_resolution
from sam_monai.prompts.prompted_inference import PromptedInference

CLICKS = {"point_coords": torch.tensor([[[10.0, 40.0], [50.0, 3.0]]]), "point_labels": torch.tensor([[1, 0]])}


def build(**others):
    torch.manual_seed(0)
    return MedSA(tiny_backbone(), labels=LABELS, **{"amp": False} | others)


def sam_answer(sam, x, masks, points):
    sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=masks)
    answer, _ = sam.mask_decoder(
        image_embeddings=sam.encode(x),
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return torch.nn.functional.interpolate(answer, (64, 64), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("clicks", [None, CLICKS])
def test_untrained_it_answers_a_mask_as_segment_anything_does(clicks):
    sam, x = tiny_backbone(), image(1, 3, 64, 64)
    low = 4 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = low.repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        low = to_low_resolution(masks, sam)[:, None]
        points = None if clicks is None else (clicks["point_coords"].flip(2), clicks["point_labels"])
        ours, theirs = build()(x, masks=masks, **clicks or {}), sam_answer(sam, x, low, points)
    torch.testing.assert_close(ours[:, 1:], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 4)])
def test_an_objects_answer_does_not_depend_on_the_masks_of_others(shape):
    network = build().eval()
    perturb(network)
    coords = torch.tensor([[[9.0, 9, 1]], [[0.0, 0, 0]], [[12.0, 33, 0]]])[..., : len(shape)]
    labels = torch.tensor([[1], [-1], [1]])
    masks = 3 * torch.randn(3, 1, *shape, generator=torch.Generator().manual_seed(0))
    masks[2] = torch.nan  # none
    if len(shape) == 3:
        masks[1, ..., 2] = torch.nan
    alone = [
        {"point_coords": coords[:1], "point_labels": labels[:1], "masks": masks[:1]},
        {"masks": masks[1:2]},
        {"point_coords": coords[2:], "point_labels": labels[2:]},
    ]
    x = image(1, 1, *shape)
    with torch.no_grad():
        together = network(x, point_coords=coords, point_labels=labels, masks=masks)
        for i, own in enumerate(alone):
            torch.testing.assert_close(together[i : i + 1], network(x, **own), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(together[1:2], network(x, masks=-masks[1:2]), atol=1e-2)


def test_padding_of_the_square_is_certainly_not_the_object():
    low = to_low_resolution(torch.full((1, 1, 64, 32), 5.0), tiny_backbone())
    assert low.shape == (1, 16, 16) and (low[..., :8] == 5).all() and (low[..., 8:] == -8).all()


def test_an_adapter_from_before_masks_loads_into_a_network_that_takes_them():
    old = build(mask_prompts=False)
    perturb(old)
    state = old.state_dict()
    record = identity.from_tensor(state["identity"])
    del record["mask_prompts"]
    data = json.dumps(record).encode().ljust(identity.LENGTH)
    state["identity"] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    assert not any("mask_downscaling" in name for name in state)
    network, x = build(), image(1, 1, 64, 64)
    network.load_state_dict(state)
    assert not network.mask_prompts and network.state_dict().keys() == state.keys()
    with torch.no_grad():
        torch.testing.assert_close(network(x, **CLICKS), old(x, **CLICKS))


def test_an_adapter_for_the_labels_alone_says_so_and_refuses_prompts():
    trained, network, x = build(prompted=False), build(), image(1, 1, 64, 64)
    perturb(trained)
    network.load_state_dict(trained.state_dict())
    assert network.state_dict().keys() == trained.state_dict().keys()
    assert not any("prompt_encoder" in name for name in trained.state_dict())
    with torch.no_grad():
        assert torch.equal(network(x), trained(x))
    for prompts in (CLICKS, {"masks": image(1, 1, 64, 64) - 0.5}, {"boxes": torch.tensor([[[3.0, 4.0, 20.0, 22.0]]])}):
        with pytest.raises(InputError, match="for its labels alone"):
            network(x, **prompts)
        with pytest.raises(InputError, match="for its labels alone"):
            PromptedInference(SimpleInferer())(x, network, **prompts)


def test_trained_layers_of_masks_travel_in_the_adapter():
    trained = build()
    perturb(trained)
    network, x, masks = build(mask_prompts=False), image(1, 1, 40, 40), image(1, 1, 40, 40, seed=1)
    network.load_state_dict(trained.state_dict())
    assert network.mask_prompts
    with torch.no_grad():
        assert torch.equal(network(x, masks=masks), trained(x, masks=masks))


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (torch.zeros(1, 1, 8, 8), r"\(B, 1, 40, 40\)"),
        (torch.zeros(1, 40, 40), r"\(B, 1, 40, 40\)"),
        (torch.zeros(2, 1, 40, 40), "do not fit 1 images|objects"),
        (torch.full((1, 1, 40, 40), torch.inf), "infinite"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, said):
    prompts = CLICKS if len(masks) == 2 else {}
    with pytest.raises(InputError, match=said):
        build()(image(1, 1, 40, 40), masks=masks, **prompts)


def test_what_an_adapter_trained_is_gone_where_the_next_one_did_not_train_it():
    """A network that loads adapters in turn answers masks as one that has loaded the last alone."""
    first, second = build(), build(mask_prompts=False)
    perturb(first)
    perturb(second)
    used, fresh = build().eval(), build().eval()
    used.load_state_dict(first.state_dict())
    for network in (used, fresh):
        network.load_state_dict(second.state_dict())
    x, mask = image(1, 1, 40, 40), 4 * image(1, 1, 40, 40, seed=1) - 2
    with torch.no_grad():
        assert torch.equal(used(x, masks=mask), fresh(x, masks=mask))
        used.load_state_dict(first.state_dict())
        assert torch.equal(used(x, masks=mask), first.eval()(x, masks=mask))


def test_monai_loads_an_adapter_for_the_labels_alone_into_a_network_that_takes_prompts():
    """Its :func:`load` fills the state up with what the network had, and loads all of it."""
    trained, network, x = build(prompted=False), build(), image(1, 1, 64, 64)
    perturb(trained)
    copy_model_state(network, trained.state_dict())
    assert not network.prompted and network.state_dict().keys() == trained.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(network(x), trained(x))
    more = trained.state_dict() | {"backbone.prompt_encoder.point_embeddings.0.weight": torch.rand(1, 32)}
    with pytest.raises(InputError, match="has what no such adapter has"):
        build().load_state_dict(more)
