"""What an image must be for an adapter: refused or named where it is something else."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Transform

from ..errors import InputError, counted, shown, warn_once
from .dicom import MODALITY
from .frames import frames_of
from .label_like import values_of_labels
from .modality import contradicts
from .names import PICTURE_SUFFIXES
from .picture_files import image_picture
from .reading import read_file
from .slicing import sliced_axis

SMALLEST = 8  # pixels along each axis of a picture or slice
FEWEST_HU = 50  # from the darkest voxel of any CT to the brightest
LOWEST_HU = -3100  # scanners write -3024 outside of what they see
MOST_HU = 40000  # metal is 30000 at most, and -1000 saved without its sign is 64536
THINNEST, THICKEST = 0.002, 60.0  # mm of a voxel, of micro-CT and of a thick localiser
AIR = 0.05  # of the voxels of a CT, at least, are air


class CheckKind(Transform):
    """Refuses by name a picture where volumes are wanted, the other way round, an image too small to be one, colours
    where grey is wanted, the other way round, and DICOM of another modality than CT where Hounsfield units are wanted.
    Refuses numbers that are no Hounsfield units, or of which the window shows nothing, of a channel too. Warns of a CT
    where MR is wanted, of DICOM that says it is of another modality than the training's images, and of what looks like
    a label map.

    Three equal channels are grey, which many programs save as RGB.
    """

    def __init__(self, settings: Mapping[str, Any], warn: Callable[[str], object] = warn_once) -> None:
        self.warn = warn
        self.spatial_dims, self.intensity = settings["spatial_dims"], settings["intensity"]
        self.window = settings.get("ct_window")
        self.channels, self.names = settings.get("image_channels"), settings.get("channel_names")
        self.modality = settings.get("modality") or ()
        self.orientation = settings.get("orientation") or "coarsest"

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        image = data["image"]
        found = image.ndim - 1
        if found != self.spatial_dims:
            raise InputError(
                f"{file_of(image)} has {found} spatial axes and not {self.spatial_dims}: "
                "pictures and volumes take an adapter each; a single slice is saved as a volume of depth 1"
            )
        check_size(image, self.orientation)
        if (values := values_of_labels(image)) is not None:
            self.warn(
                f"{file_of(image)}: looks like a label map, because it holds the values {shown(values, 6)}: if it is "
                "one, remove it, and the mask made from it"
            )
        if self.names is not None:
            if len(image) != len(self.names):
                has, taken = counted(len(image), "channel"), ", ".join(self.names)
                raise InputError(f"{file_of(image)} has {has} and the adapter takes {taken}")
            self.check_modality(image)
            kinds = [self.intensity] * len(self.names) if isinstance(self.intensity, str | None) else self.intensity
            for channel, name, kind in zip(image, self.names, kinds, strict=True):
                self.check_values(channel, kind, f"{file_of(image)}: its channel {name}")
            return data
        is_grey = len(image) == frames_of(image) or (self.channels == 1 and bool((image == image[:1]).all()))
        if self.channels not in (None, 1 if is_grey else len(image)):
            kinds = {1: "grey (1 channel)", 3: "in colour (3 channels)"}
            raise InputError(
                f"{file_of(image)} is {kinds[len(image) // frames_of(image)]} and the adapter is for images that are "
                f"{kinds[self.channels]}: give such images; or say by the key channels what to take of a file, as in "
                f"{'[0]' if self.channels == 1 else '[0, 0, 0]'}"
            )
        self.check_modality(image)
        self.check_values(image, self.intensity, f"{file_of(image)}:")
        return data

    def check_modality(self, image: Any) -> None:
        modality = image.meta.get(MODALITY, "")
        if self.intensity == "ct" and modality not in ("", "CT", "OT"):
            raise InputError(f"{file_of(image)} is {modality}, but the key intensity ('ct') says it is CT")
        if contradicts(modality, self.modality):
            self.warn(
                f"{file_of(image)} says that it is {modality}, and the adapter is for {' and '.join(self.modality)}: "
                "the mask is likely to be wrong. Take an adapter for such images (the key modality says what those of "
                "the training are)"
            )
        elif self.intensity == "mr" and not self.modality and (modality == "CT" or not modality and is_like_ct(image)):
            what = "is a CT" if modality else "holds values like a CT's, with much air at -1000"
            self.warn(
                f"{file_of(image)} {what}, but it is prepared as MR (the key intensity is 'mr'): the mask is "
                "likely to be wrong. Take an adapter for CT, or train one with the key intensity ct"
            )
        if not modality and contradicts("CT", self.modality) and is_like_ct(image):
            self.warn(
                f"{file_of(image)}: holds values like a CT's, with much air at -1000, and the adapter is for "
                f"{' and '.join(self.modality)}: if it is one, the mask is likely to be wrong"
            )

    def check_values(self, image: Any, intensity: str | None, what: str) -> None:
        """Of an image, or of one of several channels; ``what`` begins the messages."""
        if intensity != "ct":
            return
        low, high = float(image.min()), float(image.max())
        if low >= 0:
            self.warn(
                f"{what} holds no value below 0, and in Hounsfield units air is -1000, fat -100: if its values are not "
                "in Hounsfield units, the mask is likely to be wrong"
            )
        # A narrow window says that values were scaled.
        window = self.window or (0, FEWEST_HU)
        if high - low < min(FEWEST_HU, window[1] - window[0]):
            raise InputError(
                f"{what} holds values from {low:.3g} to {high:.3g}, which are no Hounsfield units, in which air is "
                "-1000 and water 0; give the CT as it was before it was scaled"
            )
        if high > MOST_HU:
            raise InputError(
                f"{what} holds values up to {high:.0f}, which are no Hounsfield units; were negative ones saved "
                "without their sign?"
            )
        if self.window and (low >= self.window[1] or high <= self.window[0]):
            raise InputError(
                f"{what} shows nothing in the window {list(self.window)}, for its values are {low:.4g} to {high:.4g}; "
                "check the file, and the key ct_window"
            )


def seems_ct(image: str | Path) -> bool:
    """:func:`is_like_ct` of a volume's file; not of a picture, nor where it cannot be read."""
    if str(image).lower().endswith(PICTURE_SUFFIXES):
        return False
    try:
        return is_like_ct(read_file(str(image), image_picture, False))
    except InputError:  # which is said where the case is loaded
        return False


def is_like_ct(image: Any) -> bool:
    """Whether an image's values seem to be Hounsfield units: a part of it is air, and nothing lies far below that but a
    number for what is outside."""
    values = torch.as_tensor(image).flatten()
    some = values[:: 1 + len(values) // 2**20]
    air = ((some > -1100) & (some < -900)).float().mean()
    return bool(air > AIR and some.min() >= LOWEST_HU and some.max() > FEWEST_HU)


def check_size(image: Any, orientation: str = "coarsest") -> None:
    """Refuse an image (C, H, W[, D]) with fewer than 8 pixels along one of the axes of a slice, which is no image.

    Args:
        image: as it was loaded.
        orientation: in which volumes are sliced.
    """
    size = list(image.shape[1:])
    if len(size) == 3:
        size.pop(sliced_axis(image, orientation))
    if min(size) < SMALLEST:
        what = "its slices are" if image.ndim == 4 else "is"
        found = " x ".join(map(str, size))
        raise InputError(f"{file_of(image)}: {what} only {found}; both sides need {SMALLEST} pixels: remove the case")


def odd_spacing(image: Any) -> list[str]:
    """A line on a volume whose voxels have a size that no scanner gives: its header may be in another unit."""
    if image.ndim != 4 or not hasattr(image, "pixdim"):
        return []
    spacing = [float(mm) for mm in image.pixdim]
    if THINNEST <= min(spacing) and max(spacing) <= THICKEST:
        return []
    return [
        f"{file_of(image)}: has voxels of {min(spacing):.2g} to {max(spacing):.2g} mm: is its header in another unit?"
    ]


def file_of(image: Any) -> str:
    return str(getattr(image, "meta", {}).get("filename_or_obj", "an image"))
