"""A folder with one binary mask for each label, as TotalSegmentator writes it, stands for a label map."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.utils import ImageMetaKey

from ..errors import InputError
from .grids import on_grid_of
from .names import IMAGE_SUFFIXES, stem_of


def is_mask_folder(path: str | Path) -> bool:
    """Tell whether a path is a folder that holds masks; a folder of DICOM files is none."""
    return os.path.isdir(path) and bool(mask_files(path))


def mask_files(folder: str | Path) -> dict[str, Path]:
    """The masks of a folder, by their labels' names: `kidney_left.nii.gz` is that of "kidney left"."""
    found: dict[str, Path] = {}
    for file in sorted(Path(folder).iterdir()):
        if file.name.lower().endswith(IMAGE_SUFFIXES) and not file.name.startswith("."):
            name = label_name(stem_of(file))
            if name in found:
                raise InputError(f"{file}: {found[name].name} is a mask of {name!r} too; keep one of them")
            found[name] = file
    return found


def label_name(text: str) -> str:
    """A name with spaces for underscores, which a text encoder reads better."""
    return re.sub(r"[_\s]+", " ", text).strip()


def merged(folder: str | Path, names: Sequence[str] | None, read: Callable[[str], Any]) -> Any:
    """One label map (1, *spatial) of a folder's masks, with the value i + 1 where the mask of ``names[i]`` is set.

    Args:
        folder: of the masks. Those of other labels are left out.
        names: of the foreground labels; letter case and underscores do not matter.
        read: gives the mask of a file, with the values 0 and 1.

    Raises:
        InputError: a mask is missing, lies on another grid than the others, or overlaps with another.
    """
    if names is None:
        raise InputError(f"{folder}: is a folder of masks, which are told apart by the names of the labels; give these")
    files = {name.casefold(): str(file) for name, file in mask_files(folder).items()}
    wanted = [label_name(name).casefold() for name in names]
    missing = [name for name, key in zip(names, wanted, strict=True) if key not in files]
    if missing:
        raise InputError(
            f"{folder}: holds no mask of {', '.join(missing[:10])}; save an empty one for what the image does not "
            "show, or choose the labels: python -m sam_monai dataset FOLDER --labels NAME,NAME"
        )
    first = files[wanted[0]]
    label = read(first)
    for value, key in enumerate(wanted[1:], 2):
        mask = on_grid_of(read(files[key]), label, files[key], first)
        both = (mask > 0) & (label > 0)
        if both.any():
            other = files[wanted[int(label[both][0]) - 1]]
            raise InputError(
                f"{files[key]}: overlaps with {Path(other).name} in {int(both.sum())} voxels, and a voxel has one "
                "label; take the smaller structure out of the larger one, or train on one of the two"
            )
        label = label + value * mask
    label.meta[ImageMetaKey.FILENAME_OR_OBJ] = str(folder)
    return label
