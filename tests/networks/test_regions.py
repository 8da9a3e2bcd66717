"""Labels that are regions: what may be one, and how logits become a label map that holds the same regions."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from network_tester import tiny_backbone

from sam_monai import PTSAM, MedSA
from sam_monai.errors import InputError
from sam_monai.networks import identity
from sam_monai.networks.regions import label_map_of, masks_of, overlap, wrong_order, wrong_with

LABELS = ("a", "b", "c")
BRATS = [[2, 1, 3], [1, 3], [3]]  # whole tumour, core, enhancing, with the oedema's value 2
APART = [[3, 1], [2]]


@pytest.mark.parametrize("regions", [BRATS, APART, [[1, 3], [2, 3], [3]], [[2], [1]]])
def test_a_label_map_made_of_a_maps_regions_holds_the_same_regions(regions):
    rng = np.random.default_rng(0)
    label = torch.as_tensor(rng.integers(0, max(map(max, regions)) + 1, (2, 1, 6, 5, 4)))
    masks = masks_of(label, len(regions), regions, 1)
    for i, region in enumerate(regions):
        assert np.array_equal(masks[:, i], np.isin(label[:, 0], region))
    logits = torch.cat([torch.zeros(label.shape), torch.where(masks, 1.5, -2.0)], 1)
    found = label_map_of(logits, regions, 1)
    assert found.dtype == torch.int16 and torch.equal(masks_of(found, len(regions), regions, 1), masks)


def test_overlapping_regions_are_painted_as_nnunet_paints_them():
    logits = torch.randn(4, 9, 9, generator=torch.Generator().manual_seed(0))
    painted = np.zeros((9, 9))
    for one, value in zip(logits[1:].sigmoid(), (2, 1, 3), strict=True):
        painted[one > 0.5] = value
    assert np.array_equal(label_map_of(logits, BRATS)[0], painted)
    assert overlap(BRATS) and not overlap(APART)
    plain = label_map_of(logits)[0]
    assert np.array_equal(plain, logits.argmax(0))
    assert np.array_equal(label_map_of(logits[:3], APART)[0], np.array([0, 3, 2])[logits[:3].argmax(0)])


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ([], "no list of values"),
        ([[1, 2], []], "'b' is no list"),
        ([[1, 2], 2], "'b' is no list"),
        ([[1, [2]], [2]], r"'a' holds \[2\]"),
        ([[1, True], [2]], "'a' holds True"),
        ([[1, 2.0], [2]], "'a' holds 2.0"),
        ([[1, 0], [2]], "'a' holds 0, which is the background's"),
        ([[1, -1], [2]], "'a' holds -1"),
        ([[1, 2, 10**6], [2]], "'a' holds 1000000"),
        ([[1, 2, 1], [2]], "'a' holds 1 twice"),
        ([[1, 2, 4], [2]], "values 1, 2, 4, .* without a gap"),
        ([[1, 2], [2, 1]], "'a' and 'b' are the same values"),
    ],
)
def test_what_no_label_map_can_hold_are_no_regions(regions, said):
    wrong = wrong_with(regions, ["a", "b"][: len(regions)])
    assert re.search(said, wrong), wrong


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ([[1], [1, 2]], "value 2 is 'b', and a mask would hold 1 there"),
        ([[2, 1], [2]], "value 1 is 'a', and a mask would hold 2 there"),
        ([[1, 2], [2, 3]], "value 3 is 'b', and a mask would hold 2 there"),
        ([[1, 2], [3, 2]], "value 2 is 'a' and 'b', and a mask would hold 3 there"),
    ],
)
def test_masks_by_the_order_alone_would_hold_other_regions_and_ours_do_not(regions, said):
    assert not wrong_with(regions) and re.search(said, wrong_order(regions, ["a", "b"]))
    values = torch.tensor([[*{value: 0 for region in regions for value in region}]])
    held = masks_of(values, 2, regions)
    again = label_map_of(torch.cat([torch.zeros(1, values.shape[1]), held.float() - 0.5]), regions)
    assert torch.equal(masks_of(again, 2, regions), held)


def test_an_adapter_keeps_its_regions_and_is_refused_where_others_are_meant():
    def made(regions, **others):
        return PTSAM(tiny_backbone(), labels=LABELS, preprocessing={"regions": regions}, **others)

    adapter = made(BRATS).state_dict()
    assert identity.from_tensor(adapter["identity"])["preprocessing"]["regions"] == BRATS
    for other in (made(None), made([[1, 2, 3], [2, 3], [3]])):
        with pytest.raises(InputError, match="labels with the values .*, and here they have"):
            other.load_state_dict(adapter)
    with pytest.raises(InputError, match="labels with one value each, and here they have the values"):
        made(BRATS).load_state_dict(PTSAM(tiny_backbone(), labels=LABELS).state_dict())
    loaded = PTSAM(tiny_backbone())
    loaded.load_state_dict(adapter)
    assert loaded.regions == BRATS and loaded.labels == LABELS
    with pytest.raises(InputError, match="3 labels and 2 regions"):
        made([[1, 2], [2]])


def test_a_network_that_answers_prompts_takes_no_regions():
    with pytest.raises(InputError, match="Med-SA answers prompts for labels of one value each"):
        MedSA(tiny_backbone(), labels=["a", "b"], preprocessing={"regions": [[1, 2], [2]]})
