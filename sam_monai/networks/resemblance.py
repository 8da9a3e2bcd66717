"""How much a prompted object is like each label, from the network's own answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .click_tokens import at_clicks


def margins(automatic: Tensor) -> Tensor:
    """Logits (B, L + 1, *spatial) of labels to how far each lies above the largest of the others (B, L, *spatial)."""
    background, labels = automatic[:, 0], automatic[:, 1:]
    first, second = background, torch.full_like(background, -torch.inf)
    for label in labels.unbind(1):  # a fifth of topk's time
        second = torch.maximum(second, torch.minimum(first, label))
        first = torch.maximum(first, label)
    return labels - torch.where(labels == first[:, None], second[:, None], first[:, None])


def resemblances(
    prompted: Tensor, automatic: Tensor, point_coords: Tensor | None, point_labels: Tensor | None, boxes: Tensor | None
) -> Tensor:
    """Sums (R, L, 5) that say how much objects are like labels: over voxels what both hold, what the object holds and
    what the label holds, over the first positive clicks of slices, beside no box, how surely the label holds them, and
    their number. Sums of a volume's parts add up to the volume's. No gradient.

    Args:
        prompted: logits (R, *spatial).
        automatic: logits (B, L + 1, *spatial), B = R or 1.
        point_coords, point_labels, boxes: of the R objects, as in :meth:`MedSA.forward`.
    """
    there = margins(automatic.detach()).sigmoid()  # (B, L, *spatial)
    held = prompted.detach().sigmoid()[:, None]
    dims = tuple(range(2, there.ndim))
    common = (held * there).sum(dims)  # (R, L)
    sums = [common, held.sum(dims).expand_as(common), there.sum(dims).expand_as(common)]
    if point_coords is None or point_labels is None:
        return torch.stack([*sums, torch.zeros_like(common), torch.zeros_like(common)], 2)
    size = torch.tensor(there.shape[2:], device=there.device)
    inside = ((point_coords.round() >= 0) & (point_coords.round() < size)).all(2)
    on = (first_in_slice(point_coords, point_labels) & inside).float()[:, None]  # (R, 1, N)
    if boxes is not None:
        on = on * boxes.isnan().any(2).all(1)[:, None, None]
    share = (at_clicks(there, point_coords) * on).sum(2)
    return torch.stack([*sums, share, on.sum(2).expand_as(common)], 2)


def first_in_slice(point_coords: Tensor, point_labels: Tensor) -> Tensor:
    """Which positive clicks (R, N) are the first of their slice, or picture: later ones correct what is wrong there."""
    positive, slices = point_labels == 1, point_coords[..., 2:].round()  # of pictures there is nothing to compare
    same = (slices[:, :, None] == slices[:, None]).all(3)
    return positive & ~(same & positive[:, None]).tril(-1).any(2)


def likeness(resemblance: Tensor) -> Tensor:
    """How much objects are like labels (R, L), from 0 to 1, by the sums of :func:`resemblances`: the soft Dice of the
    two, and where there is a positive click and no box its mean with how surely the label holds the first ones."""
    common, found, there, held, clicks = resemblance.unbind(2)
    dice = 2 * common / (found + there).clamp(min=1e-5)
    return torch.where(clicks > 0, (dice + held / clicks.clamp(min=1)) / 2, dice)


def named(labels: Sequence[str], label: str, which: str = "the object") -> Tensor:
    """``meant`` of :meth:`MedSA.forward` (1, L) for an object that is one of the labels. An error says ``which``
    object."""
    if label not in labels:
        raise InputError(
            f"{which} has the label {str(label)[:99]!r}, and the adapter's labels are {', '.join(labels)}: "
            "give one of these, or none if the object is something else"
        )
    return torch.tensor([[float(one == label) for one in labels]])
