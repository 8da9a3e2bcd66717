"""Between an image's own grid and the encoder's square, by the rule the weights were trained with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resized_shape(shape: tuple[int, int], image_size: int, rule: str) -> tuple[int, int]:
    """Rows and columns that an image of ``shape`` takes of the square.

    ``"stretch"`` (MedSAM): all of it. ``"pad"`` (SAM, MobileSAM, LiteMedSAM): the longest side does, the aspect ratio
    stays.
    """
    if rule == "stretch":
        return image_size, image_size
    scale = image_size / max(shape)
    return max(1, int(shape[0] * scale + 0.5)), max(1, int(shape[1] * scale + 0.5))


def to_square(images: Tensor, image_size: int, rule: str, mode: str = "bilinear") -> Tensor:
    """(N, C, H, W) -> (N, C, image_size, image_size): antialiased, or by nearest neighbour for labels; zeros to the
    right and below where the rule pads."""
    rows, columns = resized_shape((images.shape[2], images.shape[3]), image_size, rule)
    if mode == "nearest":
        images = F.interpolate(images, (rows, columns), mode="nearest-exact")
    elif (rows, columns) != tuple(images.shape[2:]):
        images = F.interpolate(images, (rows, columns), mode="bilinear", align_corners=False, antialias=True)
    return F.pad(images, (0, image_size - columns, 0, image_size - rows))


def from_square(logits: Tensor, image_size: int, rule: str, shape: tuple[int, int]) -> Tensor:
    """(N, L, h, w) logits over the square -> (N, L, H, W) on the image's own grid, as SAM's post-processing does."""
    if tuple(logits.shape[2:]) != (image_size, image_size):
        logits = F.interpolate(logits, (image_size, image_size), mode="bilinear", align_corners=False)
    rows, columns = resized_shape(shape, image_size, rule)
    logits = logits[..., :rows, :columns]
    if (rows, columns) == tuple(shape):
        return logits
    return F.interpolate(logits, shape, mode="bilinear", align_corners=False)
