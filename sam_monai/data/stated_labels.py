"""What label files themselves say of their values, compared with the labels of the dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
from torch import Tensor

from ..errors import InputError
from . import itk_headers
from .mask_folders import label_name

IN_XML = (
    rb'<Label\b[^>]*\bKey="(\d+)"[^>]*>\s*(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?\s*</Label>'  # TotalSegmentator, Workbench
)


def stated_labels(path: str) -> dict[int, str]:
    """The names of a file's values: of the segments of 3D Slicer's ``.seg.nrrd``, or of the table in the header of a
    NIfTI file. Empty where it states none, or cannot be read."""
    lower = path.lower()
    if lower.endswith(".nrrd"):
        fields = itk_headers.read(Path(path))
        found = {key[:-5]: name for key, name in fields.items() if re.fullmatch(r"segment\d+_name", key)}
        values = {name: fields.get(f"{key}_labelvalue", "") for key, name in found.items()}
        return {int(value): name for name, value in values.items() if value.isdecimal()}
    if not lower.endswith((".nii", ".nii.gz")):
        return {}
    header = nib.load(path).header
    tables = [bytes(one.content) for one in getattr(header, "extensions", ()) if isinstance(one.content, bytes)]
    pairs = [pair for table in tables for pair in re.findall(IN_XML, table, re.DOTALL)]
    return {int(value): name.decode(errors="replace") for value, name in pairs}


def check_stated_labels(path: str, names: Sequence[str], label: Tensor) -> None:
    """Refuse a label file that gives one of the labels another value than the dataset, whose names are in the order of
    their values from 1 on. A name of a value that the file does not hold is one of before its values were changed."""
    wanted = {label_name(name).casefold(): value for value, name in enumerate(names, 1)}
    for value, name in stated_labels(path).items():
        meant = wanted.get(label_name(name).casefold(), value)
        if meant != value and bool((label == value).any()):
            raise InputError(
                f"{path}: says that {name} has the value {value} in it, and in the dataset it has {meant}; "
                "give labels the same values in all files, or save it without the table in its header"
            )
