"""Prompts drawn from the truth say nothing that is not in it, and corrections say what the prediction lacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from sam_monai.prompts.drawn import KINDS, corrective_click, draw_box, draw_clicks, draw_prompts, pick_object

# Pictures, volumes, a volume of one slice, and a prime number of slices; sides that no axis shares.
SHAPES = [(37, 50), (37, 50, 7), (37, 50, 1), (24, 20, 13)]
SEEDS = range(8)


def blobs(shape, seed, batch=3):
    """Objects of several parts and any outline (B, 1, *shape), the last entry empty, every third slice without."""
    noise = ndimage.gaussian_filter(
        np.random.default_rng(seed).normal(size=(batch, *shape)), (0, 3, 3, 1)[: len(shape) + 1]
    )
    mask = noise > np.quantile(noise, 0.8)
    if len(shape) == 3:
        mask[..., 1::3] = False
    mask[-1] = False
    return torch.from_numpy(mask)[:, None]


def rectangles(lower, upper, shape):
    mask = torch.zeros(1, 1, *shape, dtype=torch.bool)
    mask[(0, 0, *map(slice, lower, upper))] = True
    return mask


def clicks_of(prompts, entry):
    """Voxels and labels of an entry's clicks, padding left out; padding is checked."""
    coords, labels = prompts["point_coords"][entry], prompts["point_labels"][entry]
    assert coords.dtype == torch.float32 and labels.dtype == torch.int64 and len(coords) == len(labels) > 0
    assert not coords[labels == -1].any()
    voxels = coords[labels >= 0]
    assert torch.equal(voxels, voxels.round())
    return [tuple(voxel) for voxel in voxels.int().tolist()], labels[labels >= 0].tolist()


def box_mask(box, shape):
    """The voxels in a box, counted by hand."""
    corners = box.int().tolist()
    dims = len(shape)
    assert all(0 <= a <= b < n for a, b, n in zip(corners[:dims], corners[dims:], shape, strict=True))
    return rectangles(corners[:dims], [b + 1 for b in corners[dims:]], shape)[0, 0]


def overlap_of(box, mask):
    tight = draw_box(mask, np.random.default_rng(0), 1.0)["boxes"][0, 0]
    a, b = box_mask(box, mask.shape[2:]), box_mask(tight, mask.shape[2:])
    return ((a & b).sum() / (a | b).sum()).item()


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key], equal_nan=True) for key in a)


# -- clicks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("clicks", [1, 3])
def test_clicks_lie_inside_the_object_apart_and_as_many_as_asked(shape, clicks):
    for seed in SEEDS:
        mask = blobs(shape, seed)
        prompts = draw_clicks(mask, np.random.default_rng(seed), clicks)
        for entry in range(len(mask)):
            voxels, labels = clicks_of(prompts, entry)
            assert set(labels) <= {1} and len(set(voxels)) == len(voxels)
            assert all(mask[(entry, 0, *voxel)] for voxel in voxels)
            slices = mask[entry, 0].reshape(*shape[:2], -1)
            on_slice = np.bincount([voxel[2] if len(shape) == 3 else 0 for voxel in voxels], minlength=slices.shape[2])
            assert on_slice.tolist() == slices.sum((0, 1)).clamp(max=clicks).tolist()


def test_an_empty_mask_gets_nothing_but_padding():
    for shape in SHAPES:
        prompts = draw_clicks(torch.zeros(2, 1, *shape, dtype=torch.bool), np.random.default_rng(0), 3)
        assert prompts["point_coords"].shape == (2, 1, len(shape)) and not prompts["point_coords"].any()
        assert prompts["point_labels"].tolist() == [[-1], [-1]]
        assert draw_box(blobs(shape, 0), np.random.default_rng(0))["boxes"].isnan().all(2).flatten().tolist() == [
            0,
            0,
            1,
        ]


def test_only_a_share_of_the_slices_that_show_the_object_gets_clicks():
    mask = rectangles((5, 5, 2), (20, 20, 13), (30, 30, 17))
    seen = set()
    for seed in range(40):
        for share, expected in ((1.0, 11), (0.5, 6), (0.25, 3), (0.01, 1)):
            voxels, _ = clicks_of(draw_clicks(mask, np.random.default_rng(seed), 1, share), 0)
            slices = [k for *_, k in voxels]
            assert len(slices) == len(set(slices)) == expected and set(slices) <= set(range(2, 13))
        seen.update(slices)
    assert seen == set(range(2, 13))


def test_clicks_keep_away_from_the_border_and_from_one_another():
    disc = torch.from_numpy(np.hypot(*np.mgrid[-40:41, -40:41]) < 30)[None, None]
    near = []
    for seed in range(100):
        voxels, _ = clicks_of(draw_clicks(disc, np.random.default_rng(seed), 3), 0)
        points = np.array(voxels) - 40.0
        assert (np.hypot(*points.T) < 16.5).all()
        near.append(min(np.linalg.norm(points[a] - points[b]) for a, b in ((0, 1), (0, 2), (1, 2))))
    assert np.mean(near) > 9 and min(near) > 4


def test_the_edge_of_the_image_is_a_border():
    for seed in SEEDS:
        whole = torch.ones(1, 1, 40, 40, dtype=torch.bool)
        (voxel,), _ = clicks_of(draw_clicks(whole, np.random.default_rng(seed)), 0)
        assert all(9 <= i <= 30 for i in voxel)


# -- boxes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_is_tight_where_it_should_overlap_wholly(shape):
    for seed in SEEDS:
        mask = blobs(shape, seed)
        boxes = draw_box(mask, np.random.default_rng(seed), 1.0)["boxes"]
        assert boxes.shape == (len(mask), 1, 2 * len(shape)) and boxes.dtype == torch.float32
        for entry in range(len(mask) - 1):
            voxels = mask[entry, 0].nonzero()
            assert boxes[entry, 0].tolist() == [*voxels.amin(0).tolist(), *voxels.amax(0).tolist()]


@pytest.mark.parametrize("overlap", [0.5, 0.75])
@pytest.mark.parametrize(
    "mask",
    [
        rectangles((30, 40), (70, 60), (128, 100)),
        rectangles((0, 40), (70, 100), (128, 100)),
        rectangles((0, 0), (60, 50), (60, 50)),
        rectangles((30, 20, 6), (70, 60, 16), (96, 80, 23)),
        rectangles((30, 20, 0), (70, 60, 1), (96, 80, 1)),
    ],
    ids=["inside", "at the edge", "the whole image", "volume", "one slice"],
)
def test_a_box_overlaps_the_tight_one_by_what_was_asked_for(mask, overlap):
    boxes = [draw_box(mask, np.random.default_rng(seed), overlap)["boxes"][0, 0] for seed in range(60)]
    found = [overlap_of(box, mask) for box in boxes]
    assert abs(np.mean(found) - overlap) < 0.02 and max(abs(one - overlap) for one in found) < 0.1
    assert len({tuple(box.tolist()) for box in boxes}) > 40


@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_is_valid_and_touches_the_object_however_small_and_wherever(shape):
    random = np.random.default_rng(0)
    for seed in range(60):
        lower = [random.integers(0, n) for n in shape]
        upper = [min(n, a + random.integers(1, 4)) for a, n in zip(lower, shape, strict=True)]
        mask = rectangles(lower, upper, shape)
        for overlap in (0.05, 0.5, 0.75):
            assert overlap_of(draw_box(mask, np.random.default_rng(seed), overlap)["boxes"][0, 0], mask) > 0


# -- corrections -------------------------------------------------------------------------------------------------------


def wrong_parts(mask, prediction):
    for label, wrong in ((1, mask & ~prediction), (0, prediction & ~mask)):
        parts, count = ndimage.label(wrong.numpy())
        yield from ((label, parts == part) for part in range(1, count + 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_correction_lies_in_the_largest_wrong_region_and_says_which_way(shape):
    labels = []
    for seed in SEEDS:
        mask, prediction = blobs(shape, seed), blobs(shape, seed + 100)
        prediction[1], mask[1] = prediction[1] | mask[1], mask[1] & ~prediction[1]
        prompts = corrective_click(mask, prediction, {})
        for entry in range(len(mask)):
            voxels, signs = clicks_of(prompts, entry)
            parts = list(wrong_parts(mask[entry, 0], prediction[entry, 0]))
            if not parts:
                assert signs == []
                continue
            assert len(voxels) == 1
            ((sign, part),) = [(sign, part) for sign, part in parts if part[voxels[0]]]
            assert signs == [sign] and part.sum() == max(other.sum() for _, other in parts)
            assert signs == [int(mask[(entry, 0, *voxels[0])])] and prediction[(entry, 0, *voxels[0])] != signs[0]
        labels += prompts["point_labels"].flatten().tolist()
    assert set(labels) == {1, 0, -1}


def test_a_correction_is_the_middle_of_what_is_wrong():
    for shape, lower, upper, middle in (
        ((40, 50), (3, 10), (20, 31), (11, 20)),
        ((40, 50, 9), (3, 10, 2), (20, 31, 7), (11, 20, 4)),
        ((40, 50, 1), (0, 0, 0), (11, 11, 1), (5, 5, 0)),
    ):
        mask = rectangles(lower, upper, shape)
        for truth, prediction, sign in ((mask, ~mask & mask, 1), (~mask & mask, mask, 0)):
            assert clicks_of(corrective_click(truth, prediction, {}), 0) == ([middle], [sign])


def test_a_region_of_many_slices_outweighs_a_wider_one_of_few():
    tall, wide = rectangles((2, 2, 0), (8, 8, 11), (40, 40, 11)), rectangles((20, 20, 5), (37, 37, 6), (40, 40, 11))
    assert clicks_of(corrective_click(tall, wide, {}), 0)[1] == [1]
    assert clicks_of(corrective_click(wide, tall, {}), 0)[1] == [0]


@pytest.mark.parametrize("shape", SHAPES)
def test_earlier_prompts_stay_and_are_not_changed(shape):
    mask, prediction = blobs(shape, 0), blobs(shape, 1)
    for kind in (*KINDS, None):
        first = KINDS[kind](mask, np.random.default_rng(0)) if kind else {}
        kept = {key: value.clone() for key, value in first.items()}
        second = corrective_click(mask, prediction, first)
        third = corrective_click(mask, mask, second)
        assert same(first, kept)
        known = first["point_labels"].shape[1] if "point_labels" in first else 0
        assert second["point_labels"].shape[1] == known + 1 and third["point_labels"].shape[1] == known + 2
        assert same(first, {key: second[key] if key == "boxes" else second[key][:, :known] for key in first})
        assert third["point_labels"][:, -1].tolist() == [-1] * len(mask) and ("boxes" in third) == ("boxes" in first)
        assert same(second, corrective_click(mask, prediction, first))


def test_clicks_taken_at_their_word_end_in_the_truth():
    """A prediction that mends the region of each click is right after as many clicks as it had wrong regions."""
    mask, prediction, prompts = blobs((37, 50, 7), 3), blobs((37, 50, 7), 4), {}
    regions = max(sum(1 for _ in wrong_parts(a[0], b[0])) for a, b in zip(mask, prediction, strict=True))
    for _ in range(regions):
        prompts = corrective_click(mask, prediction, prompts)
        for entry in range(len(mask)):
            voxel = prompts["point_coords"][entry, -1].int().tolist()
            for sign, part in wrong_parts(mask[entry, 0], prediction[entry, 0]):
                if part[tuple(voxel)] and prompts["point_labels"][entry, -1] == sign:
                    prediction[entry, 0][torch.from_numpy(part)] = bool(sign)
    assert torch.equal(prediction, mask)
    assert same(corrective_click(mask, prediction, {}), draw_clicks(mask & False, np.random.default_rng(0)))


# -- which prompt, which object ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", [np.random.default_rng, np.random.RandomState])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_seed_draws_the_same_prompts_and_another_seed_others(shape, generator):
    mask = blobs(shape, 0)
    drawn = [draw_prompts(mask, generator(seed)) for seed in range(20)]
    assert all(same(a, draw_prompts(mask, generator(seed))) for seed, a in enumerate(drawn))
    assert not all(same(drawn[0], other) for other in drawn[1:])
    for kind in KINDS.values():
        assert same(kind(mask, generator(5)), kind(mask, generator(5)))
        assert not same(kind(mask, generator(5)), kind(mask, generator(6)))


def test_every_kind_of_prompt_is_as_likely_as_another():
    mask, random = blobs((24, 20), 0), np.random.default_rng(0)
    drawn = [draw_prompts(mask, random) for _ in range(400)]
    counts = [sum(d["point_labels"].shape[1] == n for d in drawn if "point_labels" in d) for n in (1, 3)]
    assert all(abs(count - 100) < 30 for count in counts)
    assert abs(sum("boxes" in d for d in drawn) - 200) < 45


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_is_all_of_one_label_and_each_present_label_has_its_turn(shape):
    random = np.random.default_rng(0)
    label = torch.from_numpy(random.integers(0, 4, (3, 1, *shape))).float()
    label[1][label[1] == 2] = 0
    label[2] = 0
    picked = [set(), set(), set()]
    for _ in range(40):
        mask = pick_object(label, random, 4)
        assert mask.dtype == torch.bool and mask.shape == label.shape
        for entry in range(3):
            values = label[entry][mask[entry]].unique().tolist()
            assert len(values) == (entry < 2)
            picked[entry].update(values)
            assert all(torch.equal(mask[entry], label[entry] == value) for value in values)
    assert picked == [{1, 2, 3}, {1, 3}, set()]
    assert torch.equal(*(pick_object(label, np.random.default_rng(7), 4) for _ in range(2)))
