"""Cases to training samples: the encoder's square or patches, and what is varied at random."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureTyped,
    Flip,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    SpatialPadd,
    Transform,
)
from torch import Tensor

from ..backbones.resize import to_square
from ..data.frames import RandPart
from ..data.preparing import Settings, check_scale, loading, preparing
from ..data.sides import has_sides, mirrored_with_sides
from ..data.slicing import sides_axis
from ..data.unlabelled import UNLABELLED
from ..errors import InputError
from ..networks.base import AdaptedSAM
from ..networks.slices import from_slices, slices_of

logger = logging.getLogger(__name__)
SOME = 1024  # voxels, among which one of the background is looked for


class NameCase(Transform):
    """Keeps the name of a case's image under "case", for messages about the batch it is in."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        named = isinstance(data["image"], (str, Path))
        return {**data, "case": Path(data["image"]).name} if named else dict(data)


class CropAroundLabelsd(RandCropByPosNegLabeld):
    """MONAI's, where a large organ does not crowd out a small one: every value in a case's label map is as often as any
    other that of the voxel in the centre of a sample."""

    def randomize(
        self, label: Tensor | None = None, fg_indices: Any = None, bg_indices: Any = None, image: Tensor | None = None
    ) -> None:
        flat, random = np.asarray(label).ravel(), self.cropper.R
        labelled = np.flatnonzero((flat > 0) & (flat != UNLABELLED))
        if len(labelled):
            values = flat[labelled].astype(np.int64)
            share = 1 / np.bincount(values)[values]
            labelled = random.choice(labelled, self.cropper.num_samples, p=share / share.sum())
        some = random.randint(len(flat), size=SOME)  # a list of all background is as large as the volume
        background = some[flat[some] == 0]
        if not len(background):
            background = np.flatnonzero(flat == 0)
        if not len(labelled) and not len(background):
            file = getattr(label, "meta", {}).get("filename_or_obj", "a label")
            raise InputError(
                f"{file}: none of its annotated slices is left at the key spacing: give a spacing whose last number is "
                "that of the file, or leave it out"
            )
        super().randomize(label, labelled, background, image)


class ToEncoderSquared(MapTransform):
    """Image and label to the encoder's square, as the network itself would bring them there.

    Training batches then need no more resizing: (C, H, W[, D]) -> (C, image_size, image_size[, D]). For training only:
    it has no inverse.
    """

    def __init__(self, network: AdaptedSAM) -> None:
        super().__init__(("image", "label"))
        self.image_size, self.rule = network.image_size, network.resize
        mean = network.backbone.pixel_mean.cpu()
        self.mean = mean if network.channel_names is None else mean.mean()  # SAM's three are not yet mixed here

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            volume = torch.as_tensor(out[key])[None]
            slices = slices_of(volume)
            if key == "label":
                square = to_square(slices, self.image_size, self.rule, "nearest")
            elif self.mean.any():  # the network subtracts the mean first and then pads with zeros
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
    mirror: str = "turns",
) -> Compose:
    """Files to training samples.

    Args:
        labels: names of the foreground labels, see :func:`mirrored_with_sides` for those that name a side.
        settings: ``intensity``, ``ct_window``, ``spatial_dims``, ``orientation``, ``spacing``, ``channels``,
            ``frames``, ``frames_together`` and ``scale``: ``"whole"``: slices resized to the encoder; ``"patch"``:
            patches at the image's own (or the given) resolution. Samples of volumes, and patches, lie around a label
            twice as often as elsewhere, and around each label of a case equally often.
        network: says the encoder's square, which is also the size of a patch, and how images come to it.
        slices: thickness of a sample of a volume. With depth attention it should be the network's ``slices_per_batch``,
            for as many slices see each other when the network is used.
        samples: samples drawn from a case each time it is visited.
        augment: random zooms, shifts, small turns and intensities, and what ``mirror`` says.
        views_only: only the flips and quarter turns among these: they make few images of one, those of :func:`views`.
        mirror: pictures get random ``"turns"`` (flips and quarter turns), ``"flips"``, flips from left to right
            (``"sides"``) or ``"none"``. Volumes are mirrored from side to side unless it is ``"none"``.
    """
    keys = ("image", "label")
    check_scale(settings["scale"])
    if settings.get("frames_together") and not network.depth_attention:
        raise InputError(
            "the key frames_together lets depth attention look along time, and depth_attention is False: give "
            "--depth_attention True, or leave frames_together out"
        )
    image_size, volume = network.image_size, settings["spatial_dims"] == 3
    depth = (slices,) if volume else ()
    if volume and network.depth_attention and slices != network.slices_per_batch:
        logger.warning(
            "depth attention is trained on %d slices and used on %d: the keys slices and slices_per_batch differ",
            slices,
            network.slices_per_batch,
        )
    steps: list[Transform] = [
        NameCase(),
        loading(settings, keys, labels),
        *preparing(settings, keys),
    ]
    if settings["scale"] == "whole":
        steps.append(ToEncoderSquared(network))
    if settings.get("frames") and network.depth_attention:
        steps.append(RandPart(keys))
    if volume or settings["scale"] == "patch":
        size = (image_size, image_size, *depth)
        steps.append(SpatialPadd(keys, size))
        steps.append(CropAroundLabelsd(keys, "label", size, pos=2, neg=1, num_samples=samples))
    if augment:
        mirrors = mirrored_with_sides(mirroring(volume, mirror), labels, views_only, settings.get("regions"))
        steps += mirrors if views_only else [*mirrors, *wobbling(volume, image_size)]
    return Compose([*steps, EnsureTyped(keys, track_meta=False)])


def mirroring(volume: bool, mirror: str) -> list[Transform]:
    """Random flips and quarter turns."""
    keys = ("image", "label")
    if mirror == "none":
        return []
    if volume:
        return [RandMirrord(keys, prob=0.5)]
    if mirror == "turns":
        return [RandFlipd(keys, prob=0.5, spatial_axis=0), RandRotate90d(keys, prob=0.75, max_k=3)]
    return [RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in ((1,) if mirror == "sides" else (0, 1))]


class RandMirrord(RandFlipd):
    """MONAI's, along the axis that runs from side to side in the patient, wherever slicing put it. No inverse."""

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        once = copy.copy(self)  # volumes of different axes are prepared in several threads
        once.flipper = Flip(sides_axis(data[self.keys[0]]), lazy=self.flipper.lazy)
        out = RandFlipd.__call__(once, data, lazy)
        self._do_transform = once._do_transform
        return out


def views(
    labels: Sequence[str], spatial_dims: int, augment: bool, mirror: str = "turns"
) -> list[Callable[[Tensor], Tensor]]:
    """All that the random flips and quarter turns of :func:`training_samples` can make of a sample (C, H, W[, D])."""
    if not augment or mirror == "none" or has_sides(labels):
        return [torch.clone]
    if spatial_dims == 3:
        return [torch.clone, lambda x: x.flip(1 + sides_axis(x))]
    if mirror == "sides":
        return [torch.clone, lambda x: x.flip(2)]
    if mirror == "flips":
        return [torch.clone, lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.flip(1, 2)]
    turns: list[Callable[[Tensor], Tensor]] = [lambda x, k=k: x.rot90(k, (1, 2)) for k in range(4)]
    return [*turns, *(lambda x, turn=turn: turn(x.flip(1)) for turn in turns)]


def wobbling(volume: bool, size: int) -> list[Transform]:
    """Random turns, zooms and shifts in the plane, and intensities, for samples of ``size`` pixels."""
    keys = ("image", "label")
    still = (0.0,) if volume else ()
    turn = (0.0, 0.0, 0.26) if volume else (0.26,)  # radians, in the plane
    return [
        RandAffined(
            keys,
            prob=0.7,
            rotate_range=turn,
            scale_range=(0.15, 0.15, *still),
            translate_range=(size / 8, size / 8, *still),
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        RandScaleIntensityd("image", factors=0.15, prob=0.5),
        RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.4)),
        ScaleIntensityRanged("image", 0.0, 1.0, 0.0, 1.0, clip=True),  # as prepared images are, always
    ]
