"""An object's answer is a function of the list of its prompts; clicks refine it, and it is followed through volumes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from monai.inferers import SimpleInferer
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import MedSA
from sam_monai.networks.click_tokens import in_part
from sam_monai.networks.resemblance import margins, resemblances
from sam_monai.prompts.answering import CARRIED, answered, numbered, stages
from sam_monai.prompts.following import answered_without, compared, follow, label_margin
from sam_monai.prompts.prompted_inference import PromptedInference


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = MedSA(tiny_backbone(), labels=LABELS, amp=False).eval()
    perturb(network)
    return network


class Bright:
    """Answers a box by what is bright inside of it, a click by the square about it, and a mask by what is bright in it
    and a voxel around. Where it is ``sure``, all that is bright is its label's."""

    labels = ("bright",)

    def __init__(self, mask_prompts, sure=False):
        self.mask_prompts, self.asked, self.sure = mask_prompts, [], sure

    def __call__(self, image, embedding=None, point_coords=None, point_labels=None, boxes=None, automatic=None,
                 part=(0, 0), resemblance=None, masks=None):  # fmt: skip
        if point_coords is None and boxes is None and masks is None:
            mask = torch.where((image > 0.5) & self.sure, 5.0, -5.0)
            return torch.cat([torch.zeros_like(mask), mask], 1)
        self.asked.append({"clicks": None if point_labels is None else int((point_labels != -1).sum()), "masks": masks})
        inside = torch.zeros_like(image, dtype=torch.bool)
        if masks is not None:
            known = torch.nn.functional.max_pool2d((masks[0].movedim(3, 1) > 0).float(), 3, 1, 1)
            inside |= known.movedim(1, 3)[None] > 0
        if boxes is not None:
            i0, j0, k0, i1, j1, k1 = boxes[0, 0].int().tolist()
            inside[..., i0 - 1 : i1 + 2, j0 - 1 : j1 + 2, k0 : k1 + 1] = True
        elif point_coords is not None:
            for (i, j, k), label in zip(point_coords[0].int().tolist(), point_labels[0].tolist(), strict=True):
                if label == 1 and 0 <= k - part[0] < image.shape[4]:
                    inside[..., i - 2 : i + 3, j - 2 : j + 3, k - part[0]] = True
        mask = torch.where(inside & (image > 0.5), 5.0, -5.0)
        return torch.cat([torch.zeros_like(mask), mask], 1)

    def resemblance(self, image, embedding, point_coords, point_labels, part, automatic):
        objects = self(image, embedding, point_coords, point_labels, part=part)[:, 1]
        return resemblances(objects, automatic, in_part(point_coords, part), point_labels, None)

    def encode(self, image):
        return image


def bar():
    """A bright bar that moves by a voxel a slice, from slice 2 to 6, and another one that is never touched."""
    volume = torch.zeros(1, 1, 20, 20, 9)
    for k in range(2, 7):
        volume[..., 6 + k - 2 : 9 + k - 2, 8:11, k] = 1
    mask = volume > 0.5
    volume[..., 1:3, 1:3, :] = 1
    return volume, mask[0, 0]


@pytest.mark.parametrize("mask_prompts", [True, False])
def test_an_object_is_followed_through_the_slices_and_ends_where_it_ends(mask_prompts):
    volume, mask = bar()
    prompts = {"point_coords": torch.tensor([[[9.0, 9.0, 4.0], [18.0, 18, 3]]]), "point_labels": torch.tensor([[1, 0]])}
    network = Bright(mask_prompts)
    logits = torch.where(mask, 5.0, -5.0)
    logits[..., [k for k in range(9) if k != 4]] = 3.0  # to be answered anew
    follow(network, volume, volume, network(volume), logits, {4}, prompts, None)
    assert torch.equal(logits > 0, mask) and logits[18, 18, 3] <= -1  # the negative click, in its slice


@pytest.mark.parametrize("large", [True, False])
def test_an_object_that_is_a_label_has_the_labels_answer_but_not_that_of_others_of_its_kind(large):
    volume, mask = bar()
    network = Bright(True, sure=True)
    automatic = None if large else network(volume)
    click = {"point_coords": torch.tensor([[[9.0, 9.0, 4.0]]]), "point_labels": torch.tensor([[1]])}
    logits = torch.where(mask, 5.0, -5.0)
    logits[8, 9, 4] = -5.0  # what the prompt says of its own slice counts there
    expected = logits > 0
    logits[..., [k for k in range(9) if k != 4]] = 3.0
    known = partial(answered_without, network, volume, volume, automatic)
    margin = label_margin(known, logits, [4], click, None)
    follow(network, volume, volume, automatic, logits, {4}, click, margin)
    assert torch.equal(logits > 0, expected) and not network.asked  # no slice was asked for by a box


@pytest.mark.parametrize("wrong", [True, False])
def test_a_click_in_a_further_slice_refines_the_labels_own_answer_where_that_is_wrong(wrong):
    volume, mask = bar()
    network = Bright(True, sure=True)
    automatic = network(volume)
    if wrong:
        automatic[:, 1, 8:, :, 5] = -5.0  # the label lacks a part of the object in slice 5
    clicks = torch.tensor([[[9.0, 9.0, 4.0], [10.0, 9.0, 5.0]]])
    prompts = {"point_coords": clicks, "point_labels": torch.tensor([[1, 1]])}
    answer = answered(network, volume, volume, automatic, prompts)
    masks = [call["masks"] for call in network.asked if call["masks"] is not None]
    assert len(masks) == wrong and not any((given[..., :3, :3, :] > 0).any() for given in masks)
    assert answer[10, 9, 5] > 0 and torch.equal(answer[..., 6] > 0, mask[..., 6])


def test_several_prompted_slices_are_compared_with_the_labels_together(network, monkeypatch):
    x, numbers = image(1, 1, 24, 20, 5), []
    prompts = {"point_coords": torch.tensor([[[9.0, 9, 2], [4, 5, 3]]]), "point_labels": torch.tensor([[1, 1]])}
    guided = network.guided
    monkeypatch.setattr(network, "guided", lambda *args: numbers.append(args[2]) or guided(*args))
    with torch.no_grad():
        embedding, automatic = network.encode(x), network(x)
        answered(network, x, embedding, automatic, prompts)
        known = lambda here: automatic[..., here]  # noqa: E731
        one, other = (compared(network, x, embedding, known, prompts, [slice(k, k + 1)]) for k in (2, 3))
        both = compared(network, x, embedding, known, prompts, [slice(2, 3), slice(3, 4)])
    torch.testing.assert_close(both[..., :3], (one + other)[..., :3])
    assert all(torch.equal(each, both) for each in numbers[:2])


def test_a_negative_click_beyond_the_prompted_slice_is_obeyed_where_the_label_answers(network, monkeypatch):
    x = image(1, 1, 24, 20, 5)
    with torch.no_grad():
        embedding, automatic = network.encode(x), network(x)
        positive = {"point_coords": torch.tensor([[[9.0, 9, 2]]]), "point_labels": torch.tensor([[1]])}
        before = answered(network, x, embedding, automatic, positive)
        held = (before[..., 3] > 0).nonzero()
        assert len(held)
        beside = torch.tensor([[[9.0, 9, 2], [*held[0].tolist(), 3]]])
        after = answered(
            network, x, embedding, automatic, {"point_coords": beside, "point_labels": torch.tensor([[1, 0]])}
        )
    assert after[..., 3][tuple(held[0])] < 0 and torch.equal(after[..., 4], before[..., 4])


@pytest.mark.parametrize("large", [True, False])
def test_negative_clicks_on_a_named_label_take_away_what_is_wrong_and_leave_the_other_slices(network, large):
    x, label = image(1, 1, 24, 20, 5), 1
    with torch.no_grad():
        embedding, automatic = network.encode(x), network(x)
        own = margins(automatic)[0, label]
        held = (own[..., 3] > 0).nonzero()
        click = {"point_coords": torch.tensor([[[*held[0].tolist(), 3]]]).float(), "point_labels": torch.tensor([[0]])}
        found = answered(network, x, embedding, None if large else automatic, click, LABELS[label])
    assert found[..., 3][tuple(held[0])] < 0
    others = [k for k in range(5) if k != 3]
    torch.testing.assert_close(found[..., others], own[..., others], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 5)])
@pytest.mark.parametrize("box", [True, False])
def test_any_order_of_undo_and_redo_gives_the_same_mask(network, shape, box):
    coords = torch.tensor([[[9.0, 9, 2], [14, 11, 2], [20, 3, 2], [5, 17, 1], [12, 12, 2]]])[..., : len(shape)]
    labels = torch.tensor([[1, 0, 1, 1, 0]])
    corners = torch.tensor([[[4.0, 4, 1, 18, 16, 3]]])[..., [a for a in range(6) if a % 3 < len(shape)]]
    x, fixed = image(1, 1, *shape), {"boxes": corners} if box else {}

    def ask(inferer, count):
        with torch.no_grad():
            return inferer(x, network, point_coords=coords[:, :count], point_labels=labels[:, :count], **fixed)

    expected = {count: ask(PromptedInference(SimpleInferer()), count) for count in (1, 2, 3, 5)}
    inferer = PromptedInference(SimpleInferer())
    for count in (1, 2, 3, 2, 1, 5, 3, 5, 2):
        assert torch.equal(ask(inferer, count), expected[count])
    assert not torch.equal(expected[1], expected[2]) and not torch.equal(expected[3], expected[5])


def test_a_click_refines_the_answer_to_those_before_it(network, monkeypatch):
    """The mask prompt of three clicks is the answer to two, whose own is that to one, whose own is that to the box."""
    x = image(1, 1, 30, 30)
    coords, labels = torch.tensor([[[9.0, 9.0], [20.0, 4.0], [15.0, 25.0]]]), torch.tensor([[1, 0, 1]])
    box = torch.tensor([[[4.0, 4.0, 20.0, 20.0]]])
    with torch.no_grad():
        embedding, automatic = network.encode(x), network(x)
        expected = network(x, embedding, automatic=automatic, boxes=box)
        for count in (1, 2, 3):
            clicks = {"point_coords": coords[:, :count], "point_labels": labels[:, :count]}
            expected = network(x, embedding, automatic=automatic, boxes=box, masks=expected[:, 1:], **clicks)
        prompts = {"point_coords": coords, "point_labels": labels, "boxes": box}
        found = answered(network, x, embedding, automatic, prompts)
        plain = network(x, embedding, automatic=automatic, **prompts)[0, 1]
    torch.testing.assert_close(found, expected[0, 1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, plain, atol=1e-2)


@pytest.mark.parametrize(
    ("labels", "alone", "shown"),
    [([1], False, [1]), ([1], True, [0, 1]), ([1, 0, 1, -1], False, [1, 2, 4]), ([-1], False, [0]), ([-1], True, [0]),
     ([1] * 1000, False, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])],
)  # fmt: skip
def test_many_clicks_cost_a_few_answers(network, labels, alone, shown):
    prompts = {"point_coords": torch.zeros(1, len(labels), 2), "point_labels": torch.tensor([labels])}
    assert stages(network, numbered(prompts), alone) == shown


def test_clicks_of_a_slice_refine_it_and_less_and_less_of_that_is_carried_on(network):
    volume, k = image(1, 1, 24, 20, 9), 2
    box = torch.tensor([[[4.0, 4, 0, 18, 16, 8]]])
    coords, labels = torch.tensor([[[9.0, 9, k], [12, 6, k], [8, 8, 6]]]), torch.tensor([[0, 1, 1]])
    prompts = {"boxes": box, "point_coords": coords, "point_labels": labels}
    with torch.no_grad():
        embedding, automatic = network.encode(volume), network(volume)
        found = answered(network, volume, embedding, automatic, prompts)
        plain = network(volume, embedding, automatic=automatic, **prompts)[0, 1]
        masks = None
        for shown in ([-1, -1, 1], [0, -1, 1], [0, 1, 1]):
            given = {**prompts, "point_labels": torch.tensor([shown])} | ({} if masks is None else {"masks": masks})
            here = {"automatic": automatic[..., k : k + 1], "part": (k, 9)}
            masks = network(volume[..., k : k + 1], embedding[..., k : k + 1], **here, **given)[:, 1:]
    torch.testing.assert_close(found[..., k], masks[0, 0, ..., 0], rtol=1e-3, atol=1e-3)
    changes = found - plain
    below, above = changes[..., k - 1] / CARRIED, changes[..., 7] / CARRIED
    assert below.abs().max() > 0.1 and above.abs().max() > 0.1
    for slice_, parts in ((0, (2, None)), (3, (1, 3)), (4, (2, 2)), (5, (3, 1)), (8, (None, 2))):
        each = [CARRIED**d * x for d, x in zip(parts, (below, above), strict=True) if d is not None]
        torch.testing.assert_close(changes[..., slice_], sum(each), rtol=1e-3, atol=1e-3)


def test_a_network_without_mask_prompts_answers_all_prompts_at_once(network, monkeypatch):
    monkeypatch.setattr(network, "mask_prompts", False)
    x, box = image(1, 1, 30, 30), torch.tensor([[[4.0, 4.0, 20.0, 20.0]]])
    prompts = {"boxes": box, "point_coords": torch.tensor([[[9.0, 9.0]]]), "point_labels": torch.tensor([[0]])}
    with torch.no_grad():
        embedding, automatic = network.encode(x), network(x)
        plain = network(x, embedding, automatic=automatic, **prompts)[0, 1]
        assert torch.equal(answered(network, x, embedding, automatic, prompts), plain)
