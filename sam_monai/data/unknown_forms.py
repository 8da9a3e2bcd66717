"""What to do with a folder, or a list, that has no known form."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from ..errors import InputError, shown
from .csv_lists import columns_of, rows_of
from .dicom_series import is_dicom
from .folders import IMAGES, LABELS, MASKS, SPREADSHEETS
from .left_out import is_image
from .listed import SPLITS

COLUMNS = "image and label"
FORMS = (
    "images/ beside labels/ or masks/, images beside labels as a.nii.gz and a_seg.nii.gz, a folder of nnU-Net or BIDS, "
    f"a folder for each case with an image and a label or segmentations/, or a CSV with the columns {COLUMNS}"
)
MEANT = {"image": "image|img", "label": "label|mask|seg"}  # in the names of columns that are meant
ALIKE = 0.8  # of 1, a column that is misspelt
FEW, FOLDERS = 100, 20  # entries of a folder, and folders of a level, which tell what is there
LEVELS = 2  # of folders within that are looked at


def no_known_form(path: Path) -> InputError:
    """The error on a folder or list that :func:`sam_monai.data.folders.understand` does not know. Where something in it
    tells what was meant, that is said."""
    if hint := next(filter(None, (find(path) for find in HINTS)), None):
        return InputError(hint)
    inside = [at for at in path.iterdir() if not at.name.startswith(".")] if path.is_dir() else []
    held = shown(sorted(f"{at.name}{'/' * at.is_dir()}" for at in inside), 6)
    there = f". There is {held}; new images without labels are for sam-monai segment" if held else ""
    there += "; the labels of BIDS end in _dseg or _mask" if any(at.name.startswith("sub-") for at in inside) else ""
    return InputError(f"{path}: holds no dataset.json and has no other known form: {FORMS}{there}")


def _of_columns(path: Path) -> str | None:
    """On a list whose columns have other names."""
    for file in [path] if path.is_file() else _few(path):
        if file.suffix.lower() != ".csv" or not file.is_file():
            continue
        with suppress(InputError):  # some other table
            rows = rows_of(file)
            columns = columns_of(rows)
            missing = [name for name in MEANT if name not in columns]
            if missing and all(any(_is_like(column, name) for column in columns) for name in missing):
                return f"{file}: has the columns {shown(rows[0])}: did you mean {' and '.join(missing)}?"
    return None


def _is_like(column: str, name: str) -> bool:
    return bool(re.search(MEANT[name], column) or get_close_matches(name, [column], 1, ALIKE))


def _of_spreadsheet(path: Path) -> str | None:
    sheets = [at for at in _few(path) if at.suffix.lower() in SPREADSHEETS]
    if not sheets:
        return None
    return f"{path}: has no known form; if {sheets[0].name} lists the cases, save it as CSV with the columns {COLUMNS}"


def _of_scans(path: Path) -> str | None:
    """On masks in a folder of a known name, beside images in one of another."""
    folders = _folders(path)
    labels = [at for at in folders if at.name.lower() in LABELS]
    others = [at for at in folders if at not in labels and any(is_image(one) or is_dicom(one) for one in _few(at))]
    if len(labels) != 1 or len(others) != 1:
        return None
    return (
        f"{path}: holds {labels[0].name}/ and no images/; if the images are in {others[0].name}/, rename that to "
        f"images/, or write a CSV with the columns {COLUMNS}"
    )


def _of_folder_within(path: Path) -> str | None:
    """On the one folder within that seems to have a known form."""
    level = [path]
    for _ in range(LEVELS):
        level = list(itertools.islice((at for folder in level for at in _folders(folder)), FOLDERS))
        found = [at for at in level if _seems_known(at)]
        if found:
            return f"{found[0]}: looks like a dataset; give that folder" if len(found) == 1 else None
    return None


def _seems_known(folder: Path) -> bool:
    """Whether a folder has the names of one of the forms."""
    inside = list(_few(folder))
    names = {at.name.lower() for at in inside}

    def pairs(found: Sequence[str] | set[str]) -> bool:
        return any(name in IMAGES for name in found) and any(name in LABELS for name in found)

    if "dataset.json" in names or pairs(names):
        return True
    folders = itertools.islice((at for at in inside if at.is_dir()), FOLDERS)
    within = {at.name.lower(): {one.name.lower() for one in _folders(at)} for at in folders}
    if any(pairs(held) for name, held in within.items() if name in SPLITS):
        return True
    if any(held & {*MASKS} and not pairs(held) for held in within.values()):
        return True
    if "derivatives" in within and any(name.startswith("sub-") for name in within):
        return True
    for file in (at for at in inside if at.suffix.lower() == ".csv" and at.is_file()):
        with suppress(InputError, OSError):
            if {"image", "label"} <= {*columns_of(rows_of(file))}:
                return True
    return False


def _folders(folder: Path) -> list[Path]:
    return [at for at in _few(folder) if at.is_dir()]


def _few(folder: Path) -> Iterator[Path]:
    """Some of what is in a folder, in order."""
    with suppress(OSError), os.scandir(folder) as found:
        yield from sorted(Path(at.path) for at in itertools.islice(found, FEW) if not at.name.startswith("."))


HINTS = (_of_columns, _of_folder_within, _of_spreadsheet, _of_scans)
