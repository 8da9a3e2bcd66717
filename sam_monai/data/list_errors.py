"""Errors about files that a list names, told as mistakes of the list."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import InputError, several
from .label_like import values_of_labels
from .load import LoadCased

MOST_LINES = 20  # of an error
ALIKE = 0.8  # of 1, names that may be meant


def in_its_list(problem: str, places: Mapping[str, str]) -> str:
    """A problem with a file, with where it is listed in place of `dataset.json`, if ``places`` say that."""
    path, _, what = problem.partition(": ")
    if path not in places:
        return problem
    problem = problem.replace("remove it from dataset.json", f"correct {places[path]}")
    near = _near(Path(path), places) if what.startswith("no such file") else None
    return problem if near is None else f"{problem} (there is {near})"


def _near(path: Path, listed: Mapping[str, str]) -> str | None:
    """The name of a file beside one that is not there that may be meant: it is listed nowhere."""
    try:
        beside = [name for name in os.listdir(path.parent) if str(path.with_name(name)) not in listed]
    except OSError:
        return None
    names = {name.casefold(): name for name in beside if not name.startswith(".")}
    return next((names[name] for name in get_close_matches(path.name.casefold(), names, 1, ALIKE)), None)


def of_list(error: InputError, cases: Sequence[Mapping[str, Any]], places: Mapping[str, str]) -> InputError:
    """An error of reading the labels of cases; all files that are not there, where one is the reason."""
    files = dict.fromkeys(str(case[key]) for case in cases for key in ("image", "label"))
    gone = [f"{file}: no such file; copy it there or remove it from dataset.json" for file in files
            if file in places and not os.path.exists(file)]  # fmt: skip
    if ": no such file; " in str(error) and gone:
        more = [f"and {len(gone) - MOST_LINES} more"] if len(gone) > MOST_LINES else []
        return several([*(in_its_list(line, places) for line in gone[:MOST_LINES]), *more])
    named = next((case for case in cases if str(error).startswith(f"{case['label']}: ")), None)
    return InputError((named and swapped(named)) or in_its_list(str(error), places))


def swapped(case: Mapping[str, Any]) -> str | None:
    """A line on a case whose image looks like a label map, and whose label does not."""
    load = LoadCased("image")
    with suppress(InputError):  # another problem, which is told of its file
        if values_of_labels(load({"image": case["image"]})["image"]) is None:
            return None
        if values_of_labels(load({"image": case["label"]})["image"]) is None:
            return (
                f"{case['image']}: looks like a label map, and its label {case['label']} like a scan: image and label "
                "seem to be swapped; correct the list, or the names of the folders"
            )
    return None
