"""Prompts of a network that was trained on patches: the patch about an object, at the resolution of those."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .drawn import Prompts

FILLED = 0.75  # of a patch's side, by the object's prompts at most
STEPS = 8  # a patch lies on a grid of this share of its side, so that a further click seldom moves it


def patch_about(prompts: Prompts, shape: Sequence[int], size: int) -> tuple[slice, slice]:
    """Rows and columns of the patch about an object's positive clicks, box and mask: of ``size`` pixels, or of more
    where these reach further. It may reach beyond an image that is smaller."""
    places = []
    if "point_labels" in prompts:
        places.append(prompts["point_coords"][0][prompts["point_labels"][0] == 1][:, :2])
    if "boxes" in prompts:
        boxes = prompts["boxes"][0]
        corners = boxes[~boxes.isnan().any(1)].unflatten(1, (2, -1))
        places.append(corners[..., :2].flatten(0, 1))
    if "masks" in prompts:
        places.append((prompts["masks"][0, 0] > 0).nonzero()[:, :2])
    found = torch.cat([each.float().cpu() for each in places])
    if not len(found):
        raise InputError("negative clicks alone do not say where the object is: give a click on it, or a box")
    low, high = found.amin(0), found.amax(0)
    side = max(size, math.ceil(float((high - low + 1).max()) / FILLED))
    step = max(1, size // STEPS)
    starts = ((low + high + 1 - side) / 2 / step).round().int() * step
    rows, columns = (max(0, min(int(at), n - side)) for at, n in zip(starts, shape, strict=False))
    return slice(rows, rows + side), slice(columns, columns + side)


def cut_out(image: Tensor, patch: tuple[slice, slice], value: float = 0.0) -> Tensor:
    """The patch of an image (1, C, H, W[, D]), with a value where it reaches beyond: 0, as patches in training have."""
    found = torch.as_tensor(image)[:, :, patch[0], patch[1]]
    missing = [p.stop - p.start - n for p, n in zip(patch, found.shape[2:4], strict=True)]
    if not any(missing):
        return found
    return F.pad(found, (*[0, 0] * (image.ndim - 4), 0, missing[1], 0, missing[0]), value=value)


def in_patch(prompts: Prompts, patch: tuple[slice, slice]) -> Prompts:
    """An object's prompts in the patch's voxels. Clicks beyond it, which are negative, do not count."""
    corner = torch.tensor([patch[0].start, patch[1].start])
    sides = torch.tensor([part.stop - part.start for part in patch])
    found = dict(prompts)
    if "point_labels" in prompts:
        coords = prompts["point_coords"].clone()
        coords[..., :2] -= corner.to(coords)
        beyond = ((coords[..., :2].round() < 0) | (coords[..., :2].round() >= sides.to(coords))).any(2)
        found["point_labels"] = prompts["point_labels"].masked_fill(beyond, -1)
        found["point_coords"] = coords.masked_fill(beyond[..., None], 0)
    if "boxes" in prompts:
        axes = prompts["boxes"].unflatten(2, (2, -1)).clone()
        axes[..., :2] -= corner.to(axes)
        found["boxes"] = axes.flatten(2)
    if "masks" in prompts:
        masks = cut_out(prompts["masks"], patch, value=-1.0)
        # Beyond the image the object is not, but a slice without a mask stays one.
        found["masks"] = masks.masked_fill(masks[:, :, :1, :1].isnan(), torch.nan)
    return found
