"""Whether what is taken for an image looks like a label map."""

from __future__ import annotations

import torch

FEW = 8  # values, of which hardly any image has fewer
MOST = 256  # of a label map of many structures, and of an image of 8 bits
WHOLLY = 0.8  # share of voxels whose neighbour is equal, beside the commonest value: noise leaves an image few


def values_of_labels(image: torch.Tensor) -> list[int] | None:
    """The values of an image (C, *spatial) that looks like a label map: whole numbers from 0 on that are few, or that
    fill whole structures. ``None`` where it does not."""
    image = torch.as_tensor(image)
    flat = image.flatten()
    for some in (flat[:: 1 + flat.numel() // 2**16], flat):  # a few tell in most cases
        if some.min() < 0 or some.max() >= 2**16 or not torch.equal(some, some.round()):
            return None
        counts = torch.bincount(some.int())
        values = counts.nonzero().flatten().tolist()
        if len(values) > MOST:
            return None
    if len(values) > FEW:
        axis = max(range(1, image.ndim), key=lambda axis: image.shape[axis])
        along = image.narrow(axis, 1, image.shape[axis] - 1)
        shown = along != int(counts.argmax())
        same = shown & (along == image.narrow(axis, 0, image.shape[axis] - 1))
        if same.sum() < WHOLLY * shown.sum():
            return None
    return values
