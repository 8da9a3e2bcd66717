"""Rough masks as prompts, drawn from the reference: what an earlier answer, a neighbouring slice or a lasso looks like.

Arrays and generators are as in :mod:`sam_monai.prompts.drawn`.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms.utils import distance_transform_edt
from torch import Tensor

from .drawn import Prompts, Rng

STEPS = (0, 1, 1, 1, 2)  # slices away that the mask of a slice is taken from, each as likely as another
GROWN, SHIFTED, KEPT = 0.4, 0.3, 0.6  # most in radii of the object, and the least share that is left of it


def draw_mask(mask: Tensor, rng: Rng) -> Prompts:
    """A rough mask of the object, and in a volume that of a neighbouring slice: dilated or eroded, shifted, or with a
    part of it missing.

    A slice whose neighbour does not show the object has the rough mask of its own. A slice where the object ends keeps
    its neighbour's mask, and the answer there is that nothing is left.

    Args:
        mask: bool (B, 1, H, W[, D]).
        rng: all randomness.

    Returns:
        ``masks``: float32 logits (B, 1, H, W[, D]), NaN in slices without a mask.
    """
    rough = np.stack([rough_mask(entry[0], rng) for entry in mask.bool().cpu().numpy()])
    return {"masks": torch.as_tensor(rough, dtype=torch.float32)[:, None].to(mask.device)}


def rough_mask(entry: np.ndarray, rng: Rng) -> np.ndarray:
    """Logits of an object (H, W[, D]) with NaN in the slices without it."""
    volume = np.atleast_3d(entry)
    step = int(rng.choice(STEPS)) * int(rng.choice((-1, 1)))
    depth = volume.shape[2]
    taken = np.clip(np.arange(depth) + step, 0, depth - 1)
    taken = np.where(volume[..., taken].any((0, 1)), taken, np.arange(depth))
    volume = volume[..., taken]
    radius = np.sqrt(volume.sum((0, 1)).max() / np.pi)
    volume = shifted(volume, rng, radius) if rng.rand() < 0.5 else volume
    volume = cut(volume, rng) if rng.rand() < 0.5 else volume
    grown = rng.uniform(-GROWN, GROWN) * radius if rng.rand() < 0.5 else 0.0
    # Logits rise from the edge inwards, as an answer's do.
    logits = (signed_distance(volume) + grown) * rng.uniform(1.0, 4.0)
    logits[..., ~volume.any((0, 1))] = np.nan
    return logits.reshape(entry.shape)


def signed_distance(volume: np.ndarray) -> np.ndarray:
    """How far each voxel of (H, W, D) lies in the plane inside of the object, less than 0 outside."""
    slices = volume.transpose(2, 0, 1)  # each has a distance transform of its own
    inside, outside = (np.asarray(distance_transform_edt(part)) for part in (slices, ~slices))
    return (inside - outside).transpose(1, 2, 0)


def shifted(volume: np.ndarray, rng: Rng, radius: float) -> np.ndarray:
    """The object moved in the plane, what leaves the image lost."""
    most = int(np.ceil(SHIFTED * radius))
    i, j = rng.randint(2 * most + 1), rng.randint(2 * most + 1)
    padded = np.pad(volume, ((most, most), (most, most), (0, 0)))
    return padded[i : i + volume.shape[0], j : j + volume.shape[1]]


def cut(volume: np.ndarray, rng: Rng) -> np.ndarray:
    """The object without what lies beyond a straight line in the plane."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[: volume.shape[0], : volume.shape[1]]
    along = rows * np.cos(angle) + columns * np.sin(angle)
    places = along[volume.any(2)]
    if not len(places):
        return volume
    return volume & (along <= np.quantile(places, rng.uniform(KEPT, 1.0)))[..., None]
