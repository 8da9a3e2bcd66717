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
    Zoomd,
)
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..errors import InputError, warn_once
from .frames import EachFrame, InLined
from .kind import SMALLEST, CheckKind, file_of
from .load import LoadCased
from .nifti import FULL_SCALE
from .slicing import ToSlicesd

Settings = Mapping[str, Any]
LEAST_PIXELS = 0.25  # of a picture's own that become one: it is not enlarged more
FAINT = 0.1  # of the range of a prepared image; less is unusual
RARE = (0.05, 99.95)  # per cent of the voxels that are darker, and that are not brighter
OF_FILES = ("channels", "channel_names", "regions", "frames", "instances")  # settings that say how files are read
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
        image = data["image"].to(torch.float32, copy=True)
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
    """Pictures to [0, 1]: by the value that is white in their type of file; where that does not say, as of 16 bits of
    grey, as they are if they are in [0, 1], else by :func:`mr_range`: one saturated pixel leaves the others visible."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            picture = out[key]
            white = getattr(picture, "meta", {}).get(FULL_SCALE)
            low, high = float(picture.min()), float(picture.max())
            if white is not None:
                out[key] = (picture / float(white)).clamp(0, 1)  # resampling rounds beyond white
            elif (low < 0 or high > 1) and low < high:
                usual = mr_range(np.asarray(picture))
                low, high = usual if usual[0] < usual[1] else (low, high)
                out[key] = ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(picture)
        return out


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
            flat = np.asarray(values).ravel()
            low, high = np.percentile(flat[:: 1 + flat.size // 2**20], RARE)  # a few saturated pixels show nothing
            if high - low < FAINT:
                warn_once(
                    f"{file_of(values)}: shows little: intensities are {low:.3g} to {high:.3g} where those of an image "
                    "reach from 0 to 1, so the mask is likely to be wrong; check the file, and the keys intensity and "
                    "ct_window"
                )
        return dict(data)


def pixel_mm(spacing: Sequence[float]) -> float | None:
    """The side of a pixel of a slice, of one spacing along both of its axes; ``None`` for pictures, which have none."""
    return float(spacing[0] * spacing[1]) ** 0.5 if len(spacing) > 1 else None


class SpacingOfKeysd(Spacingd):
    """MONAI's, for its own keys alone: it fails on a neighbour such as MONAI Label's string ``image_path``. Refuses
    what it leaves too small to be an image."""

    def __call__(self, data: Mapping[Hashable, Any], *args: Any, **kwargs: Any) -> dict[Hashable, Any]:
        own = {key: data[key] for key in self.keys if key in data}
        done = super().__call__(own, *args, **kwargs)
        for key, values in own.items():
            refuse_too_small(values, done[key].shape[1:])
        return {**data, **done}


class ShrinkPicturesd(Zoomd):
    """MONAI's, of smoothed images, by how many of the file's pixels become one along each axis. Keeps the file's
    affine, for prompts. Refuses what it would leave too small to be an image."""

    def __init__(self, keys: Sequence[str], pixels: Sequence[float]) -> None:
        modes = ["bilinear" if key == "image" else "nearest-exact" for key in keys]
        super().__init__(keys, [1 / n for n in pixels], modes, keep_size=False)

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        own = dict(data)
        for key, zoom in self.key_iterator(own, [self.zoomer.zoom] * len(self.keys)):
            picture = own[key] = data[key].clone()
            refuse_too_small(picture, [int(n * times) for n, times in zip(picture.shape[1:], zoom, strict=True)])
            picture.meta["original_affine"] = picture.affine.clone()
            if key == "image":  # MONAI's GaussianSmooth darkens the edges
                sigmas = [0.0, *(max(0.0, (1 / times - 1) / 2) for times in zoom)]
                picture.copy_(torch.as_tensor(gaussian_filter(np.asarray(picture), sigmas, mode="nearest")))
        return super().__call__(own, lazy)


def refuse_too_small(image: Tensor, resampled: Sequence[int]) -> None:
    """Refuse a new size (H, W[, D]) that is none of an image any more, where that of the image itself was."""
    if min(resampled[:2]) < SMALLEST <= min(image.shape[1:3]):
        size = " x ".join(str(n) for n in resampled)
        raise InputError(
            f"{file_of(image)}: is only {size} once resampled to the key spacing: check that, and the spacing in the "
            "file"
        )


def resampling(spacing: Sequence[float], spatial_dims: int, keys: Sequence[str]) -> list[Transform]:
    """Volumes to a spacing in mm; pictures to pixels that are so many of the file's, smoothed where they shrink."""
    if spatial_dims != len(spacing):
        raise InputError(
            f"the key spacing is {list(spacing)}: give three numbers (mm) for volumes, two (how many of a picture's "
            "pixels become one, down and across) for pictures"
        )
    if spatial_dims == 3:
        return [
            SpacingOfKeysd(keys, pixdim=spacing, mode=["bilinear" if key == "image" else "nearest" for key in keys])
        ]
    if min(spacing) < LEAST_PIXELS:
        raise InputError(
            f"the key spacing is {list(spacing)}: pictures would be enlarged more than fourfold; give more"
        )
    return [ShrinkPicturesd(keys, spacing)]


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
        steps += resampling(settings["spacing"], settings["spatial_dims"], keys)
    intensity, names = settings["intensity"], settings.get("channel_names")
    if names is not None and isinstance(intensity, str):
        intensity = [intensity] * len(names)
    elif not isinstance(intensity, str) and len(intensity) != len(names or ()):
        raise InputError(
            f"the key intensity lists {len(intensity)} kinds and the channels are {', '.join(names or ['not named'])}; "
            "give one for all, or one for each"
        )
    scale = scale_intensity(intensity, settings["ct_window"])
    together = settings.get("frames_together", False)
    if settings.get("frames"):
        return [*steps, EachFrame("image", scale), InLined(keys, together), CheckPrepared(keys)]
    if together:
        raise InputError("the key frames_together, given or the adapter's, is for frames of files: give --frames True")
    return [*steps, scale, CheckPrepared(keys)]


def loading(settings: Settings, keys: Sequence[str], labels: Sequence[str], missing: bool = False) -> LoadCased:
    """The first step, from files. ``missing``: whether a case may lack keys."""
    own = {key: settings[key] for key in OF_FILES if key in settings}
    return LoadCased(keys, labels, allow_missing_keys=missing, **own)


def check_scale(scale: str) -> None:
    if scale not in ("whole", "patch"):
        raise InputError(f"the key scale is 'whole' or 'patch', not {scale!r}")
