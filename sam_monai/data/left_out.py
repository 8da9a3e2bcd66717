"""What lies beside the cases of a folder or a list and is not taken."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, counted
from .channels import FILES
from .dicom_series import is_dicom
from .listed import SPLITS, Listed, entries
from .made import LISTS
from .names import IMAGE_SUFFIXES, MARK, stem_of

logger = logging.getLogger(__name__)


def is_image(path: Path) -> bool:
    """Whether a file seems to be an image that is no mask of this package."""
    known = path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith(".")
    return known and not stem_of(path).endswith(MARK) and path.is_file()


def masks_of_others(folder: Path) -> list[str]:
    """Names in a folder of labels that are no results of this package."""
    if (folder / LISTS).is_dir():
        return []
    return sorted(at.name for at in folder.iterdir() if at.name[0] != "." and not stem_of(at).endswith(MARK))


def refuse_folders_of_pictures(found: Mapping[str, Path]) -> None:
    """A folder among images is a DICOM series. One of pictures would be many cases, or a volume in slices."""
    for at in found.values():
        if os.path.isdir(at) and not is_dicom(at) and (held := [p for p in entries(at).values() if os.path.isfile(p)]):
            raise InputError(
                f"{at}: is a folder of {counted(len(held), 'image')} among the images, and only a DICOM series may be "
                "one; move its files up, or list them in a CSV with the columns image, label and patient"
            )


def refuse_lists_beside(folder: Path, read: Listed, table: Listed | None) -> None:
    """Refuse a folder of a form beside a list that says more of its cases: which of them are for testing or of one
    patient, or that others are meant."""
    form = read.how.partition(":")[0]
    words = [f"{split}{suffix}" for split in SPLITS for suffix in (".txt", ".csv", ".json")]
    if table is not None and not (table.stated or table.content["test"]):
        told = table.patients and not read.patients and not read.stated
        other = "names patients" if told else "lists other cases"
        if not table.labels_exist:
            logger.warning("%s: is not read, for the labels that it lists are not there", table.source)
        elif told or table.images != read.images:
            raise InputError(
                f"{folder}: is {form}, and {table.source.name} beside them is not read, which {other}; give the path "
                "of that list, or move it away"
            )
    others = [table.source] if table is not None and (table.stated or table.content["test"]) else []
    others += [at for at in sorted(folder.iterdir()) if at.name.lower() in ("splits_final.json", *words)]
    if others:
        raise InputError(
            f"{folder}: is {form}, and {others[0].name} beside them is not read, which states a split; give the "
            "path of a list with the columns image, label and split, or move it away"
        )


def warn_of_unread(folder: Path, beside: Sequence[Path], parts: Sequence[tuple[str, Path, Path | None]]) -> None:
    """Folders of pictures or volumes beside those that are read may be a part of the data."""
    read = {at for _, *both in parts for at in both if at is not None}
    for at in dict.fromkeys(beside):
        used = any(at == one or at in one.parents for one in read)
        if used or at.name.lower() in ("imagests", "labelsts") or (at / LISTS).is_dir():
            continue
        if any(map(is_image, (*at.iterdir(), *at.glob("*/*")))):
            logger.warning("%s: is not read, for the images and labels are taken from other folders of %s", at, folder)


def warn_of_unlisted(content: Mapping[str, Any], cases: Sequence[dict], file: Path) -> None:
    """Warn of a list that is not as long as it says, and of images that lie beside those of the training unlisted."""
    parts = [content.get(part) or () for part in ("training", "validation")]
    warn_of_number(content, {len(parts[0]), len(parts[0]) + len(parts[1])}, file)
    known = {os.path.realpath(path) for case in cases for path in case.get(FILES, [case["image"]])}
    folders = sorted({os.path.dirname(path) for path in known})
    if len(folders) > 2:  # more than one of the training and one of the test: no folder tells what is a case
        return
    known |= {os.path.realpath(case["label"]) for case in cases if "label" in case}
    beside = [path for at in map(Path, folders) if at.is_dir() for path in sorted(at.iterdir()) if is_image(path)]
    if left := [path for path in beside if os.path.realpath(path) not in known]:
        what = counted(len(left), "image")
        logger.warning("%s: %s beside those that it lists, such as %s, will not be used", file, what, left[0])


def warn_of_number(content: Mapping[str, Any], found: Collection[int], file: Path) -> None:
    """Warn where a `dataset.json` says another number of training cases than are ``found``."""
    number = content.get("numTraining")
    if isinstance(number, int) and number not in found:
        logger.warning('%s: "numTraining" is %d, and there are %d: is the folder complete?', file, number, min(found))
