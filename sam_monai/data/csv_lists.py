"""Tables of cases: a CSV that lists images and labels, and tables of a dataset that state a split."""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .dataset_json import NotParsed, located
from .listed import SPLITS, Case, Listed, listed

PATIENT = r"(patient|subject|participant)[ _-]?(id|no|number|name)?|pid"  # a column of a list
SPLITTING = r"(is|in)?[ _-]?(train|valid|validation|test|holdout)(ing)?([ _-]?set)?|(k|cv|cross)[ _-]?fold|folds"
FLAGS = {"0", "1", "true", "false", "yes", "no", "y", "n", "t", "f", "x", "", "n/a"}  # of a column such as is_test
MASKS = ("mask", "segmentation", "seg", "annotation")  # other names of the column label


def read_csv(file: Path) -> Listed | None:
    """A CSV with the columns image, label and perhaps a split, folds and patients; ``None`` where it has others."""
    rows = rows_of(file)
    columns = columns_of(rows)
    if not {"image", "label"} <= set(columns):
        return None
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise InputError(f"{file}: has the column {twice[0]} twice; keep one of them")
    splitting, cases = _split_columns(columns, rows[1:], file), []
    _refuse_unread(columns, rows[1:], splitting, file)
    patient = next((name for name in columns if re.fullmatch(PATIENT, name)), "")
    for number, cells in enumerate(rows[1:], 2):
        if not any(cells):
            continue
        row = dict(zip(columns, cells, strict=False))
        stated = [row.get(name, "").lower() for name in splitting]
        odd = [cell for cell in stated if cell and not cell.isdecimal() and cell not in SPLITS]
        if len(cells) != len(columns) or not row["image"] or "\0" in "".join(cells) or odd:
            what = f"has the split {odd[0]!r}; known are train, val, test or the number of a fold" if odd else ""
            what = what or f"does not fill the columns {', '.join(columns)}"
            raise InputError(f"{file}: row {number} {what}; correct it")
        image, label = (Path(located(file.parent, row[key])) for key in ("image", "label"))
        split, fold = _split_and_fold(stated)
        cases.append(
            Case(image, label if row["label"] else None, split, fold, patient=row.get(patient) or None, row=number)
        )
    return listed(file, f"the cases listed in {file.name}", cases)


def rows_of(file: Path) -> list[list[str]]:
    """The cells of a CSV, whatever its encoding and delimiter."""
    content = file.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as spreadsheets save "Unicode text"
        lines = content.decode("utf-16", errors="replace").splitlines()
    else:
        lines = content.decode("utf-8-sig", errors="surrogateescape").splitlines()  # as file names are read
    lines = lines[1:] if lines and lines[0].lower().startswith("sep=") else lines
    delimiter = max(",;\t", key=(lines or [""])[0].count)
    try:
        return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise NotParsed(f"{file}: cannot be read as CSV ({error}); correct it") from error


def columns_of(rows: Sequence[Sequence[str]]) -> list[str]:
    """The columns of a list, in lower case; one that is called mask or the like is the label."""
    columns = [cell.lower() for cell in rows[0]] if rows else []
    if "label" not in columns and len(masks := [name for name in columns if name in MASKS]) == 1:
        columns[columns.index(masks[0])] = "label"
    return columns


def _refuse_unread(columns: Sequence[str], rows: Sequence[Sequence[str]], read: Sequence[str], file: Path) -> None:
    """Refuse a column that seems to state a split, by its name, and is none of those that are read."""
    several = [name for i, name in enumerate(columns) if len({row[i] for row in rows if len(row) > i}) > 1]
    odd = [name for name in several if re.fullmatch(SPLITTING, name) and name not in read]
    if odd and "split" not in read:
        raise InputError(
            f"{file}: the column {odd[0]} is not read; call it split, with train, val and test in it, or fold, with "
            "whole numbers"
        )


def _split_and_fold(stated: Sequence[str]) -> tuple[str, int | None]:
    """Of the cells of a row that say it, in lower case."""
    split = next((SPLITS[cell] for cell in stated if cell in SPLITS), "training")
    return split, next((int(cell) for cell in stated if cell.isdecimal() and split == "training"), None)


def _split_columns(columns: Sequence[str], rows: Sequence[Sequence[str]], file: Path) -> list[str]:
    """Columns that say what a case is for: "split" and "fold", or, whatever it is called, one of such words alone."""
    found = [name for name in ("split", "fold") if name in columns]
    if "split" in found:
        return found
    rows = [["" if cell.lower() == "n/a" else cell for cell in row] for row in rows]  # as BIDS writes it
    held = {name: {row[i].lower() for row in rows if len(row) > i and any(row)} for i, name in enumerate(columns)}
    of_cases = {name: held[name] - {""} for name in held if name not in ("fold", "image", "label")}
    for name, said in of_cases.items():
        odd = said - SPLITS.keys()
        if odd and (said & {"train", "training"} or len(said & SPLITS.keys()) > 1):
            word = sorted(odd)[0]
            raise InputError(
                f"{file}: the column {name} seems to name a split, and holds {word!r}; known are train, val, test and "
                "the number of a fold: correct it, or rename those words"
            )
    words = [name for name, said in of_cases.items() if said <= SPLITS.keys() and len(said) > 1]
    if len(words) > 1:
        raise InputError(f"{file}: the columns {' and '.join(words)} each name a split; keep one of them")
    return words + found


def stated_splits(file: Path, key: str) -> dict[str, tuple[str, int | None]]:
    """The splits and folds in a table, such as TotalSegmentator's `meta.csv` or BIDS' `participants.tsv`, by what
    stands in the column ``key``; none where it has no column of them."""
    if not os.path.isfile(file):
        return {}
    rows = rows_of(file)
    columns = [cell.lower() for cell in rows[0]] if rows else []
    if key not in columns:
        return {}
    splitting = _split_columns(columns, rows[1:], file)
    marked = [name for i, name in enumerate(columns) if {row[i].lower() for row in rows[1:] if len(row) > i} <= FLAGS]
    folds = [name for name in columns if "fold" in name]  # other numbers under "test" may be a finding
    _refuse_unread([name if name in (*marked, *folds) else "" for name in columns], rows[1:], splitting, file)
    at, found = columns.index(key), dict[str, tuple[str, int | None]]()
    for row in rows[1:]:
        stated = [row[i].lower() for i in map(columns.index, splitting) if len(row) > i]
        stated = [word for word in stated if word not in ("", "n/a")]
        if len(row) <= at or not row[at] or not stated:
            continue
        if odd := [word for word in stated if word not in SPLITS and not word.isdecimal()]:
            raise InputError(
                f"{file}: {row[at]} has the split {odd[0]!r}; known are train, val, test or the number of a fold; "
                "correct it"
            )
        found[row[at]] = _split_and_fold(stated)
    return found
