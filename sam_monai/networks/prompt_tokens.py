"""Clicks and boxes in the axes of an image or volume, as the sparse prompts of SAM's prompt encoder for each slice."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..backbones.backbone import Backbone
from ..backbones.resize import resized_shape
from ..errors import InputError

WIDTHS = ((1 / 64, 0.5), (1 / 32, 1.0), (1 / 16, 2.0))  # in the plane, of its longer side; and in slices
OBEYED = 1.0  # logit on its side that a click's voxel has at least, once the network answers a user


def check_prompts(image: Tensor, point_coords: Tensor | None, point_labels: Tensor | None, boxes: Tensor | None) -> int:
    """Number of objects asked for.

    Raises:
        InputError: shapes that do not fit each other or the image, or label values beyond -1, 0 and 1.
    """
    dims = image.ndim - 2
    if (point_coords is None) != (point_labels is None):
        raise InputError("point_coords and point_labels come together")
    sizes = []
    if point_coords is not None and point_labels is not None:
        if point_coords.ndim != 3 or point_coords.shape[2] != dims or point_labels.shape != point_coords.shape[:2]:
            raise InputError(
                f"point_coords are (B, N, {dims}) and point_labels (B, N) for an image of {dims} axes, "
                f"not {tuple(point_coords.shape)} and {tuple(point_labels.shape)}"
            )
        if not torch.compiler.is_compiling() and not ((point_labels >= -1) & (point_labels <= 1)).all():
            raise InputError("point_labels are 1 (on the object), 0 (beside it) and -1 (padding)")
        sizes.append(len(point_coords))
    if boxes is not None:
        if boxes.ndim != 3 or boxes.shape[2] != 2 * dims:
            raise InputError(f"boxes are (B, N, {2 * dims}), lower corner then upper, not {tuple(boxes.shape)}")
        sizes.append(len(boxes))
    if len(set(sizes)) != 1 or (len(image) != 1 and sizes[0] != len(image)):
        raise InputError(
            f"prompts for {sizes} objects do not fit {len(image)} images: one object an image, or several of one image"
        )
    return sizes[0]


def sparse_prompts(
    backbone: Backbone,
    shape: tuple[int, ...],
    point_coords: Tensor | None,
    point_labels: Tensor | None,
    boxes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Prompt tokens of every slice of every object, and the prompt that conditions the weights.

    A click belongs to the slice that it lies in, a box to the slices between its corners. What a slice has no click for
    is padding as SAM pads, and where it lies beyond the box its corners are a negative click's token without a
    position. A slice with no prompt of its own is conditioned on the nearest slice's.

    Args:
        backbone: whose prompt encoder embeds.
        shape: of the image, (H, W) or (H, W, D).
        point_coords: (R, N, 2 or 3) in voxels, in the order of the axes.
        point_labels: (R, N): 1, 0, or -1 for padding.
        boxes: (R, M, 4 or 6), lower corner then upper, both inside; NaN for none.

    Returns:
        tokens (R, D, T, 256) and what the weights are conditioned on (R, D, 256), the mean of the tokens that are no
        padding; D is 1 for an image.
    """
    encoder = backbone.prompt_encoder
    depth = shape[2] if len(shape) == 3 else 1
    parts, counted = [], []
    if point_coords is not None and point_labels is not None:
        points, labels = to_slices(point_coords, point_labels, depth)
        points = to_pixels(points, shape, backbone)
        embedded = encoder._embed_points(points.flatten(0, 1), labels.flatten(0, 1), pad=boxes is None)
        parts.append(embedded.unflatten(0, (-1, depth)))
        counted.append(torch.nn.functional.pad(labels != -1, (0, embedded.shape[1] - labels.shape[2])))
    if boxes is not None:
        half = boxes.shape[2] // 2
        there = ~boxes.isnan().any(2)[:, None].expand(-1, depth, -1)  # (R, D, M)
        corners = boxes.nan_to_num().unflatten(2, (2, half))  # (R, M, 2, 2 or 3)
        flat = to_pixels(corners[..., :2].flatten(1, 2), shape, backbone)
        embedded = encoder._embed_boxes(flat.unflatten(1, (-1, 2)).flatten(0, 1).flatten(1))  # (R M, 2, 256)
        embedded = embedded.unflatten(0, boxes.shape[:2])[:, None].expand(-1, depth, -1, -1, -1)
        if half == 3:
            k = torch.arange(depth, device=boxes.device)[None, :, None]
            inside = (k >= corners[:, None, :, 0, 2]) & (k <= corners[:, None, :, 1, 2])
            embedded = torch.where(inside[..., None, None], embedded, encoder.point_embeddings[0].weight[0])
        padding = encoder.not_a_point_embed.weight[0]
        embedded = torch.where(there[..., None, None], embedded, padding)
        parts.append(embedded.flatten(2, 3))
        counted.append(there.repeat_interleave(2, 2))
    tokens, real = torch.cat(parts, 2), torch.cat(counted, 2)[..., None]  # (R, D, T, 256), (R, D, T, 1)
    return tokens, nearest_prompts((tokens * real).sum(2), real.sum(2), encoder.not_a_point_embed.weight[0])


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
    torch._check(1 <= most)  # for torch.export, which does not know the clicks
    torch._check(most <= own.shape[2])
    first = own * 2**31 - torch.arange(own.shape[2], device=coords.device)
    order = first.topk(most, dim=2).indices  # (R, D, n); ONNX has no stable sort
    placed = torch.where(own, labels[:, None].expand_as(own), -1).gather(2, order)
    plane = coords[:, None, :, :2].expand(-1, depth, -1, -1).gather(2, order[..., None].expand(-1, -1, -1, 2))
    return plane, placed


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
    what is missing is added, and less of it beside the voxel, by the narrowest of :data:`WIDTHS`, on the click's slice.

    Two clicks that contradict each other within two widths share what is between them.

    Args:
        logits: (R, H, W) or (R, H, W, D).
        coords, labels: clicks (R, N, 2 or 3) in voxels and their labels (R, N); those outside or -1 do not count.
    """
    shape = logits.shape[1:]
    size = torch.tensor(shape, device=coords.device)
    at = coords.round()
    counted = (labels != -1) & ((at >= 0) & (at < size)).all(2)
    sign = (2 * (labels == 1) - 1) * counted
    missing = sign * (OBEYED - sign * at_clicks(logits[:, None], coords)[:, 0]).clamp(min=0)  # (R, N)
    width = WIDTHS[0][0] * max(shape[:2])
    with torch.autocast(coords.device.type, enabled=False):
        rows, columns = (
            (-0.5 * ((torch.arange(shape[axis], device=coords.device) - at[..., axis, None]) / width) ** 2).exp()
            for axis in (0, 1)
        )
        rows = rows * missing[..., None]
        if len(shape) == 2:
            return logits + torch.einsum("rnh,rnw->rhw", rows, columns)
        slices = (torch.arange(shape[2], device=coords.device) == at[..., 2, None]).to(rows.dtype)
        return logits + torch.einsum("rnh,rnw,rnd->rhwd", rows, columns, slices)
