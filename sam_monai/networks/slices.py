"""The slices of images and volumes, and which of them are computed together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

MOST_BYTES = 2**30  # of a volume's logits that are kept
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = 0.5  # of an image's values beyond [0, 1]
ARRAY = 2**27  # bytes; beyond, more slices together are no faster, and take more memory


def slices_of(tensor: Tensor) -> Tensor:
    """(B, C, H, W[, D]) -> (B * D, C, H, W)."""
    return tensor.movedim(4, 1).flatten(0, 1) if tensor.ndim == 5 else tensor


def as_slices(image: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """An image or volume as slices (B * D, 3, H, W), of grey or colours; or (B * D, C, H, W) of the channels named."""
    if image.ndim not in (4, 5):
        raise InputError(
            f"the network takes (B, C, H, W) or (B, C, H, W, D), got a tensor of shape {tuple(image.shape)}"
        )
    if names is not None:
        if image.shape[1] != len(names):
            raise InputError(
                f"the network takes {len(names)} channels ({', '.join(names)}), got {image.shape[1]}: give these, in "
                "this order"
            )
    elif image.shape[1] not in (1, 3):
        raise InputError(
            f"the network takes 1 or 3 channels, got {image.shape[1]}: pick or repeat some by the key `channels`, or "
            "train with `channel_names`"
        )
    if not all(image.shape):
        raise InputError(f"the image is empty: it has the shape {tuple(image.shape)}")
    if hasattr(image, "as_tensor"):  # a MetaTensor
        image = image.as_tensor()
    slices = slices_of(image if image.dtype in PRECISIONS or image.is_complex() else image.float())
    return slices if names is not None else slices.expand(-1, 3, -1, -1)


def check_values(image: Tensor) -> None:
    """Refuse an image with values that are not finite, or so far beyond [0, 1] that it was not scaled. What resampling
    or augmentation adds beyond it, up to :data:`TOLERANCE`, passes.

    One pass over the image. A compiled or exported program has no such check.
    """
    if torch.compiler.is_compiling():
        return
    if image.is_complex():
        raise InputError("the image has complex values: the network takes real ones in [0, 1]")
    ends = torch.aminmax(torch.as_tensor(image).detach())
    try:
        low, high = (float(value) for value in ends)
    except RuntimeError:  # tensors without values, with which torch finds out shapes and devices
        return
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("the image has NaN or infinite values, which would spoil the whole answer: replace them")
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise InputError(f"the image has values from {low:g} to {high:g}: the network takes [0, 1], so scale it first")


def check_embedding(embedding: Tensor, image: Tensor, channels: int) -> None:
    """Refuse an embedding that is not of this image, as far as shapes tell."""
    image_axes, axes = (image.shape[0], *image.shape[4:]), (embedding.shape[0], *embedding.shape[4:])
    if embedding.ndim != image.ndim or axes != image_axes or embedding.shape[1] != channels:
        raise InputError(
            f"the embedding, of shape {tuple(embedding.shape)}, is not of this image, of shape {tuple(image.shape)}: "
            "give what network.encode gave for it"
        )


def from_slices(slices: Tensor, image: Tensor) -> Tensor:
    """(B * D, C, h, w) -> (B, C, h, w[, D])."""
    return slices.unflatten(0, (-1, image.shape[4])).movedim(1, 4) if image.ndim == 5 else slices


def of_image(logits: Tensor, image: Tensor) -> Tensor:
    """Logits as a MetaTensor where the image is one, with its affine and file, as MONAI's own networks give them. Each
    of several objects of one image has those of the image."""
    if not hasattr(image, "as_tensor") or torch.compiler.is_compiling():
        return logits
    from monai.data import MetaTensor  # half of the start of a command that shows an adapter
    from monai.data.utils import collate_meta_tensor

    if getattr(image, "is_batch", False) and len(logits) > len(image) == 1:
        own = image[0]
        each: Any = collate_meta_tensor([MetaTensor(one).copy_meta_from(own, copy_attr=False) for one in logits])
        return each
    return MetaTensor(logits).copy_meta_from(image, copy_attr=False)


def passes(slices: int, depth: int, together: int) -> list[tuple[int, int, int, int]]:
    """Which slices pass through the encoder together, and which of them are kept: (start, stop, first, last).

    Args:
        slices: number of all slices, of one volume after the other.
        depth: slices of a volume that must see each other; 1: none.
        together: how many pass at most. A volume of more passes in parts that overlap by a quarter of this, of which
            the outer eighths are not kept.
    """
    if depth <= together:
        step = max(1, together // depth) * depth
        return [(i, min(i + step, slices), i, min(i + step, slices)) for i in range(0, slices, step)]
    margin = max(1, together // 8) if together > 2 else 0
    parts = []
    for volume in range(0, slices, depth):
        first = 0
        while first < depth:
            start = min(max(0, first - margin), depth - together)
            last = depth if start + together == depth else start + together - margin
            parts.append((volume + start, volume + start + together, volume + first, volume + last))
            first = last
    return parts


def together(most: int, largest: int, device: torch.device) -> int:
    """How many slices are computed together, ``most`` of them or, on a CPU without gradients, fewer where arrays would
    grow beyond 128 MB.

    Args:
        largest: bytes of the largest array that one slice needs.
    """
    if device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return most
    return max(1, min(most, ARRAY // largest))


def pieces(features: Tensor, labels: int) -> Iterator[tuple[Tensor, int]]:
    """Embeddings (N, 256, h, w) as far as they are decoded together, each piece with its first slice's number."""
    if torch.compiler.is_compiling():  # a program for any number of slices has no parts
        yield features, 0
        return
    largest = features.shape[2] * features.shape[3] * labels * 16 * 32 * 4  # the upscaled features, before they are few
    step = together(len(features), largest, features.device)
    for first in range(0, len(features), step):
        yield features[first : first + step], first
