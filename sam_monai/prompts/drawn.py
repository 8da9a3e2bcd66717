"""Prompts as a person would give them, drawn from the reference, to train networks that take prompts.

As in Med-SA (Wu et al., arXiv 2304.12620): one click, three clicks, a box that overlaps the object by half or by three
quarters, and clicks that correct the last prediction.

Prompts are keyword arguments of a network's forward, in MONAI's conventions. Masks are bool (B, 1, H, W) or
(B, 1, H, W, D), an object each, depth last; what is drawn lies on their device:

- ``point_coords``: float32 (B, N, 2 or 3), voxel indices in the order of the axes: i, j[, k].
- ``point_labels``: int64 (B, N): 1 on the object, 0 off it, -1 padding, whose coordinates are 0.
- ``boxes``: float32 (B, 1, 4 or 6), the corners' voxels, inclusive: i0, j0[, k0], i1, j1[, k1]. NaN is no box.

``rng`` is one of NumPy's generators, or the ``RandomState`` of a MONAI transform.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from monai.data.box_utils import box_iou, clip_boxes_to_image
from monai.transforms.utils import distance_transform_edt, generate_spatial_bounding_box
from scipy import ndimage
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Rng = np.random.Generator | np.random.RandomState
Prompts = dict[str, Tensor]


def draw_prompts(mask: Tensor, rng: Rng) -> Prompts:
    """One of :data:`KINDS`, each as likely as another, the same for the whole batch."""
    return KINDS[rng.choice(list(KINDS))](mask, rng)


def draw_clicks(mask: Tensor, rng: Rng, clicks: int = 1, share: float = 1.0) -> Prompts:
    """Clicks on the object, drawn where it is at least half as deep in the plane as at its deepest.

    Each click after the first of a slice is drawn from the half of these voxels that lies farthest from the clicks
    before it. Fewer such voxels than clicks get one each. An empty mask gets padding only.

    Args:
        mask: bool (B, 1, H, W[, D]).
        rng: all randomness.
        clicks: on an image, or on a slice of a volume.
        share: of a volume's slices that show the object, how many get clicks, rounded, but at least one.

    Returns:
        ``point_coords`` and ``point_labels``. N is the most clicks of an entry, at least 1; the others are padded.
    """
    found = [clicks_on(entry[0], rng, clicks, share) for entry in mask.bool().cpu().numpy()]
    return as_prompts([(points, np.ones(len(points))) for points in found], mask)


def draw_box(mask: Tensor, rng: Rng, overlap: float = 0.75) -> Prompts:
    """The object's bounding box, in a volume one over all slices, its sides moved at random.

    Args:
        mask: bool (B, 1, H, W[, D]); an empty one has no box: NaN.
        rng: all randomness.
        overlap: intersection over union of the moved and the tight box, in (0, 1]; 1 is the tight box itself. Met as
            well as whole voxels and the image's edges allow, beyond which no box reaches.
    """
    boxes = [moved_box(entry, rng, overlap) for entry in mask.bool().cpu().numpy()]
    return {"boxes": torch.stack(boxes)[:, None].to(mask.device)}


def corrective_click(mask: Tensor, prediction: Tensor, prompts: Mapping[str, Tensor]) -> Prompts:
    """The prompts of the last prediction and one more click an entry, where it is most wrong: nothing random.

    That is in the largest region (connected by faces, in volumes across slices) that is either missed, label 1, or too
    much, label 0; in the middle of where it is deepest in the plane. An entry with nothing wrong gets padding.

    Args:
        mask: bool (B, 1, H, W[, D]), the truth.
        prediction: likewise.
        prompts: with or without clicks; left as they are.
    """
    pairs = zip(mask.bool().cpu().numpy(), prediction.bool().cpu().numpy(), strict=True)
    clicks = as_prompts([correction(truth[0], predicted[0]) for truth, predicted in pairs], mask)
    added = {key: torch.cat([prompts[key], new], 1) if key in prompts else new for key, new in clicks.items()}
    return {**prompts, **added}


def pick_object(label: Tensor, rng: Rng, labels: int) -> Tensor:
    """One label an entry, drawn from those present: label map (B, 1, *spatial), values 0 to ``labels``, to a bool mask
    of the same shape. An entry without any gives an empty mask."""
    mask = torch.zeros(label.shape, dtype=torch.bool, device=label.device)
    for entry, out in zip(label, mask, strict=True):
        present = [value for value in entry.unique().tolist() if 0 < value <= labels]
        if present:
            out.copy_(entry == int(rng.choice(present)))
    return mask


KINDS: dict[str, Callable[[Tensor, Rng], Prompts]] = {
    "1 click": lambda mask, rng: draw_clicks(mask, rng, 1, min(1.0, rng.uniform(0.25, 1.75))),
    "3 clicks": lambda mask, rng: draw_clicks(mask, rng, 3, min(1.0, rng.uniform(0.25, 1.75))),
    "box 50 %": lambda mask, rng: draw_box(mask, rng, 0.5),
    "box 75 %": lambda mask, rng: draw_box(mask, rng, 0.75),
}


def clicks_on(entry: np.ndarray, rng: Rng, clicks: int, share: float) -> np.ndarray:
    """Voxel indices (N, 2 or 3) on an object (H, W[, D])."""
    volume = np.atleast_3d(entry)
    shown = np.flatnonzero(volume.any((0, 1)))
    found = [np.zeros((0, 3))]
    if len(shown):
        for k in np.sort(rng.choice(shown, max(1, round(share * len(shown))), replace=False)):
            points, depth = depths(volume[..., k])
            points = spread(points[depth >= depth.max() / 2], rng, clicks)
            found.append(np.column_stack([points, np.full(len(points), k)]))
    return np.concatenate(found)[:, : entry.ndim]


def spread(points: np.ndarray, rng: Rng, count: int) -> np.ndarray:
    """Some of the points (N, 2), apart from one another."""
    drawn, distance = [], np.full(len(points), np.inf)
    for _ in range(min(count, len(points))):
        far = (distance > 0) & (distance >= np.median(distance[distance > 0]))
        drawn.append(points[rng.choice(np.flatnonzero(far))])
        distance = np.minimum(distance, np.linalg.norm(points - drawn[-1], axis=1))
    return np.stack(drawn)


def depths(region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The voxels (N, 2 or 3) of a region (H, W[, D]), and how far (N,) each is from the nearest voxel of its slice that
    is not in the region. What is beyond the image is not."""
    points = np.argwhere(region)
    box = np.atleast_3d(region[tuple(map(slice, points.min(0), points.max(0) + 1))])
    slices = np.pad(box, ((1, 1), (1, 1), (0, 0))).transpose(2, 0, 1)
    distance = np.asarray(distance_transform_edt(slices))[:, 1:-1, 1:-1].transpose(1, 2, 0)
    return points, distance[box]


def moved_box(entry: np.ndarray, rng: Rng, overlap: float) -> Tensor:
    """A box (4 or 6,) about the object (1, H, W[, D])."""
    dims = entry.ndim - 1
    if not entry.any():
        return torch.full((2 * dims,), torch.nan)
    lower, upper = map(np.asarray, generate_spatial_bounding_box(entry))  # the upper corner is exclusive
    # A small object's sides must be able to move at all.
    reach = np.tile(np.maximum((1 - overlap) * (upper - lower), 1.0), 2)
    moves = rng.uniform(-reach, reach, (256, 2 * dims)).round()
    moves[0] = 0  # the tight box, for an overlap of 1 or should no other be valid
    tight = torch.tensor(np.concatenate([lower, upper])[None], dtype=torch.float32)
    boxes, _ = clip_boxes_to_image(tight + torch.tensor(moves, dtype=torch.float32), entry.shape[1:])
    found = torch.as_tensor(box_iou(boxes, tight))[:, 0]
    off = torch.where(found > 0, (found - overlap).abs(), 1.0)  # never a box beside the object
    box = boxes[(off <= off.min() + 0.02).nonzero()[0, 0]]  # the very best would leave few boxes to draw from
    return torch.cat([box[:dims], box[dims:] - 1])


def correction(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The click (1, 2 or 3) and its label (1,) that mend a prediction (H, W[, D]) most; both empty if it is right."""
    largest, region, label = 0, truth, 0
    for value, wrong in ((1, truth & ~predicted), (0, predicted & ~truth)):
        parts = np.asarray(ndimage.label(wrong)[0])
        sizes = np.bincount(parts.ravel(), minlength=2)[1:]
        if sizes.max() > largest:
            largest, region, label = sizes.max(), parts == sizes.argmax() + 1, value
    if not largest:
        return np.zeros((0, truth.ndim)), np.zeros(0)
    points, depth = depths(region)
    deepest = points[depth == depth.max()]
    middle = np.linalg.norm(deepest - deepest.mean(0), axis=1).argmin()
    return deepest[[middle]], np.array([label])


def as_prompts(clicks: list[tuple[np.ndarray, np.ndarray]], mask: Tensor) -> Prompts:
    """Each entry's clicks (N, 2 or 3) and labels (N,), padded to the most of them, at least one."""
    one = (np.zeros((1, mask.ndim - 2)), np.array([-1]))
    pairs = [pair if len(pair[1]) else one for pair in clicks]
    coords = [torch.tensor(points, dtype=torch.float32) for points, _ in pairs]
    labels = [torch.tensor(values, dtype=torch.int64) for _, values in pairs]
    return {
        "point_coords": pad_sequence(coords, batch_first=True).to(mask.device),
        "point_labels": pad_sequence(labels, batch_first=True, padding_value=-1).to(mask.device),
    }
