"""A prompted object learns from the labels' answers, and every click is obeyed."""

from __future__ import annotations

import pytest
import torch
from network_tester import LABELS, image, tiny_backbone

from sam_monai import MedSA
from sam_monai.networks.guidance import obey_clicks
from sam_monai.networks.resemblance import likeness, resemblances


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MedSA(tiny_backbone(), labels=LABELS, amp=False)


def test_a_prompted_object_learns_from_the_label_that_it_resembles_and_from_no_other(network):
    network.label_gains.data.fill_(2.0)
    label = torch.full((1, 3, 8, 8), -6.0)
    label[:, 0] = 0
    label[:, 1, 2:6, 2:6] = label[:, 2, 6:, 6:] = 6.0
    rough = torch.full((2, 8, 8), -3.0)
    rough[0, 2:6, 2:5] = 1.0  # label 1 without a column
    rough[1, 0:2, 0:2] = 4.0  # no label
    with torch.no_grad():
        mended, alone = network.guided(rough, label, resemblances(rough, label, None, None, None))
        assert torch.equal(mended > 0, label[0, 1] > 0)
        assert torch.equal(alone > 0, rough[1] > 0)
        twice = rough[:1].repeat(2, 1, 1), label.repeat(2, 1, 1, 1)
        again = network.guided(*twice, resemblances(*twice, None, None, None))
    torch.testing.assert_close(again, mended.repeat(2, 1, 1))


@pytest.mark.parametrize("on, label", [((4.0, 2.0), 1), ((4.0, 9.0), 2)])
def test_a_click_says_which_label_is_meant(network, on, label):
    """Where the prompted answer itself is as much like the one as like the other."""
    network.label_gains.data.fill_(1.0)
    automatic = torch.full((1, 3, 8, 12), -4.0)
    automatic[:, 0], automatic[:, 1, :, :6], automatic[:, 2, :, 6:] = 0.0, 4.0, 4.0
    unsure = torch.full((1, 8, 12), -0.5)
    other = (4.0, 9.0) if label == 1 else (4.0, 2.0)
    for clicks, values in ([on], [1]), ([on, other, other], [1, 0, -1]):
        prompts = torch.tensor([clicks]), torch.tensor([values])
        alike = resemblances(unsure, automatic, *prompts, None)
        answer = network.guided(unsure, automatic, alike, *prompts)[0]
        halves = answer[:, :6].mean(), answer[:, 6:].mean()
        assert halves[label - 1] > 0 > halves[2 - label]


def test_a_correcting_click_in_another_label_leaves_the_object_the_label_of_the_first_click():
    automatic = torch.full((1, 3, 8, 12), -4.0)
    automatic[:, 0], automatic[:, 1, :, :6], automatic[:, 2, :, 6:] = 0.0, 4.0, 4.0
    unsure, clicks = torch.full((1, 8, 12), -0.5), torch.tensor([[[0.0, 0.0], [4.0, 2.0], [4.0, 9.0]]])
    one, two = (resemblances(unsure, automatic, clicks, torch.tensor([v]), None) for v in ([-1, 1, 0], [-1, 1, 1]))
    assert torch.equal(one, two) and likeness(two)[0, 0] > 1.5 * likeness(two)[0, 1]


def test_in_a_volume_the_first_click_of_each_slice_says_what_is_meant_there():
    automatic = torch.full((1, 3, 8, 12, 3), -4.0)
    automatic[:, 0], automatic[:, 1, :, :6], automatic[:, 2, :, 6:] = 0.0, 4.0, 4.0
    clicks = torch.tensor([[[4.0, 2.0, 0.0], [4.0, 9.0, 1.0], [4.0, 9.0, 0.0], [4.0, 2.0, 1.0]]])
    sums = resemblances(torch.full((1, 8, 12, 3), -0.5), automatic, clicks, torch.tensor([[1, 1, 1, 1]]), None)
    assert (sums[0, :, 4] == 2).all() and torch.allclose(sums[0, 0, 3], sums[0, 1, 3])  # one for each label
    alone = [resemblances(torch.full((1, 8, 12, 1), -0.5), automatic[..., k : k + 1],
                          clicks - torch.tensor([0, 0, k]), torch.tensor([[1, 1, 1, 1]]), None)
             for k in range(3)]  # fmt: skip
    torch.testing.assert_close(sum(alone), sums)  # a slice by itself knows its own first click
    assert likeness(alone[0])[0].argmax() == 0 and likeness(alone[1])[0].argmax() == 1


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 7)])
def test_a_correction_counts_where_it_was_made_against_the_labels_answer(network, shape):
    network.label_gains.data.fill_(1.0)
    network.click_gains.data.fill_(30.0)
    automatic = torch.stack([torch.zeros(shape), torch.full(shape, 4.0), torch.full(shape, -4.0)])[None]
    coords = torch.tensor([[[5.0, 6, 1], [15.0, 18, 5], [10.0, 12, 3]]])[..., : len(shape)]
    labels = torch.tensor([[1, 0, -1]])
    before = torch.stack([torch.full(shape, -20.0), torch.full(shape, 6.0)])
    for sign, start in zip((1, -1), before.split(1), strict=True):
        alike = resemblances(start, automatic, None, None, None)
        plain = network.guided(start, automatic, alike)[0]
        answer = network.guided(start, automatic, alike, coords, labels)[0]
        on, beside, padding = coords[0].long()
        assert answer[tuple(on)] > 0 > answer[tuple(beside)]
        changed = (answer - plain).abs() > 1e-3
        assert changed[tuple(on if sign == 1 else beside)] and not changed[tuple(padding)] and not changed[..., 0].all()


@pytest.mark.parametrize("shape", [(40, 36), (40, 36, 5)])
@pytest.mark.parametrize("logit", [-9.0, 9.0])
def test_every_click_is_obeyed_and_what_is_far_from_it_stays(shape, logit):
    coords = torch.tensor([[[5.0, 6, 1], [15.0, 30, 1], [30.2, 4.6, 3], [8.0, 20, 2], [50.0, 3, 2]]])[..., : len(shape)]
    labels = torch.tensor([[1, 0, 1, -1, 0]])  # the fourth is padding, the last lies outside
    before = torch.full((1, *shape), logit)
    after = obey_clicks(before, coords, labels)[0]
    on, beside, other, padding, _ = coords[0].round().long()
    assert after[tuple(on)] > 0 and after[tuple(other)] > 0 > after[tuple(beside)]
    changed = (after - logit).abs() > 1e-3
    assert not changed[tuple(padding)] and changed.sum() < 100 and not changed[0, 0].any() and not changed[-1, -1].any()
    if len(shape) == 3:
        assert not changed[..., [0, 2, 4]].any()


def test_an_untrained_network_obeys_its_clicks(network):
    x = image(1, 1, 32, 32)
    coords = torch.tensor([[[5.0, 9.0], [20.0, 30.0]]])
    for labels in ([1, 0], [0, 1]):
        object_ = network.eval()(x, point_coords=coords, point_labels=torch.tensor([labels]))[0, 1] > 0
        assert [int(object_[5, 9]), int(object_[20, 30])] == labels


def test_the_answer_without_a_prompt_may_be_given_and_gets_no_gradient(network):
    network.label_gains.data.fill_(1.0)
    x, prompts = image(1, 1, 30, 30), {"boxes": torch.tensor([[[4.0, 5.0, 20.0, 21.0]]])}
    embedding, calls = network.encode(x), []
    automatic = network(x, embedding)
    network.backbone.mask_decoder.transformer.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    given = network(x, embedding, automatic=automatic, **prompts)
    assert len(calls) == 1
    torch.testing.assert_close(given, network(x, embedding, **prompts))
    network.zero_grad()
    given.sum().backward()
    assert network.label_tokens.grad is None or not network.label_tokens.grad.any()
    assert network.label_gains.grad.any()


@pytest.mark.parametrize("side", [16, 64, 512])
@pytest.mark.parametrize("clicks", [2, 6, 25])
def test_clicks_that_contradict_each_other_are_each_obeyed(side, clicks):
    rng = torch.Generator().manual_seed(side + clicks)
    for _ in range(30):
        reach = min(side, 2 + int(torch.randint(side, (), generator=rng)))  # near each other, and far
        coords = torch.randint(reach, (2, clicks, 2), generator=rng).float() + (side - reach) // 2
        labels = torch.randint(2, (2, clicks), generator=rng)
        before = 10 * torch.randn(2, side, side, generator=rng)
        after = obey_clicks(before, coords, labels)
        for object_, places, values in zip(after, coords.long(), labels, strict=True):
            last = {tuple(place.tolist()): int(value) for place, value in zip(places, values, strict=True)}
            for place, value in last.items():
                assert (object_[place] > 0.5) == (value == 1), (place, value, object_[place])
        assert after.abs().max() < 10 * before.abs().max()


def test_opposite_clicks_12_px_apart_at_512_px_and_on_neighbouring_slices():
    coords, labels = torch.tensor([[[200.0, 200.0], [200.0, 212.0]]]), torch.tensor([[1, 0]])
    for logit in (-15.0, 15.0):
        after = obey_clicks(torch.full((1, 512, 512), logit), coords, labels)[0]
        assert after[200, 200] >= 0.99 and after[200, 212] <= -0.99
    deep = torch.cat([coords, torch.tensor([[[3.0], [4.0]]])], 2)
    after = obey_clicks(torch.full((1, 512, 512, 6), -15.0), deep, labels)[0]
    assert after[200, 200, 3] >= 0.99 and after[200, 212, 4] <= -0.99 and (after[..., 5] == -15).all()
