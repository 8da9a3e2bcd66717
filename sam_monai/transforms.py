"""The bundles' transforms, in one place, so that training and inference prepare images alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer
from monai.transforms import (
    Compose,
    EnsureTyped,
    FillHolesd,
    KeepLargestConnectedComponentd,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
    SpatialPadd,
    Transform,
)
from torch import Tensor

from .backbones.resize import to_square
from .data.dataset import has_sides
from .data.load import LoadCased
from .data.prompts import KeepClicks
from .errors import InputError
from .networks.base import AdaptedSAM
from .networks.slices import from_slices, slices_of
from .slabs import SlabInferer, ToFileGridd
from .slicing import ToSlicesd, sides_axis

Settings = Mapping[str, Any]


def scale_intensity(intensity: str, ct_window: Sequence[float]) -> Transform:
    """Intensities to [0, 1].

    ``"ct"``: a window (lower, upper) in Hounsfield units. ``"mr"``: the volume's own 0.5 and 99.5 percentiles, as MR
    has no unit. ``"picture"``: 8-bit values divided by 255, deeper ones by their own range.
    """
    if intensity == "ct":
        return ScaleIntensityRanged("image", ct_window[0], ct_window[1], 0.0, 1.0, clip=True)
    if intensity == "mr":
        return ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True)
    if intensity == "picture":
        return ScalePictured("image")
    raise InputError(f"the key intensity is 'ct', 'mr' or 'picture', not {intensity!r}")


class ScalePictured(MapTransform):
    """8-bit pictures to [0, 1]; deeper ones by their own minimum and maximum; those in [0, 1] as they are."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            picture = out[key]
            low, high = (0.0, 255.0) if picture.max() <= 255 else (float(picture.min()), float(picture.max()))
            if picture.max() > 1:  # else it is in [0, 1] already
                out[key] = (picture - low) / max(high - low, 1.0)
        return out


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


class RefuseOtherDims(Transform):
    """Refuses a picture where volumes are wanted, and the other way round, by name."""

    def __init__(self, spatial_dims: int) -> None:
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        found = data["image"].ndim - 1
        if found != self.spatial_dims:
            raise InputError(
                f"{data['image'].meta['filename_or_obj']} has {found} spatial axes and not {self.spatial_dims}: "
                "pictures and volumes take an adapter each; a single slice is saved as a volume of depth 1"
            )
        return data


class SpacingOfKeysd(Spacingd):
    """MONAI's, for its own keys alone: it fails on a neighbour such as MONAI Label's string ``image_path``."""

    def __call__(self, data: Mapping[Hashable, Any], *args: Any, **kwargs: Any) -> dict[Hashable, Any]:
        own = {key: data[key] for key in self.keys if key in data}
        return {**data, **super().__call__(own, *args, **kwargs)}


def preparing(settings: Settings, keys: Sequence[str] = ("image",)) -> list[Transform]:
    """From the file's grid and units to the network's.

    Volumes are turned so that the last axis is the one to be sliced, and slices lie as radiologists see them
    (:mod:`sam_monai.slicing`), then resampled if a spacing is set.
    """
    steps: list[Transform] = [RefuseOtherDims(settings["spatial_dims"])]
    if settings["spatial_dims"] == 3:
        steps.append(ToSlicesd(keys, settings["orientation"]))
        if settings["spacing"] is not None:
            modes = ["bilinear" if key == "image" else "nearest" for key in keys]
            steps.append(SpacingOfKeysd(keys, pixdim=settings["spacing"], mode=modes))
    return [*steps, scale_intensity(settings["intensity"], settings["ct_window"])]


def training(
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
        labels: names of the foreground labels. Where one holds left or right nothing is flipped or turned over.
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
        mirror = mirroring(volume) if not has_sides(labels) else []
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
    """Everything that the random flips and quarter turns of :func:`training` can make of a sample (C, H, W[, D])."""
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


def evaluation(labels: Sequence[str], settings: Settings) -> Compose:
    """Files to whole images for the network. A label stays as it is in its file: predictions are brought to it."""
    load = LoadCased(("image", "label"), labels, settings["channels"], allow_missing_keys=True)
    return Compose([load, *preparing(settings), KeepClicks()])


def on_one_grid(labels: Sequence[str], settings: Settings) -> Compose:
    """Files to whole images for the network, and their labels on the same grid."""
    keys = ("image", "label")
    return Compose([LoadCased(keys, labels, settings["channels"]), *preparing(settings, keys)])


def finishing(preparation: Compose, largest_component: bool = False, fill_holes: bool = False) -> Compose:
    """What the inferer gives to a label map on the grid of the image's own file.

    Args:
        preparation: the transforms that prepared the image.
        largest_component: keep only the largest connected component of each label.
        fill_holes: fill holes inside a label.
    """
    steps: list[Transform] = [ToFileGridd(preparation)]
    if largest_component:
        steps.append(KeepLargestConnectedComponentd("pred"))
    if fill_holes:
        steps.append(FillHolesd("pred"))
    return Compose(steps)


def check_scale(scale: str) -> None:
    if scale not in ("whole", "patch"):
        raise InputError(f"the key scale is 'whole' or 'patch', not {scale!r}")


def inferer(scale: str, image_size: int, spatial_dims: int, overlap: float) -> Inferer:
    """The image or volume as a whole, or patches of the encoder's size, overlapped and blended.

    Volumes pass in slabs of slices, so memory does not grow with depth.
    """
    check_scale(scale)
    if scale == "whole":
        return SlabInferer(SimpleInferer()) if spatial_dims == 3 else SimpleInferer()
    size = (image_size, image_size, 8)[:spatial_dims]
    patches = SlidingWindowInferer(
        size,
        sw_batch_size=1 if spatial_dims == 3 else 8,
        overlap=(overlap, overlap, 0.0)[:spatial_dims],
        mode="gaussian",
    )
    return SlabInferer(patches) if spatial_dims == 3 else patches
