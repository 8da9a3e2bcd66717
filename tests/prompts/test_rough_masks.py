"""Rough masks drawn from labels: near the object, of a neighbouring slice, and the same by the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice

from sam_monai.prompts.rough_masks import draw_mask


def ball(shape):
    mask = torch.zeros(1, 1, *shape, dtype=torch.bool)
    middle, axes = [n // 2 for n in shape], torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    mask[0, 0] = sum((x - m) ** 2 for x, m in zip(axes, middle, strict=True)) < (min(shape) / 2) ** 2
    return mask


@pytest.mark.parametrize("shape", [(40, 36), (40, 36, 9)])
def test_a_rough_mask_is_like_the_object_and_seldom_the_object(shape):
    mask, rng = ball(shape), np.random.RandomState(0)
    dice = []
    for _ in range(40):
        rough = draw_mask(mask, rng)["masks"]
        assert rough.shape == mask.shape and rough.dtype == torch.float32
        dice.append(compute_dice((rough > 0).float(), mask.float()).item())
    assert np.mean(dice) > 0.6 and min(dice) > 0.1 and np.mean(np.array(dice) < 0.98) > 0.5


def test_where_the_object_ends_a_slice_gets_its_neighbours_mask_and_beyond_none():
    mask = torch.zeros(1, 1, 20, 20, 9, dtype=torch.bool)
    mask[..., 6:14, 6:14, 3:6] = True
    rng, beyond = np.random.RandomState(0), set()
    for _ in range(30):
        masks = draw_mask(mask, rng)["masks"]
        given = ~masks[0, 0, 0, 0].isnan()
        assert torch.equal(given, ~masks[0, 0].isnan().any(0).any(0)) and given[3:6].all() and not given[[0, 8]].any()
        beyond |= set((given & ~mask.any(2).any(2)[0, 0]).nonzero().flatten().tolist())
    assert beyond == {1, 2, 6, 7}


def test_an_image_without_the_object_has_no_mask():
    assert draw_mask(torch.zeros(2, 1, 12, 12, dtype=torch.bool), np.random.RandomState(0))["masks"].isnan().all()


def test_the_same_seed_draws_the_same_mask():
    one, two = (draw_mask(ball((30, 30, 5)), np.random.RandomState(3))["masks"] for _ in range(2))
    assert torch.equal(one.nan_to_num(), two.nan_to_num())
