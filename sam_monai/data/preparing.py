"""Images from their file's grid and units to the network's: turned, resampled, scaled to [0, 1]."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.transforms import (
    MapTransform,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
    Transform,
)

from ..errors import InputError
from .slicing import ToSlicesd

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
    (:mod:`sam_monai.data.slicing`), then resampled if a spacing is set.
    """
    steps: list[Transform] = [RefuseOtherDims(settings["spatial_dims"])]
    if settings["spatial_dims"] == 3:
        steps.append(ToSlicesd(keys, settings["orientation"]))
        if settings["spacing"] is not None:
            modes = ["bilinear" if key == "image" else "nearest" for key in keys]
            steps.append(SpacingOfKeysd(keys, pixdim=settings["spacing"], mode=modes))
    return [*steps, scale_intensity(settings["intensity"], settings["ct_window"])]


def check_scale(scale: str) -> None:
    if scale not in ("whole", "patch"):
        raise InputError(f"the key scale is 'whole' or 'patch', not {scale!r}")
