"""Images and prompts of other kinds of numbers are taken as they are meant, or refused; frozen networks load too."""

from __future__ import annotations

import copy

import pytest
import torch
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import PTSAM, SSAM, InputError, MedSA
from sam_monai.networks.resemblance import resemblances

CLICK = {"point_coords": torch.tensor([[[9.0, 9.0]]]), "point_labels": torch.tensor([[1]])}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = MedSA(tiny_backbone(), labels=LABELS, amp=False).eval()
    perturb(made)
    return made


@pytest.mark.parametrize("kind", [SSAM, PTSAM, MedSA])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.uint8])
def test_an_image_of_other_numbers_is_the_same_image(kind, dtype):
    made, x = kind(tiny_backbone(), labels=LABELS, amp=False).eval(), (image(1, 1, 30, 40) > 0.5).float()
    with torch.no_grad():
        torch.testing.assert_close(made(x.to(dtype)), made(x))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
def test_clicks_and_boxes_of_other_numbers_are_the_same_prompts(network, dtype):
    x, box = image(1, 1, 30, 40), torch.tensor([[[4.0, 5.0, 20.0, 30.0]]])
    with torch.no_grad():
        given = network(x, point_coords=CLICK["point_coords"].to(dtype), point_labels=CLICK["point_labels"],
                        boxes=box.to(dtype))  # fmt: skip
        torch.testing.assert_close(given, network(x, **CLICK, boxes=box))
        clicks = {**CLICK, "point_coords": CLICK["point_coords"].to(dtype)}
        features = network.encode(x)
        torch.testing.assert_close(
            network.resemblance(x, features, **clicks), network.resemblance(x, features, **CLICK)
        )


@pytest.mark.parametrize(
    "prompts",
    [
        {"point_coords": torch.tensor([[[9.0, 9.0, 4.0]]]), "point_labels": torch.tensor([[1]])},
        {"point_coords": torch.tensor([[[9.0, -2.0, 1.0]]]), "point_labels": torch.tensor([[0]])},
        {"boxes": torch.tensor([[[4.0, 5.0, 6.0, 20.0, 30.0, 9.0]]])},
    ],
)
def test_prompts_outside_the_image_are_refused_and_not_left_out(network, prompts):
    with pytest.raises(InputError, match="lies outside the image"):
        network(image(1, 1, 30, 40, 4), **prompts)


def test_a_box_that_is_none_does_not_hide_one_that_is():
    objects, labels = image(1, 30, 40), image(1, 3, 30, 40, seed=1)
    box = torch.tensor([[[4.0, 5.0, 20.0, 30.0]]])
    padded = torch.cat([box, torch.full_like(box, torch.nan)], 1)
    one, two, none = (resemblances(objects, labels, *CLICK.values(), boxes) for boxes in (box, padded, padded[:, 1:]))
    assert torch.equal(one, two) and not torch.equal(one, none)


@pytest.mark.parametrize("kind", [SSAM, PTSAM, MedSA])
def test_a_network_whose_parameters_a_user_froze_loads_and_saves_adapters(kind):
    made = kind(tiny_backbone(), labels=LABELS, amp=False)
    perturb(made)
    state = copy.deepcopy(made.state_dict())
    made.requires_grad_(False)
    made.load_state_dict(state)
    assert made.state_dict().keys() == state.keys() and not any(p.requires_grad for p in made.parameters())


def test_one_network_takes_adapters_of_differently_prepared_images_in_turn():
    windows = [(-160, 240), (-1000, 400)]
    states = [PTSAM(tiny_backbone(), labels=LABELS, preprocessing={"ct_window": w}).state_dict() for w in windows]
    network = PTSAM(tiny_backbone(), labels=LABELS)
    for window, state in zip(windows, states, strict=True):
        network.load_state_dict(copy.deepcopy(state))
        assert tuple(network.preprocessing["ct_window"]) == window
    with pytest.raises(InputError, match="ct_window"):
        PTSAM(tiny_backbone(), labels=LABELS, preprocessing={"ct_window": windows[0]}).load_state_dict(states[1])


def test_labels_of_clicks_may_be_bytes_in_volumes_too(network):
    x, place = image(1, 1, 30, 30, 4), torch.tensor([[[9.0, 9.0, 1.0]]])
    with torch.no_grad():
        answers = [network(x, point_coords=place, point_labels=torch.ones(1, 1, dtype=kind))
                   for kind in (torch.uint8, torch.int64)]  # fmt: skip
    assert torch.equal(*answers)


def test_a_box_between_two_slices_is_on_the_nearer_one(network):
    x = image(1, 1, 64, 64, 5)

    def answer(*box):
        with torch.no_grad():
            return network(x, boxes=torch.tensor([[list(map(float, box))]]))

    assert torch.equal(answer(5, 8, 2.4, 30, 60, 2.4), answer(5, 8, 2, 30, 60, 2))
    assert not torch.equal(answer(5, 8, 2.4, 30, 60, 2.4), answer(40, 2, 2.4, 63, 20, 2.4))
    assert torch.equal(answer(5, 8, 0.6, 30, 60, 3.4), answer(5, 8, 1, 30, 60, 3))


@pytest.mark.parametrize("kind", [SSAM, PTSAM, MedSA])
def test_a_backbone_belongs_to_one_network(kind):
    """Two would train the same parts, each as its own."""
    backbone = tiny_backbone()
    first = kind(backbone, labels=LABELS, amp=False)
    with pytest.raises(InputError, match="belongs to another network.*build one for each"):
        PTSAM(backbone, labels=LABELS)
    kind(copy.deepcopy(tiny_backbone()), labels=LABELS)
    assert copy.deepcopy(first).backbone is not first.backbone


def test_s_sam_warns_where_it_is_trained_without_names(caplog):
    """Its labels could never differ."""
    network = SSAM(tiny_backbone(), default_labels=LABELS, amp=False)
    network.eval()(image(1, 1, 30, 30))
    assert not caplog.text
    network.train()(image(1, 1, 30, 30))
    assert "trained without names, so all labels are answered alike" in caplog.text


def test_kept_embeddings_of_images_in_bfloat16(tmp_path):
    x, made = image(1, 1, 30, 30).bfloat16(), []
    for cache in (None, tmp_path):
        torch.manual_seed(0)
        made.append(PTSAM(tiny_backbone(), labels=LABELS, amp=False, embedding_cache=cache).eval())
    made[1].backbone.base = "known"  # what is random is not kept
    with torch.no_grad():
        assert torch.equal(*(network(x) for network in made))
    assert any(tmp_path.iterdir())
