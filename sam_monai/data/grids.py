"""A label on the grid of its image."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from nibabel.orientations import aff2axcodes

from ..errors import InputError, counted
from .affines import TOLERANCE, apart
from .frames import frames_of
from .nifti import OTHER_AFFINE


class OtherGrid(InputError):
    """A label that does not lie on the grid of its image."""

    def remedied(self, remedy: str) -> str:
        """The message with another remedy."""
        return f"{str(self).rpartition('; ')[0]}; {remedy}"


class Grids:
    """The grids of images, among which that of another's label may be."""

    def __init__(self) -> None:
        self._bare: dict[str, Any] = {}

    def add(self, image: Any, path: str) -> None:
        self._bare[path] = without_voxels(image)

    def fitting(self, label: Any) -> list[str]:
        """The images on whose grid a label lies, given as :func:`without_voxels` returns it."""
        return [path for path, image in self._bare.items() if self._fits(label, image)]

    def _fits(self, label: Any, image: Any) -> bool:
        if sorted(label.shape[1:]) != sorted(image.shape[1:]):
            return False
        try:
            return on_grid_of(label, image, "", "") is not None
        except InputError:
            return False


def without_voxels(volume: Any) -> Any:
    """A volume of the same shape and place that takes no memory."""
    return MetaTensor(torch.zeros(1, dtype=torch.uint8).expand(1, *volume.shape[1:]), meta=dict(volume.meta))


def on_grid_of(label: Any, image: Any, label_path: str, image_path: str) -> Any:
    """A label on the grid of its image: as it is, or with its axes in another order and direction, as converters of
    DICOM turn volumes each in its own way. Its affine becomes that of the image, from which headers differ by
    rounding. A label of another shape or number of frames, or that lies elsewhere, is refused.

    An image whose sform and qform differ lies at either place.
    """
    if not isinstance(image, MetaTensor):
        return label
    if (frames := frames_of(label)) != frames_of(image):
        raise InputError(
            f"{label_path}: has {counted(frames, 'frame')}, its image {image_path} has {frames_of(image)}; save the "
            'label of every frame in one file, with the value of "ignore" in frames that nobody has annotated'
        )
    distance = 0.0
    if image.ndim == label.ndim == 4:
        for grid, place in itertools.product(_affines(image), _affines(label)):
            codes = "".join(map(str, aff2axcodes(grid)))
            there = MetaTensor(label.as_tensor(), meta=dict(label.meta))
            there.affine = torch.as_tensor(place)
            for found in (there, Orientation(axcodes=codes, labels=None)(there)):
                if found.shape[1:] == image.shape[1:]:
                    distance = apart(grid, found.affine, image.shape[1:])
                    if distance <= TOLERANCE:
                        found.affine = image.affine
                        found.applied_operations = []  # this is how the label is now; nothing shall undo it
                        return found
    if image.shape[1:] != label.shape[1:]:
        sizes = [" x ".join(str(n) for n in tensor.shape[1:]) for tensor in (label, image)]
        raise OtherGrid(
            f"{label_path}: is {sizes[0]}, its image {image_path} is {sizes[1]}; "
            "save the label on the grid of its image"
        )
    if distance:
        raise OtherGrid(
            f"{label_path}: its affine differs from that of {image_path} by up to {distance:.3g} voxels; "
            "copy the image's header to the label if their voxels match, else resample it"
        )
    return label


def refuse_apart(mask: Any, label: Any, path: str) -> None:
    """Refuse to compare a mask and a reference of an image, (C, *spatial), that do not lie on the same grid."""
    same = mask.shape[1:] == label.shape[1:]
    if same and label.ndim == 4 and isinstance(mask, MetaTensor) and isinstance(label, MetaTensor):
        same = apart(label.affine, mask.affine, label.shape[1:]) <= TOLERANCE
    if not same:
        raise InputError(
            f"{path}: prediction and reference lie on different grids: bring both back to the grid of the file, or "
            "leave the reference as it is there"
        )


def _affines(volume: MetaTensor) -> list[np.ndarray]:
    other = volume.meta.get(OTHER_AFFINE)
    return [np.asarray(affine, float) for affine in (volume.affine, other) if affine is not None]
