"""Clicks and boxes in the axes of an image or volume, as the sparse prompts of SAM's prompt encoder for each slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backbones.backbone import Backbone
from ..backbones.resize import resized_shape, to_square
from ..errors import InputError

CERTAIN = 8.0  # logit of a mask prompt at most


def check_prompts(
    image: Tensor,
    point_coords: Tensor | None,
    point_labels: Tensor | None,
    boxes: Tensor | None,
    masks: Tensor | None = None,
) -> int:
    """Number of objects asked for. Refuses shapes that do not fit each other or the image, coordinates that are not
    finite, labels other than -1, 0 and 1, boxes whose lower corner lies above the upper one, and masks with infinite
    values or with NaN in a part of a slice."""
    dims, checked = image.ndim - 2, not torch.compiler.is_compiling()
    if (point_coords is None) != (point_labels is None):
        raise InputError("point_coords and point_labels come together")
    sizes = []
    if point_coords is not None and point_labels is not None:
        if point_coords.ndim != 3 or point_coords.shape[2] != dims or point_labels.shape != point_coords.shape[:2]:
            raise InputError(
                f"point_coords are (B, N, {dims}) and point_labels (B, N) for an image of {dims} axes, "
                f"not {tuple(point_coords.shape)} and {tuple(point_labels.shape)}"
            )
        if not point_coords.shape[1]:
            raise InputError("point_coords hold no click at all: leave them out, or pad with the label -1")
        if checked and not ((point_labels == -1) | (point_labels == 0) | (point_labels == 1)).all():
            raise InputError("point_labels are 1 (on the object), 0 (beside it) and -1 (padding)")
        if checked and not point_coords.isfinite().all():
            raise InputError("point_coords hold NaN or infinite numbers: they are voxels, 0 for padding")
        sizes.append(len(point_coords))
    if boxes is not None:
        if boxes.ndim != 3 or boxes.shape[2] != 2 * dims:
            raise InputError(f"boxes are (B, N, {2 * dims}), lower corner then upper, not {tuple(boxes.shape)}")
        lower, upper = boxes.chunk(2, 2)
        ordered = (lower <= upper).all(2) & boxes.isfinite().all(2)
        if checked and not (ordered | boxes.isnan().all(2)).all():
            raise InputError("a box is its lower corner, then its upper one, in finite numbers; or all NaN for none")
        sizes.append(len(boxes))
    if masks is not None:
        if masks.shape[1:] != (1, *image.shape[2:]):
            raise InputError(
                f"masks are (B, 1, {', '.join(map(str, image.shape[2:]))}), logits on the image's own grid, "
                f"not {tuple(masks.shape)}"
            )
        if checked and masks.isinf().any():
            raise InputError("masks hold infinite numbers: they are logits, NaN in a slice without a mask")
        unknown = masks.isnan().flatten(2, 3)
        if checked and (unknown.any(2) != unknown.all(2)).any():
            raise InputError("masks are NaN in a part of a slice: all of it is NaN where there is no mask, or nothing")
        sizes.append(len(masks))
    if len(set(sizes)) != 1 or (len(image) != 1 and sizes[0] != len(image)):
        raise InputError(
            f"prompts for {sizes} objects do not fit {len(image)} images: one object an image, or several of one image"
        )
    return sizes[0]


def refuse_outside(
    size: Sequence[int], point_coords: Tensor | None, point_labels: Tensor | None, boxes: Tensor | None
) -> None:
    """Refuse clicks outside an image of this size, and boxes that do not reach into it."""
    if torch.compiler.is_compiling():
        return
    if point_coords is not None and point_labels is not None:
        at, grid = point_coords.round(), torch.tensor(size, device=point_coords.device)
        beyond = ((at < 0) | (at >= grid)).any(2) & (point_labels != -1)
        if beyond.any():
            click = point_coords[beyond][0].tolist()
            raise InputError(f"the click {click} lies outside the image, whose grid is {tuple(size)}")
    if boxes is not None:
        lower, upper = boxes.chunk(2, 2)
        grid = torch.tensor(size, device=boxes.device)
        if ((upper < -0.5) | (lower > grid - 0.5)).any():
            raise InputError(f"a box lies outside the image, whose grid is {tuple(size)}")


def sparse_prompts(
    backbone: Backbone,
    shape: tuple[int, ...],
    point_coords: Tensor | None,
    point_labels: Tensor | None,
    boxes: Tensor | None,
    masked: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompt tokens of every slice of every object, and the prompt that conditions the weights.

    A click belongs to the slice that it lies in, a box to the slices between its corners. Beyond a box its corners are
    a negative click's token without a position. As in SAM, an object without a box has one token more, of padding,
    unless a mask is its only prompt. What else pads objects and slices to as many tokens as the others have does not
    count, so no object's answer depends on the prompts of others. A slice with no prompt of its own is conditioned on
    the nearest slice's.

    Args:
        backbone: whose prompt encoder embeds.
        shape: of the image, (H, W) or (H, W, D).
        point_coords: (R, N, 2 or 3) in voxels, in the order of the axes.
        point_labels: (R, N): 1, 0, or -1 for padding.
        boxes: (R, M, 4 or 6), lower corner then upper, both inside; NaN for none.
        masked: bool (R,), which objects have a mask too; ``None``: none.

    Returns:
        tokens (R, D, T, 256), which of them count, bool (R, D, T), and what the weights are conditioned on
        (R, D, 256), the mean of the tokens that are no padding; D is 1 for an image.
    """
    encoder: Any = backbone.prompt_encoder
    depth = shape[2] if len(shape) == 3 else 1
    like = next(each for each in (point_coords, boxes, masked) if each is not None)
    padding = encoder.not_a_point_embed.weight[0]
    boxed = torch.zeros(len(like), dtype=torch.bool, device=like.device)
    if boxes is not None:
        boxed = ~boxes.isnan().any(2).all(1)
    padded = ~boxed
    if masked is not None:
        clicked = (point_labels != -1).any(1) if point_labels is not None else torch.zeros_like(boxed)
        padded = padded & (clicked | ~masked)
    parts = [padding.expand(len(like), depth, 1, -1)]
    counted = [padded[:, None, None].expand(-1, depth, -1)]
    real = [torch.zeros_like(counted[0])]
    if point_coords is not None and point_labels is not None:
        points, labels = to_slices(point_coords, point_labels, depth)
        parts.append(embedded(encoder, to_pixels(points, shape, backbone), labels).expand(-1, depth, -1, -1))
        counted.append((labels != -1).expand(-1, depth, -1))
        real.append(counted[-1])
    if boxes is not None:
        half = boxes.shape[2] // 2
        there = ~boxes.isnan().any(2)[:, None].expand(-1, depth, -1)  # (R, D, M)
        corners = boxes.nan_to_num().unflatten(2, (2, half))  # (R, M, 2, 2 or 3)
        kinds = torch.tensor([2, 3], device=boxes.device).expand(*boxes.shape[:2], -1)
        tokens = embedded(encoder, to_pixels(corners[..., :2], shape, backbone), kinds)[:, None]
        tokens = tokens.expand(-1, depth, -1, -1, -1)  # (R, D, M, 2, 256)
        if half == 3:
            k = torch.arange(depth, device=boxes.device)[None, :, None]
            inside = (k >= corners[:, None, :, 0, 2]) & (k <= corners[:, None, :, 1, 2])
            tokens = torch.where(inside[..., None, None], tokens, encoder.point_embeddings[0].weight[0])
        parts.append(tokens.flatten(2, 3))
        counted.append(there.repeat_interleave(2, 2))
        real.append(counted[-1])
    tokens, own = torch.cat(parts, 2), torch.cat(real, 2)[..., None]  # (R, D, T, 256), (R, D, T, 1)
    condition = nearest_prompts((tokens * own).sum(2), own.sum(2), padding)
    return tokens, torch.cat(counted, 2), condition


def in_whole_slices(boxes: Tensor) -> Tensor:
    """Boxes (R, M, 4 or 6), of volumes with the first and the last slice that they hold; of one between two slices that
    is the nearer one."""
    if boxes.shape[2] == 4:
        return boxes
    lower, upper = boxes[..., 2], boxes[..., 5]
    first, last, middle = (lower - 1e-3).ceil(), (upper + 1e-3).floor(), ((lower + upper) / 2).round()
    first, last = torch.where(first > last, middle, first), torch.where(first > last, middle, last)
    return torch.cat([boxes[..., :2], first[..., None], boxes[..., 3:5], last[..., None]], 2)


def embedded(encoder: Any, pixels: Tensor, kinds: Tensor) -> Tensor:
    """SAM's tokens (..., n, 256) of places (x, y) in pixels (..., n, 2), by their kinds (..., n): -1 padding, 0 and 1
    clicks beside and on the object, 2 and 3 a box's lower and upper corner."""
    centres = (pixels + 0.5).flatten(0, -3)  # as SAM's encoder takes them, (batch, n, 2)
    places = encoder.pe_layer.forward_with_coords(centres, encoder.input_image_size).view(*kinds.shape, -1)
    table = torch.cat([encoder.not_a_point_embed.weight, *(token.weight for token in encoder.point_embeddings)])
    return table[kinds.long() + 1] + torch.where((kinds != -1)[..., None], places, 0.0)


def nearest_prompts(sums: Tensor, numbers: Tensor, nothing: Tensor) -> Tensor:
    """Mean prompt of each slice (R, D, 256), from sums of tokens and their numbers (R, D, 1): a slice's own, or that of
    the nearest slice that has one, divided by one more than their distance; ``nothing`` where no slice has."""
    slices = torch.arange(sums.shape[1], device=sums.device)
    distance = (slices[:, None] - slices).abs().expand(len(sums), -1, -1)
    distance = distance.masked_fill(numbers[:, None, :, 0] == 0, sums.shape[1])  # (R, D, D')
    far, where = distance.min(2, keepdim=True)
    means = (sums / numbers.clamp(min=1)).gather(1, where.expand(-1, -1, sums.shape[2]))
    return torch.where(far < sums.shape[1], means / (1 + far), nothing)


def to_slices(coords: Tensor, labels: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Clicks (R, N, 2 or 3) with labels (R, N) to (R, D, n, 2) and (R, D, n): a slice's own first, the rest padding."""
    if coords.shape[2] == 2:
        return coords[:, None], labels[:, None]
    slices = torch.arange(depth, device=coords.device)[None, :, None]
    own = (coords[:, None, :, 2].round() == slices) & (labels != -1)[:, None]  # (R, D, N)
    most = own.sum(2).max().clamp(min=1).item()
    if torch.compiler.is_compiling():  # torch.export does not know the clicks
        torch._check(1 <= most)
        torch._check(most <= own.shape[2])
    first = own * 2**31 - torch.arange(own.shape[2], device=coords.device)
    order = first.topk(most, dim=2).indices  # (R, D, n); ONNX has no stable sort
    placed = torch.where(own, labels[:, None].expand_as(own), -1).gather(2, order)
    plane = coords[:, None, :, :2].expand(-1, depth, -1, -1).gather(2, order[..., None].expand(-1, -1, -1, 2))
    return plane, placed


def to_low_resolution(masks: Tensor, backbone: Backbone) -> Tensor:
    """Logits (N, 1, H, W) on an image's grid as SAM takes them for mask prompts: (N, 4 h, 4 w) over the encoder's
    square, at most :data:`CERTAIN` in size, and :data:`CERTAIN` below 0 where the square is padded."""
    cells = backbone.prompt_encoder.image_embedding_size[0]
    size: int = 4 * cells  # type: ignore[assignment,operator]
    with torch.autocast(masks.device.type, enabled=False):
        square = to_square(masks.float().clamp(-CERTAIN, CERTAIN) + CERTAIN, size, backbone.weights.resize)
    return square[:, 0] - CERTAIN


def to_pixels(coords: Tensor, shape: tuple[int, ...], backbone: Backbone) -> Tensor:
    """(row, column) voxels of the image (..., 2) to SAM's (x, y) pixels of the encoder's square."""
    plane = (shape[0], shape[1])
    resized = resized_shape(plane, backbone.image_size, backbone.weights.resize)
    factor = torch.tensor(resized, device=coords.device) / torch.tensor(plane, device=coords.device)
    return ((coords + 0.5) * factor - 0.5).flip(-1)


def in_part(coords: Tensor | None, part: tuple[int, int] | None) -> Tensor | None:
    """Clicks of a volume in voxels of its part that begins at slice ``part[0]``, whose other clicks lie outside."""
    return coords if coords is None or part is None else coords - coords.new_tensor([0, 0, part[0]])


def at_clicks(images: Tensor, coords: Tensor) -> Tensor:
    """Values (R, C, N) of images (B, C, *spatial), B = R or 1, at the voxels (R, N, 2 or 3) that clicks fall on."""
    shape = images.shape[2:]
    flat = torch.zeros_like(coords[..., 0], dtype=torch.int64)
    for axis, size in enumerate(shape):
        flat = flat * size + coords[..., axis].round().long().clamp(0, size - 1)
    values = images.flatten(2).expand(coords.shape[0], -1, -1)
    return values.gather(2, flat[:, None].expand(-1, images.shape[1], -1))
