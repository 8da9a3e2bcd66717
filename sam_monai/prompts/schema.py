"""What prompts from a file or a request must look like, and what is wrong with those that do not."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import parse_json

EXAMPLE = '{"objects": [{"points": [[40, 52, 7]], "labels": [1], "box": [30, 44, 5, 60, 61, 9]}]}'
SCRIBBLE = '{"path": [[38, 50, 7], [44, 55, 7]], "label": 1}'
TOP = ("objects", "correct")
KEYS = ("points", "labels", "box", "scribbles", "lasso", "label")
TO_CORRECT = '"correct" needs the label that each object takes the place of, as in "label": "tumour"'
MOST_BYTES = 2**24  # of a file
MOST_CLICKS = 10_000  # of all objects, each with as many as the one with the most
OF_A_SCRIBBLE, APART = 8, 4.0  # clicks at most, and voxels from one to the next at least
LARGEST = 2**24  # coordinate; beyond it float32 does not hold every voxel

Object = dict[str, Any]


def read_objects(path: Path, dims: int) -> list[Object]:
    """The objects of a prompts file. There may be none where it corrects labels."""
    content = read_file(path)
    correct, objects = content.get("correct", False), content["objects"]
    if type(correct) is not bool:
        raise InputError(f'{path}: "correct" is true or false, not {str(correct)[:50]!r}')
    if correct and objects == []:  # the last correction was taken back
        return []
    found = check_objects(objects, dims, str(path))
    for number, one in enumerate(found, 1):
        if correct and "label" not in one:
            raise InputError(f"{path}: object {number} names no label: {TO_CORRECT}")
    return found


def corrects(path: Path) -> bool:
    """Whether the objects of a prompts file take the place of labels; not where it cannot be read."""
    try:
        return read_file(path).get("correct") is True
    except InputError:
        return False


def read_file(path: Path) -> dict[str, Any]:
    """The content of a prompts file. What it holds is not checked beyond its keys."""
    remedy = f"write it like {EXAMPLE}"
    if not path.is_file():
        raise InputError(f"{path}: is no file; {remedy}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: is larger than {MOST_BYTES // 2**20} MB; {remedy}")
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deep; {remedy}") from error
    except (OSError, ValueError) as error:  # among these what is not UTF-8
        raise InputError(f"{path}: cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict) or "objects" not in content:
        raise InputError(f'{path}: holds no "objects"; {remedy}')
    unknown_key(content, TOP, str(path))
    return content


def check_objects(objects: Any, dims: int, path: str) -> list[Object]:
    """Objects with ``points`` and ``labels``, and with ``box``, ``lasso`` and ``label`` where they are given. Scribbles
    have become points. Errors name ``path`` and the number of the object, from 1 on."""
    if not isinstance(objects, list) or not objects:
        raise InputError(f"{path}: its objects are no list with at least one; write it like {EXAMPLE}")
    checked, wrong = [], []
    for number, one in enumerate(objects, 1):
        try:
            checked.append(check_object(one, dims, f"object {number}"))
        except InputError as error:
            wrong.append(str(error))
    if len(wrong) > 1:  # how to write it is said once
        remedy = f"; write it like {EXAMPLE}"
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        wrong = ["; ".join(one.removesuffix(remedy) for one in wrong[:5]) + more + remedy]
    if wrong:
        raise InputError(f"{path}: {wrong[0]}")
    if len(checked) * max(len(one["points"]) for one in checked) > MOST_CLICKS or len(checked) > MOST_CLICKS:
        raise InputError(f"{path}: has more than {MOST_CLICKS} clicks; give fewer objects or clicks at a time")
    return checked


def check_object(one: Any, dims: int, where: str) -> Object:
    remedy = f"write it like {EXAMPLE}"
    if not isinstance(one, dict):
        raise InputError(f"{where} is no object with points, a box, scribbles or a lasso; {remedy}")
    unknown_key(one, KEYS, where)
    if not isinstance(one.get("label", ""), str):
        raise InputError(
            f'{where}: its label is no name of a label, as in "label": "tumour"; whether each point lies on the '
            'object, 1 or 0, stands in "labels"'
        )
    points, labels, box = one.get("points", []), one.get("labels", []), one.get("box", [])
    if not isinstance(points, list) or not all(are_voxels(point, dims) for point in points):
        raise InputError(f"{where}: its points are no list of voxels with {dims} finite numbers each; {remedy}")
    if not isinstance(labels, list) or not all(type(label) is int and label in (0, 1) for label in labels):
        raise InputError(f"{where}: its labels are no list of the whole numbers 1 (on it) and 0 (beside it); {remedy}")
    if len(points) != len(labels):
        raise InputError(f"{where}: has {len(points)} points and {len(labels)} labels; give each point a label")
    for path, label in check_scribbles(one.get("scribbles", []), dims, where):
        drawn = along(path)
        points, labels = points + drawn, labels + [label] * len(drawn)
    found: Object = {"points": points, "labels": labels}
    if "label" in one:
        found["label"] = one["label"]
    if "lasso" in one:
        found["lasso"] = check_lasso(one["lasso"], dims, where)
    if "box" not in one:
        if not points and "lasso" not in one:
            raise InputError(f"{where}: has neither points nor a box, a scribble or a lasso; {remedy}")
        return found
    if not are_voxels(box, 2 * dims):
        raise InputError(f"{where}: its box is no list of {2 * dims} finite numbers; {remedy}")
    if any(low > high for low, high in zip(box[:dims], box[dims:], strict=True)):
        raise InputError(f"{where}: its box {box} has its corners swapped; give the lower corner first on every axis")
    return {**found, "box": box}


def check_scribbles(scribbles: Any, dims: int, where: str) -> list[tuple[list, int]]:
    """Path and label of each scribble."""
    if not isinstance(scribbles, list):
        raise InputError(f"{where}: its scribbles are no list; give them like [{SCRIBBLE}]")
    for one in scribbles:
        if not isinstance(one, dict) or set(one) != {"path", "label"}:
            raise InputError(f"{where}: a scribble is no object with a path and a label; give it like {SCRIBBLE}")
        path = one["path"]
        if not isinstance(path, list) or not path or not all(are_voxels(point, dims) for point in path):
            raise InputError(f"{where}: a scribble's path is no list of voxels with {dims} finite numbers each")
        if type(one["label"]) is not int or one["label"] not in (0, 1):
            raise InputError(f"{where}: a scribble's label is neither 1 (on the object) nor 0 (beside it)")
    return [(one["path"], one["label"]) for one in scribbles]


def check_lasso(lasso: Any, dims: int, where: str) -> list:
    """A polygon's corners."""
    if not isinstance(lasso, list) or len(lasso) < 3 or not all(are_voxels(point, dims) for point in lasso):
        raise InputError(f"{where}: its lasso is no list of three or more voxels with {dims} finite numbers each")
    return lasso


def along(path: list) -> list:
    """Places at equal distances along a path of voxels, :data:`APART` or more, from its one end to the other; at most
    :data:`OF_A_SCRIBBLE` of them."""
    corners = np.asarray(path, float)
    passed = np.concatenate([[0.0], np.linalg.norm(np.diff(corners, axis=0), axis=1).cumsum()])
    count = min(OF_A_SCRIBBLE, 1 + int(passed[-1] / APART))
    at = np.linspace(0, passed[-1], count) if count > 1 else passed[-1:] / 2
    return np.stack([np.interp(at, passed, axis) for axis in corners.T], 1).tolist()


def are_voxels(numbers: Any, count: int) -> bool:
    return (
        isinstance(numbers, list)
        and len(numbers) == count
        and all(type(x) in (int, float) and abs(x) <= LARGEST for x in numbers)  # NaN is not
    )


def unknown_key(given: dict, known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key[:99], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"keys are {', '.join(known)}"
            raise InputError(f"{where}: unknown key {key[:99]!r}; {hint}")
