"""A folder with one binary mask for each label, as TotalSegmentator writes it, stands for a label map."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .grids import on_grid_of
from .names import IMAGE_SUFFIXES, is_hidden, stem_of


def is_mask_folder(path: str | Path) -> bool:
    """Tell whether a path is a folder that holds masks; a folder of DICOM files is none."""
    return os.path.isdir(path) and bool(mask_files(path))


def mask_files(folder: str | Path) -> dict[str, Path]:
    """The masks of a folder, by their labels' names: `kidney_left.nii.gz` is that of "kidney left"."""
    found: dict[str, Path] = {}
    known: dict[str, Path] = {}  # whose names' letter case does not matter
    for file in sorted(Path(folder).iterdir()):
        if file.name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(file.name) and not file.is_dir():
            name = label_name(stem_of(file))
            if (other := known.setdefault(name.casefold(), file)) != file:
                raise InputError(f"{file}: {other.name} is a mask of {name!r} too; keep one of them")
            found[name] = file
    return found


def number_of_files(label: str | Path) -> int:
    """Of a label: the masks of a folder, or 1."""
    return len(mask_files(label)) if is_mask_folder(label) else 1


def label_name(text: str) -> str:
    """A name with spaces for underscores, which a text encoder reads better."""
    return re.sub(r"[_\s]+", " ", text).strip()


def masks_in(
    folder: str | Path, names: Sequence[str] | None, read: Callable[[str], Any]
) -> tuple[Iterator[Any], list[str]]:
    """A folder's masks (1, *spatial), in the order of the labels and on one grid, and their files. Letter case and
    underscores of names do not matter, and masks of other labels are left out. ``read`` gives the mask of a file,
    with the values 0 and 1."""
    if names is None:
        raise InputError(f"{folder}: is a folder of masks, which are told apart by the names of the labels; give these")
    files = {name.casefold(): str(file) for name, file in mask_files(folder).items()}
    wanted = [label_name(name).casefold() for name in names]
    missing = [name for name, key in zip(names, wanted, strict=True) if key not in files]
    if missing:
        raise InputError(
            f"{folder}: holds no mask of {', '.join(missing[:10])}; save an empty one for what the image does not "
            "show, or choose the labels: sam-monai dataset FOLDER --labels NAME,NAME"
        )
    found = [files[key] for key in wanted]

    def masks() -> Iterator[Any]:
        first = read(found[0])
        yield first
        for file in found[1:]:
            yield on_grid_of(read(file), first, file, found[0])

    return masks(), found
