"""Which axis of a volume is sliced, and how its slices are turned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Orientation, Orientationd
from monai.transforms.spatial.functional import orientation
from nibabel.orientations import aff2axcodes, axcodes2ornt, io_orientation, ornt_transform
from torch import Tensor

from ..errors import InputError

# Slices as radiologists see them: the directions in which rows, columns and slices run.
PLANES = {"axial": "PLS", "coronal": "ILP", "sagittal": "IPL"}
ACROSS = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "L": "sagittal", "R": "sagittal"}
CLEARLY = 1.2  # times the next spacing: below it volumes count as equally fine all round


def slicing_axes(affine: Any, orientation: str, shape: Sequence[int] = ()) -> str:
    """MONAI's axis codes for a volume.

    Args:
        affine: of the volume, MONAI's (RAS).
        orientation: a plane of :data:`PLANES`, axis codes, or ``"coarsest"``: the plane across the axis of the coarsest
            spacing, in which slices were acquired; axial where none is clearly the coarsest.
        shape: of the volume; a single slice is not cut across.
    """
    if orientation != "coarsest":
        return PLANES.get(orientation, orientation)
    affine = np.asarray(affine, float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    coarsest, codes = int(spacing.argmax()), aff2axcodes(affine)
    if list(shape).count(1) == 1:
        return PLANES[ACROSS[str(codes[list(shape).index(1)])]]
    if spacing.max() < CLEARLY * np.sort(spacing)[1]:
        return PLANES["axial"]
    return PLANES[ACROSS[str(codes[coarsest])]]


def sliced_axis(volume: Any, orientation: str) -> int:
    """Which spatial axis of a volume (C, H, W, D) is cut across: the last one of :func:`slicing_axes`."""
    affine = np.asarray(getattr(volume, "affine", np.eye(4)), float)
    across = ACROSS[slicing_axes(affine, orientation, volume.shape[1:])[2]]
    return next(i for i, code in enumerate(aff2axcodes(affine)) if ACROSS[str(code)] == across)


def sides_axis(volume: Any) -> int:
    """Which spatial axis of a volume runs from the patient's one side to the other; of a tensor that does not know, the
    columns."""
    if not hasattr(volume, "affine"):
        return 1
    return next(i for i, code in enumerate(aff2axcodes(np.asarray(volume.affine))) if code in ("L", "R"))


class ToSlices(Orientation):
    """MONAI's, to the axes of :func:`slicing_axes`."""

    def __init__(self, orientation: str) -> None:
        super().__init__(axcodes=PLANES["axial"], labels=None)
        known = {
            "".join(codes) for axes in itertools.permutations(("LR", "AP", "IS")) for codes in itertools.product(*axes)
        }
        if orientation not in {*PLANES, "coarsest", *known}:
            raise InputError(f"the key orientation is coarsest, {', '.join(PLANES)} or codes, not {orientation!r}")
        self.orientation = orientation

    def __call__(self, data_array: torch.Tensor, lazy: bool | None = None) -> Tensor:
        affine = np.asarray(getattr(data_array, "affine", np.eye(4)), float)
        codes = slicing_axes(affine, self.orientation, data_array.shape[1:])
        turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
        # Not by axcodes and the call of the parent: volumes are prepared in several threads. The inverse needs neither.
        info = self.get_transform_info()
        return orientation(
            data_array, affine, turn, lazy=bool(self.lazy if lazy is None else lazy), transform_info=info
        )


class ToSlicesd(Orientationd):
    """:class:`ToSlices` of keys."""

    def __init__(self, keys: Sequence[str], orientation: str) -> None:
        super().__init__(keys, axcodes=PLANES["axial"], labels=None)
        self.ornt_transform = ToSlices(orientation)
