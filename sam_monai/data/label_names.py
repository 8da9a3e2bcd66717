"""Names of the labels of cases where no list states them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from ..errors import InputError
from ..networks.regions import Regions
from .list_errors import swapped
from .load import LoadCased
from .mask_folders import is_mask_folder, label_name, mask_files
from .names import PICTURE_SUFFIXES
from .stated_labels import stated_labels
from .unlabelled import is_ignored

HIGHEST = 2**16 - 1  # value of a label
MOST_UNNAMED = 20  # labels of pictures; more values are numbers of objects, or shades

logger = logging.getLogger(__name__)


def label_names(cases: Sequence[dict], given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of the foreground labels of cases of which nothing states them: from names or values of their masks. Names
    that are ``given`` are compared with the masks; of folders of masks they choose some."""
    kinds = {is_mask_folder(case["label"]) for case in cases}
    if kinds == {True, False}:
        raise InputError(f"{cases[0]['label']}: some labels are files and some are folders of masks; make them alike")
    if kinds == {True}:
        known = {name.casefold(): name for case in cases for name in mask_files(case["label"])}
        unknown = [name for name in given or [] if label_name(name).casefold() not in known]
        if unknown:
            names = ", ".join(sorted(known.values())[:120])
            raise InputError(f"{cases[0]['label']}: there is no mask of {unknown[0]!r}; there are {names}")
        return tuple(given or sorted(known.values(), key=lambda name: (is_ignored(name), name)))
    load = LoadCased("label", labels=HIGHEST, frames=True)
    values: dict[int, str] = {}
    called: dict[int, str] = {}
    numbered: set[int] = set()  # by how many values masks hold that number them from 1 on
    for case in tqdm(cases, desc="reading labels", disable=len(cases) < 20):
        held = torch.bincount(load(case)["label"].flatten().int()).nonzero().flatten().tolist()
        own = stated_labels(case["label"])
        numbered.add(held[-1] if held == list(range(held[-1] + 1)) else 0)
        for value in held:
            values.setdefault(value, case["label"])
            if value in own and given is None:
                other = called.setdefault(value, own[value])
                if other != own[value]:
                    raise InputError(
                        f"{case['label']}: calls the value {value} {own[value]}, and another file calls it {other}; "
                        "give labels the same values in all files, or save them without names"
                    )
    found = sorted(values.keys() - {0})
    if found == [255]:  # a mask of 0 and 255
        values[1], found = values[255], [1]
    if not found:
        raise InputError(f"{cases[0]['label']}: neither this label nor any other holds anything but background")
    picture = str(cases[0]["label"]).lower().endswith(PICTURE_SUFFIXES)
    if given is not None and len(given) == 1 and len(found) > MOST_UNNAMED and picture:
        what = f"{len(found)} values are taken for numbers of objects: train with the key instances"
        logger.info("%s: %s", cases[0]["label"], what)
        return tuple(given)
    if given is not None and found[-1] > len(given):
        hint = "; if these are numbers of its objects, write a dataset.json yourself" if len(given) == 1 else ""
        raise InputError(
            f"{values[found[-1]]}: has the value {found[-1]}, and {len(given)} labels are named; name all{hint}"
        )
    if given is None and len(found) > MOST_UNNAMED and picture:
        raise InputError(
            f"{values[found[-1]]}: the labels hold {len(found)} values, as masks do that number their objects or have "
            "soft edges; if they number objects, name their label by sam-monai dataset FOLDER --labels NAME "
            "and train with the key instances; else save them with 1 inside and 0 elsewhere, or name all labels"
        )
    if given is None and picture and 0 not in numbered and len(numbered) > 3:
        logger.warning(
            "%s: the masks hold the values 1 to another number in each picture, as those do that number their objects: "
            "if so, name their label by sam-monai dataset FOLDER --labels NAME, and train with the key instances",
            Path(cases[0]["label"]).parent,
        )
    if given is None and found != list(range(1, len(found) + 1)):
        shown = ", ".join(map(str, found[:10]))
        raise InputError(
            f"{values[found[-1]]}: the labels hold the values {shown}; number them 0 (the background), 1, 2, ... "
            "without a gap. If only these are labels of many, name all up to the largest: "
            "sam-monai dataset FOLDER --labels NAME,NAME"
        )
    if len(found) > MOST_UNNAMED and (line := swapped(cases[0])):
        raise InputError(line)
    for note in not_held([name for name in given or () if not is_ignored(name)], found):
        logger.warning("%s: %s", Path(cases[0]["label"]).parent, note)
    return tuple(given or (called.get(value, f"label {value}") for value in found))


def not_held(names: Sequence[str], held: Collection[int], regions: Regions | None = None) -> list[str]:
    """What to say of labels of which the masks of the training hold no value, of those that they hold."""
    return [
        f'no training label holds "{name}" (value {" or ".join(map(str, values))}): the network cannot learn it'
        for name, values in zip(names, regions or [[i] for i in range(1, len(names) + 1)], strict=True)
        if not {*values} & {*held}
    ]
