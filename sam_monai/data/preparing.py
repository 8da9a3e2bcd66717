"""Images from their file's grid and units to the network's: turned, resampled, scaled to [0, 1]."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    MapTransform,
    ScaleIntensityRange,
    ScaleIntensityRanged,
    Spacingd,
    Transform,
)
from torch import Tensor

from ..errors import InputError, warn_once
from .dicom import MODALITY
from .frames import EachFrame, InLined, frames_of
from .label_like import values_of_labels
from .modality import contradicts
from .nifti import FULL_SCALE
from .slicing import ToSlicesd

Settings = Mapping[str, Any]
SMALLEST = 8  # pixels along the first two axes
FEWEST_HU = 50  # from the darkest voxel of any CT to the brightest
FAINT = 0.1  # of the range of a prepared image; less is unusual
MOST_HU = 40000  # metal is 30000 at most, and -1000 saved without its sign is 64536
FAINTEST = 0.99 / 255  # of the range of a prepared image: anything less is not even one step of 8 bits


def scale_intensity(intensity: str | Sequence[str], ct_window: Sequence[float]) -> Transform:
    """Intensities to [0, 1].

    ``"ct"``: a window (lower, upper) in Hounsfield units. ``"mr"``: the volume's own range, as MR has no unit, see
    :func:`mr_range`. ``"picture"``: values of 8 bits divided by 255, deeper ones by their own range. A list has one for
    each channel, which is scaled by itself.
    """
    if not isinstance(intensity, str):
        return ScaleEachChannel([scale_intensity(kind, ct_window) for kind in intensity])
    if intensity == "ct":
        numbers = [x for x in ct_window if isinstance(x, int | float) and np.isfinite(x)]
        if len(ct_window) != 2 or len(numbers) != 2 or numbers[0] >= numbers[1]:
            raise InputError(
                f"the key ct_window is {list(ct_window)}; give a lower and an upper end, as in [-160, 240]"
            )
        return ScaleIntensityRanged("image", ct_window[0], ct_window[1], 0.0, 1.0, clip=True)
    if intensity == "mr":
        return ScaleMRd("image")
    if intensity == "picture":
        return ScalePictured("image")
    raise InputError(f"the key intensity is 'ct', 'mr' or 'picture', not {intensity!r}")


def mr_range(values: np.ndarray) -> tuple[float, float]:
    """The intensities that become 0 and 1: the 0.5 and 99.5 percentiles.

    A value that fills more than half of the volume, as around a cut-out organ or a brain without its skull, is no part
    of the image. Percentiles are then those of the rest, and the range reaches to that value too. A value that would
    leave the rest less than a tenth of the range stands for "outside", as -32768 does, and the range ends before it.
    """
    low, high = np.percentile(values, (0.5, 99.5))
    for outside in (np.median(values), low, high):
        inside = values[values != outside]
        if not 0 < inside.size <= 0.995 * values.size:
            continue
        lowest, highest = np.percentile(inside, (0.5, 99.5))
        ends = min(lowest, outside), max(highest, outside)
        if 0 < 10 * (highest - lowest) < ends[1] - ends[0]:
            return float(lowest), float(highest)
        if 2 * inside.size < values.size:
            return float(ends[0]), float(ends[1])
    return float(low), float(high)


class ScaleEachChannel(Transform):
    """Scales every channel of an image by a transform of its own."""

    def __init__(self, scales: Sequence[Transform]) -> None:
        self.scales = scales

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data["image"].clone()
        for i, scale in enumerate(self.scales):
            image[i : i + 1] = scale({"image": image[i : i + 1]})["image"]
        return {**data, "image": image}


class ScaleMRd(MapTransform):
    """MR intensities to [0, 1] by :func:`mr_range`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            low, high = mr_range(np.asarray(out[key]))
            if low < high:
                out[key] = ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(out[key])
        return out


class ScalePictured(MapTransform):
    """Pictures to [0, 1]: by the value that is white in their type of file; where that does not say, as they are if
    they are in [0, 1], else by their own minimum and maximum."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            picture = out[key]
            white = getattr(picture, "meta", {}).get(FULL_SCALE)
            low, high = float(picture.min()), float(picture.max())
            if white is not None:
                out[key] = picture / float(white)
            elif (low < 0 or high > 1) and low < high:
                out[key] = (picture - low) / (high - low)
        return out


class CheckKind(Transform):
    """Refuses by name a picture where volumes are wanted, the other way round, an image too small to be one, colours
    where grey is wanted, the other way round, and DICOM of another modality than CT where Hounsfield units are wanted.
    Warns of a DICOM CT where MR is wanted, of DICOM that says it is of another modality than the training's images, and
    of what looks like a label map.

    Three equal channels are grey, which many programs save as RGB.
    """

    def __init__(self, settings: Settings) -> None:
        self.spatial_dims, self.intensity = settings["spatial_dims"], settings["intensity"]
        self.window = settings.get("ct_window") or (0, FEWEST_HU)
        self.channels, self.names = settings.get("image_channels"), settings.get("channel_names")
        self.modality = settings.get("modality") or ()

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        image = data["image"]
        found = image.ndim - 1
        if found != self.spatial_dims:
            raise InputError(
                f"{file_of(image)} has {found} spatial axes and not {self.spatial_dims}: "
                "pictures and volumes take an adapter each; a single slice is saved as a volume of depth 1"
            )
        check_size(image)
        if (values := values_of_labels(image)) is not None:
            shown = ", ".join(map(str, values[:6])) + (f" and {len(values) - 6} more" if len(values) > 6 else "")
            warn_once(
                f"{file_of(image)}: looks like a label map, for it holds the values {shown}: if it is one and no image, "
                "take it away, and the mask that is made of it"
            )
        if self.names is not None:
            if len(image) != len(self.names):
                raise InputError(
                    f"{file_of(image)} has {len(image)} channel(s) and the adapter takes {', '.join(self.names)}"
                )
            return self.check_modality(data)
        is_grey = len(image) == frames_of(image) or (self.channels == 1 and bool((image == image[:1]).all()))
        if self.channels not in (None, 1 if is_grey else len(image)):
            kinds = {1: "grey (1 channel)", 3: "in colour (3 channels)"}
            raise InputError(
                f"{file_of(image)} is {kinds[len(image) // frames_of(image)]} and the adapter is for images that are "
                f"{kinds[self.channels]}: give such images; or say by the key channels what to take of a file, as in "
                f"{'[0]' if self.channels == 1 else '[0, 0, 0]'}"
            )
        return self.check_modality(data)

    def check_modality(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        image = data["image"]
        modality = image.meta.get(MODALITY, "")
        if self.intensity == "ct" and modality not in ("", "CT", "OT"):
            raise InputError(f"{file_of(image)} is {modality} and no CT, which the key intensity ('ct') says it is")
        if contradicts(modality, self.modality):
            warn_once(
                f"{file_of(image)} says that it is {modality}, and the adapter is for {' and '.join(self.modality)}: "
                "the mask is likely to be wrong. Take an adapter for such images (the key modality says what those of "
                "the training are)"
            )
        elif self.intensity == "mr" and modality == "CT" and not self.modality:
            warn_once(
                f"{file_of(image)} is a CT, and what it is prepared for is MR (the key intensity is 'mr'): the mask is "
                "likely to be wrong. Take an adapter for CT, or train one with the key intensity ct"
            )
        if self.intensity == "ct" and image.min() >= 0:
            warn_once(
                f"{file_of(image)}: holds no value below 0, and in Hounsfield units air is -1000, fat -100: if its "
                "values are others, the mask is likely to be wrong"
            )
        # A narrow window says that values were scaled.
        if self.intensity == "ct" and image.max() - image.min() < min(FEWEST_HU, self.window[1] - self.window[0]):
            raise InputError(
                f"{file_of(image)}: holds values from {float(image.min()):.3g} to {float(image.max()):.3g}, which are "
                "no Hounsfield units, in which air is -1000 and water 0; give the CT as it was before it was scaled"
            )
        if self.intensity == "ct" and image.max() > MOST_HU:
            raise InputError(
                f"{file_of(image)}: holds values up to {float(image.max()):.0f}, which are no Hounsfield units; were "
                "negative ones saved without their sign?"
            )
        return data


class CheckPrepared(MapTransform):
    """The last step: refuses what no network was trained on, values outside [0, 1] or an image that scaling left blank,
    and labels that are no whole numbers."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            values: Tensor = data[key]
            low, high = (value.item() for value in torch.aminmax(values))
            if key == "label":
                if not np.isfinite([low, high]).all() or low < 0 or not torch.equal(values, values.round()):
                    raise InputError(f"{file_of(values)}: its prepared label holds {low:g} to {high:g}; check its file")
                continue
            if not (np.isfinite([low, high]).all() and low >= 0 and high <= 1):
                raise InputError(
                    f"{file_of(values)}: its prepared intensities are {low:g} to {high:g} where a network takes 0 to "
                    "1; check the file, and the key intensity"
                )
            if high - low < FAINTEST:
                raise InputError(
                    f"{file_of(values)}: shows nothing: every intensity is {low:.3g} once scaled to 0 to 1; "
                    "check the file, and the keys intensity and ct_window (in Hounsfield units)"
                )
            if high - low < FAINT:
                warn_once(
                    f"{file_of(values)}: shows little: intensities are {low:.3g} to {high:.3g} where those of an image "
                    "reach from 0 to 1, so the mask is likely to be wrong; check the file, and the keys intensity and "
                    "ct_window"
                )
        return dict(data)


def check_size(image: Any) -> None:
    """Refuse an image of a few pixels, which is no image.

    Raises:
        InputError: fewer than 8 pixels along one of the first two axes.
    """
    if min(image.shape[1:3]) < SMALLEST:
        size = " x ".join(str(n) for n in image.shape[1:])
        raise InputError(f"{file_of(image)}: is only {size}; the first two axes need {SMALLEST} each: remove the case")


def pixel_mm(spacing: Sequence[float]) -> float | None:
    """The side of a pixel of a slice, of one spacing along both of its axes; ``None`` for pictures, which have none."""
    return float(spacing[0] * spacing[1]) ** 0.5 if len(spacing) > 1 else None


def file_of(image: Any) -> str:
    return str(getattr(image, "meta", {}).get("filename_or_obj", "an image"))


class SpacingOfKeysd(Spacingd):
    """MONAI's, for its own keys alone: it fails on a neighbour such as MONAI Label's string ``image_path``."""

    def __call__(self, data: Mapping[Hashable, Any], *args: Any, **kwargs: Any) -> dict[Hashable, Any]:
        own = {key: data[key] for key in self.keys if key in data}
        return {**data, **super().__call__(own, *args, **kwargs)}


def preparing(settings: Settings, keys: Sequence[str] = ("image",)) -> list[Transform]:
    """From the file's grid and units to the network's.

    Volumes are turned so that the last axis is the one to be sliced, and slices lie as radiologists see them
    (:mod:`sam_monai.data.slicing`), then resampled if a spacing is set. Frames are scaled each by itself and then lie
    one behind the other.
    """
    steps: list[Transform] = [CheckKind(settings)]
    if settings["spatial_dims"] == 3:
        steps.append(ToSlicesd(keys, settings["orientation"]))
        if settings["spacing"] is not None:
            modes = ["bilinear" if key == "image" else "nearest" for key in keys]
            steps.append(SpacingOfKeysd(keys, pixdim=settings["spacing"], mode=modes))
    intensity, names = settings["intensity"], settings.get("channel_names")
    if names is not None and isinstance(intensity, str):
        intensity = [intensity] * len(names)
    elif not isinstance(intensity, str) and len(intensity) != len(names or ()):
        raise InputError(
            f"the key intensity lists {len(intensity)} kinds and the channels are {', '.join(names or ['not named'])}; "
            "give one for all, or one for each"
        )
    scale = scale_intensity(intensity, settings["ct_window"])
    if settings.get("frames"):
        return [*steps, EachFrame("image", scale), InLined(keys), CheckPrepared(keys)]
    return [*steps, scale, CheckPrepared(keys)]


def check_scale(scale: str) -> None:
    if scale not in ("whole", "patch"):
        raise InputError(f"the key scale is 'whole' or 'patch', not {scale!r}")
