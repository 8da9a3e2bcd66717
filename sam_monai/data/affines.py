"""Where voxels lie: affines that mean a place, and whether two of them mean the same one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError, warn_once

# Of a voxel. Up to one half each voxel of a grid is nearest to its own voxel of the other grid, so a pair is beyond
# doubt. A tenth stays well below that, and well above what programs lose when they round a header.
TOLERANCE = 0.1
SPACINGS = (1e-5, 500.0)  # millimetres, from light microscopy to any slice distance
FARTHEST = 1e6  # millimetres from the origin; farther away, numbers do not tell neighbouring voxels apart


def apart(one: Any, other: Any, shape: Sequence[int]) -> float:
    """By how many voxels of ``one`` the corners of a volume of three axes are displaced under the affine ``other``, at
    most. Both are 4 x 4, and ``one`` can be inverted."""
    ends = [(-0.5, n - 0.5) for n in shape]
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*ends)]).T
    moved = np.linalg.solve(np.asarray(one, float), np.asarray(other, float) @ corners) - corners
    return float(np.abs(moved).max())


def check_affine(affine: Any, path: str) -> None:
    """Refuse an affine that does not say where voxels lie."""
    affine = np.asarray(affine, float)
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: its affine holds NaN or infinite numbers; export it again with a valid header")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < SPACINGS[0] or spacing.max() > SPACINGS[1]:
        sizes = " x ".join(f"{value:.3g}" for value in spacing)
        raise InputError(
            f"{path}: its header gives voxels of {sizes} mm, which cannot be; correct the spacing or the unit of length"
        )
    if np.abs(affine[:3, 3]).max() > FARTHEST:
        raise InputError(f"{path}: its affine puts it {np.abs(affine[:3, 3]).max():.3g} mm away; correct its origin")
    axes = affine[:3, :3] / spacing
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-2):
        raise InputError(
            f"{path}: its axes do not stand at right angles (a sheared or singular affine); straighten it first"
        )


def warn_of_unknown_sides(path: str, why: str) -> None:
    """Say that a header does not say how a volume lies in the patient."""
    warn_once(f"{path}: its header does not say how it lies in the patient ({why}), so left and right may be exchanged")
