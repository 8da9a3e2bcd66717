"""Cases to training samples: the encoder's square or patches, and what is varied at random."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureTyped,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
    Transform,
)
from torch import Tensor

from ..backbones.resize import to_square
from ..data.load import LoadCased
from ..data.preparing import Settings, check_scale, preparing
from ..data.sides import has_sides, mirrored_with_sides
from ..data.slicing import sides_axis
from ..networks.base import AdaptedSAM
from ..networks.slices import from_slices, slices_of


class ToEncoderSquared(MapTransform):
    """Image and label to the encoder's square as the network itself would bring them there, so that training batches
    need no more resizing: (C, H, W[, D]) -> (C, image_size, image_size[, D]). Not inverted: for training only."""

    def __init__(self, network: AdaptedSAM) -> None:
        super().__init__(("image", "label"))
        self.image_size, self.rule = network.image_size, network.resize
        self.mean = network.backbone.pixel_mean.cpu()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            volume = torch.as_tensor(out[key])[None]
            slices = slices_of(volume)
            if key == "label":
                square = to_square(slices, self.image_size, self.rule, "nearest")
            elif self.mean.any():  # the network pads with zeros after it has taken the mean away
                square = to_square(slices - self.mean, self.image_size, self.rule) + self.mean
            else:
                square = to_square(slices, self.image_size, self.rule)
            out[key] = MetaTensor(from_slices(square, volume)[0], meta=getattr(out[key], "meta", None))
        return out


def training_samples(
    labels: Sequence[str],
    settings: Settings,
    network: AdaptedSAM,
    slices: int = 4,
    samples: int = 1,
    augment: bool = True,
    views_only: bool = False,
) -> Compose:
    """Files to training samples.

    Args:
        labels: names of the foreground labels, see :func:`mirrored_with_sides` for those that name a side.
        settings: ``intensity``, ``ct_window``, ``spatial_dims``, ``orientation``, ``spacing``, ``channels`` and
            ``scale``: ``"whole"``: slices resized to the encoder; ``"patch"``: patches at the image's own (or the
            given) resolution, drawn around labels twice as often as elsewhere.
        network: says the encoder's square, which is also the size of a patch, and how images come to it.
        slices: thickness of a sample of a volume.
        samples: samples drawn from a case each time it is visited.
        augment: random flips, turns, zooms and intensities.
        views_only: of these only the flips and quarter turns, which make few images of one: those of :func:`views`.
    """
    keys = ("image", "label")
    check_scale(settings["scale"])
    image_size, volume = network.image_size, settings["spatial_dims"] == 3
    depth = (slices,) if volume else ()
    steps: list[Transform] = [LoadCased(keys, labels, settings["channels"]), *preparing(settings, keys)]
    if settings["scale"] == "whole":
        steps.append(ToEncoderSquared(network))
    if volume or settings["scale"] == "patch":
        size = (image_size, image_size, *depth)
        steps.append(SpatialPadd(keys, size))
        steps.append(RandCropByPosNegLabeld(keys, "label", size, pos=2, neg=1, num_samples=samples))
    if augment:
        mirror = mirrored_with_sides(mirroring(volume), labels, image_alone=views_only)
        steps += mirror if views_only else [*mirror, *wobbling(volume)]
    return Compose([*steps, EnsureTyped(keys, track_meta=False)])


def mirroring(volume: bool) -> list[Transform]:
    """Random flips and quarter turns. Volumes are mirrored left to right only: no patient lies upside down, while a
    picture has no up."""
    keys = ("image", "label")
    if volume:
        return [RandMirrord(keys, prob=0.5)]
    return [RandFlipd(keys, prob=0.5, spatial_axis=0), RandRotate90d(keys, prob=0.75, max_k=3)]


class RandMirrord(RandFlipd):
    """MONAI's, of the axis that runs from side to side in the patient, wherever slicing put it."""

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        self.flipper.spatial_axis = sides_axis(data[self.keys[0]])
        return super().__call__(data, lazy)


def views(labels: Sequence[str], spatial_dims: int, augment: bool) -> list[Callable[[Tensor], Tensor]]:
    """All that the random flips and quarter turns of :func:`training_samples` can make of a sample (C, H, W[, D])."""
    if not augment or has_sides(labels):
        return [torch.clone]
    if spatial_dims == 3:
        return [torch.clone, lambda x: x.flip(1 + sides_axis(x))]
    turns: list[Callable[[Tensor], Tensor]] = [lambda x, k=k: x.rot90(k, (1, 2)) for k in range(4)]
    return [*turns, *(lambda x, turn=turn: turn(x.flip(1)) for turn in turns)]


def wobbling(volume: bool) -> list[Transform]:
    """Random turns and zooms in the plane, and intensities."""
    keys = ("image", "label")
    still = (0.0,) if volume else ()
    turn = (0.0, 0.0, 0.26) if volume else (0.26,)  # radians, in the plane
    return [
        RandAffined(
            keys,
            prob=0.7,
            rotate_range=turn,
            scale_range=(0.15, 0.15, *still),
            translate_range=(8, 8, *still),
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        RandScaleIntensityd("image", factors=0.15, prob=0.5),
        RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.4)),
    ]
