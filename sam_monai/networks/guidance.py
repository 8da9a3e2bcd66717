"""What labels and clicks add to a prompted object's logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .click_tokens import at_clicks
from .resemblance import likeness, margins

WIDTHS = ((1 / 64, 0.5), (1 / 32, 1.0), (1 / 16, 2.0))  # in the plane, of its longer side; and in slices
OBEYED = 1.0  # logit on its side that a click's voxel has at least, once the network answers a user
APART = 2 / 7  # width of a click's influence, of the distance to the nearest opposite click, which then loses 0.2 %
ROUNDS = 12


def guided(
    prompted: Tensor,
    automatic: Tensor,
    resemblance: Tensor,
    label_gains: Tensor,
    click_gains: Tensor,
    clicks: tuple[Tensor, Tensor] | None,
    obey: bool,
) -> Tensor:
    """Add to a prompted object's logits what the network knows of its labels, and what the clicks say themselves.

    The margin of the label that the object is most like (its logit over the largest of the others, the background's
    included) is added, times a trained gain, which starts at 0. How much the object is like a label is the soft Dice of
    the two over the image or volume and, where there is no box, of the same weight how surely the label holds the first
    positive click of each slice. Other clicks and those beside a box do not count, as corrections are made where the
    label's own answer tends to be wrong. An object that is no label's is left as it is. Other labels take part by the
    fourth power of how much less the object is like them. The labels' answers get no gradient from this.

    About a positive click the logits grow, about a negative one they fall, by trained gains (0 at the start) times
    :func:`near_clicks`: so a correction counts where it was made, whatever the labels' answers are.

    Args:
        prompted: (R, *spatial).
        automatic: (B, L + 1, *spatial), B = R or 1.
        resemblance: (R, L, 5) of :func:`~sam_monai.networks.resemblance.resemblances`.
        label_gains: (L,).
        click_gains: (2, 3) of negative and positive clicks, for each of :data:`WIDTHS`.
        clicks: coordinates (R, N, 2 or 3) in voxels and labels (R, N) of the objects' clicks.
        obey: whether the clicks' own voxels are on their side in any case: :func:`obey_clicks`.
    """
    alike = likeness(resemblance)
    most = alike.amax(1, keepdim=True).clamp(min=1e-5)
    weights = label_gains * most * (alike / most) ** 4
    weights = weights.reshape(*weights.shape, *[1] * (prompted.ndim - 1))
    answer = prompted + (weights * margins(automatic.detach())).sum(1)
    if clicks is None:
        return answer
    coords, labels = clicks
    for value, sign in enumerate((-1, 1)):
        nearness = near_clicks(tuple(prompted.shape[1:]), coords, labels == value)
        for gain, near in zip(click_gains[value], nearness, strict=True):
            answer = answer + sign * gain * near
    return obey_clicks(answer, coords, labels) if obey else answer


def near_clicks(shape: tuple[int, ...], coords: Tensor, counted: Tensor) -> Iterator[Tensor]:
    """How near each voxel (R, *shape) is to a click: 1 at one, less by a Gaussian of each of :data:`WIDTHS` beside it.

    Args:
        shape: (H, W) or (H, W, D).
        coords: clicks (R, N, 2 or 3) in voxels.
        counted: bool (R, N), which of them count.
    """
    with torch.autocast(coords.device.type, enabled=False):
        for plane, depth in WIDTHS:
            widths = (plane * max(shape[:2]), plane * max(shape[:2]), depth)
            parts = [
                (-0.5 * ((torch.arange(size, device=coords.device) - coords[..., axis, None]) / width) ** 2).exp()
                for axis, (size, width) in enumerate(zip(shape, widths, strict=False))
            ]
            parts[0] = parts[0] * counted[..., None]
            sums = torch.einsum(*(("rnh,rnw->rhw", *parts) if len(parts) == 2 else ("rnh,rnw,rnd->rhwd", *parts)))
            yield sums.clamp(max=1)


def obey_clicks(logits: Tensor, coords: Tensor, labels: Tensor) -> Tensor:
    """Logits (R, *spatial) that agree with every click: where a click's voxel is not :data:`OBEYED` on the click's side
    what is missing is added, and less of it beside the voxel, on the click's slice.

    It is added by Gaussians as wide as the narrowest of :data:`WIDTHS`, or as :data:`APART` of the distance to the
    nearest click of the other side. Their amplitudes are found together, so what one click adds takes nothing from
    another. Of clicks on one voxel the last counts.

    Args:
        logits: (R, H, W) or (R, H, W, D).
        coords, labels: clicks (R, N, 2 or 3) in voxels and their labels (R, N); those outside or -1 do not count.
    """
    shape = logits.shape[1:]
    size = torch.tensor(shape, device=coords.device)
    at = coords.round()
    counted = (labels != -1) & ((at >= 0) & (at < size)).all(2)
    both = counted[:, :, None] & counted[:, None]  # (R, N, N)
    same_voxel = both & (at[:, :, None] == at[:, None]).all(3)
    counted = counted & ~same_voxel.triu(1).any(2)
    sign = (2 * (labels == 1) - 1) * counted
    missing = (OBEYED - sign * at_clicks(logits[:, None], coords)[:, 0]).clamp(min=0) * counted  # (R, N)
    with torch.autocast(coords.device.type, enabled=False):
        opposite = sign[:, :, None] * sign[:, None] < 0
        if len(shape) == 3:
            opposite = opposite & (at[:, :, None, 2] == at[:, None, :, 2])
        squared = (at[:, :, None, :2] - at[:, None, :, :2]).square().sum(3)
        nearest = squared.masked_fill(~opposite, torch.inf).amin(2).sqrt()
        width = (APART * nearest).clamp(max=WIDTHS[0][0] * max(shape[:2]))  # (R, N)
        taken = (-0.5 * squared / width[:, None] ** 2).exp() * opposite  # of click i by the Gaussian of click j
        amplitude = missing
        for _ in range(ROUNDS):  # solves amplitude = missing + taken @ amplitude
            amplitude = missing + (taken @ amplitude[..., None])[..., 0]
        rows, columns = (
            (
                -0.5 * ((torch.arange(shape[axis], device=coords.device) - at[..., axis, None]) / width[..., None]) ** 2
            ).exp()
            for axis in (0, 1)
        )
        rows = rows * (sign * amplitude)[..., None]
        if len(shape) == 2:
            return logits + torch.einsum("rnh,rnw->rhw", rows, columns)
        slices = (torch.arange(shape[2], device=coords.device) == at[..., 2, None]).to(rows.dtype)
        return logits + torch.einsum("rnh,rnw,rnd->rhwd", rows, columns, slices)
