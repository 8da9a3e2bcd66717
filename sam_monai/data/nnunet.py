"""nnU-Net's raw data: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, `imagesTs`."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, counted, shown
from .dataset_json import parse
from .left_out import warn_of_number
from .listed import Case, Listed, entries, listed
from .names import PICTURE_SUFFIXES, stem_of
from .regions import ORDER

ONE_FILE = "images have one file each, so there is no channel {} to take; if a file holds several, train by --channels"

logger = logging.getLogger(__name__)


def read_nnunet(folder: Path, content: dict[str, Any], channel: int | str | None) -> Listed | None:
    """The cases of a folder in the form of either of nnU-Net's versions; ``None`` where it has another form.
    ``channel``, counted from 0 or by its name, is taken alone where a case has several files."""
    if "training" in content and not _lists_other_names(folder, content["training"]):
        return None  # a Decathlon folder
    images, labels = entries(folder / "imagesTr"), entries(folder / "labelsTr")
    if not images or not {"training", "numTraining", "file_ending", "channel_names"} & content.keys():
        return None
    names = content.get("channel_names", content.get("modality"))
    names = names if isinstance(names, dict) else {}
    channel = number_of(channel, names, folder)
    chosen = by_case(images, folder, channel, names)
    cases = {case: Case(files[0], labels.get(case), others=files[1:]) for case, files in chosen.items()}
    for case in sorted(labels.keys() - cases.keys()):
        raise InputError(f"{labels[case]}: has no image {case}_0000 in imagesTr; add it or remove the label")
    warn_of_number(content, {sum(case.label is not None for case in cases.values())}, folder / "dataset.json")
    form = "nnU-Net's raw data"
    file = folder / "splits_final.json"
    if os.path.isfile(file):
        form += f" with {file.name}"
        _set_folds(parse(file, list), cases, file)
    tests = by_case(entries(folder / "imagesTs"), folder, channel, names)
    every = [*cases.values(), *(Case(files[0], None, "test", others=files[1:]) for files in tests.values())]
    numbered = sorted(names, key=int) if all(map(str.isdecimal, names)) else names  # as JSON sorts them, 10 is before 2
    modality = [names[number] for number in numbered] if channel is None else names.get(str(channel), "")
    names, order = content.get("labels", {}), content.get(ORDER)
    return listed(folder / "dataset.json", form, every, names, modality, content.get("name"), order=order)


def by_case(
    images: Mapping[str, Path], top: Path, channel: int | str | None, names: Mapping[str, Any] | None = None
) -> dict[str, list[Path]]:
    """The files of each case's channels, or of the one ``channel``, by the case's name, from names like `CASE_0000`.
    ``names`` are those of the channels, by number."""
    channel = number_of(channel, names or {}, top)
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for stem, path in images.items():
        if not (found := re.fullmatch(r"(.+)_(\d{4})", stem)):
            raise InputError(f"{path}: its name does not end in the number of a channel, as in CASE_0000; rename it")
        cases[found[1]][int(found[2])] = path
    last = max((number for files in cases.values() for number in files), default=0)
    if not all(path.name.lower().endswith(PICTURE_SUFFIXES) for path in images.values()):
        last = max(last, len(names or {}) - 1)  # a picture holds its colours in one file
    numbers = range(last + 1) if channel is None else [channel]
    for case, files in cases.items():
        for number in numbers:
            if number not in files:
                what = f" ({name})" if (name := (names or {}).get(str(number))) else ""
                one = f"; or train on one channel: sam-monai dataset {top} --channel 0 --output NEW_FOLDER"
                raise InputError(
                    f"{top}: the case {case} has no file {case}_{number:04d}{what}; copy it there"
                    f"{one if channel is None else ''}"
                )
    return {case: [files[number] for number in numbers] for case, files in cases.items()}


def number_of(channel: int | str | None, names: Mapping[str, Any], top: Path) -> int | None:
    """The number of a channel that is given by its number or its name."""
    if not isinstance(channel, str):
        return channel
    found = [int(n) for n, name in names.items() if n.isdecimal() and str(name).casefold() == channel.casefold()]
    if len(found) != 1:
        known = f"there are {', '.join(map(str, names.values()))}" if names else "the folder names none"
        raise InputError(f"{top}: has no channel named {channel} ({known}); give its number, counted from 0")
    return found[0]


def one_channel(content: dict[str, Any], channel: int | str, source: Path) -> dict[str, Any]:
    """A list of cases, in which an image may have a file for each channel, with the files of one channel alone."""
    stated = content.get("channel_names", content.get("modality"))
    stated = dict(enumerate(stated)) if isinstance(stated, list) else stated if isinstance(stated, dict) else {}
    names = {str(number): name for number, name in stated.items()}
    number, taken, several = number_of(channel, names, source), dict(content), False
    assert number is not None
    for part in ("training", "validation", "test"):
        entries = [dict(entry) if isinstance(entry, dict) else entry for entry in content.get(part) or ()]
        for entry in entries:
            if isinstance(entry, dict) and isinstance(files := entry.get("image"), list):
                if number >= len(files):
                    raise InputError(f"{source}: the image of {files[:1]} has {counted(len(files), 'file')}, and no "
                                     f"channel {number}; the first is 0")  # fmt: skip
                entry["image"], several = files[number], True
        taken[part] = entries
    if not several:
        raise InputError(f"{source}: {ONE_FILE.format(channel)}")
    taken.pop("channel_names", None)
    kinds = content.get("modality") if "channel_names" in content else None  # what they are, besides their names
    kinds = dict(enumerate(kinds)) if isinstance(kinds, list) else kinds if isinstance(kinds, dict) else {}
    kinds = {str(number): kind for number, kind in kinds.items()}
    return taken | {"modality": kinds.get(str(number)) or names.get(str(number), "")}


def _lists_other_names(folder: Path, training: Any) -> bool:
    """Whether a list is that of nnU-Net's first version, which leaves `_0000` out of the images' names."""
    first = training[0] if isinstance(training, list) and training else None
    image = first.get("image") if isinstance(first, dict) else None
    if not isinstance(image, str) or "\0" in image:
        return False
    path = folder / image
    return not os.path.exists(path) and os.path.exists(path.with_name(path.name.replace(".", "_0000.", 1)))


def fold_entries(content: dict[str, Any], file: Path) -> None:
    """Give the cases of a Decathlon list the folds that nnU-Net's ``splits_final.json`` beside it states."""
    training = content.get("training")
    if not os.path.isfile(file) or not isinstance(training, list) or content.get("validation"):
        return
    named = {stem_of(Path(entry["image"])): entry for entry in training if _is_entry(entry)}
    splits = parse(file, list)
    if len(named) < len(training) or not splits or not any(name in str(splits) for name in named):
        logger.warning("%s: is not read, for the cases of dataset.json cannot be told by its names", file)
        return
    cases = {name: Case(Path(entry["image"]), None) for name, entry in named.items()}
    _set_folds(splits, cases, file)
    content["training"] = [named[name] | {"fold": case.fold} for name, case in cases.items()]
    content.pop("numTraining", None)  # some are left out on purpose


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("image"), str) and "\0" not in entry["image"]


def _set_folds(splits: list[Any], cases: dict[str, Case], file: Path) -> None:
    """Give each case the number of the split in which it validates, and leave out those that no split lists: people
    keep them from training on purpose."""
    listed_in: list[set[str]] = []
    for fold, split in enumerate(splits):
        train, val = (split.get("train"), split.get("val")) if isinstance(split, dict) else (None, None)
        if not isinstance(train, list) or not isinstance(val, list):
            raise InputError(f'{file}: split {fold} is no object with the lists "train" and "val"; correct it')
        for name in [*train, *val]:
            if not isinstance(name, str) or name not in cases:
                raise InputError(f"{file}: split {fold} names {name!r}, which is no case of imagesTr; correct it")
        for name in val:
            if cases[name].fold is not None:
                raise InputError(f"{file}: {name} validates in two splits; keep it in one")
            cases[name].fold = fold
        listed_in.append({*train, *val})
    every = set().union(*listed_in)
    for fold, names in enumerate(listed_in):
        if lacking := sorted(every - names):
            raise InputError(
                f"{file}: split {fold} lists {lacking[0]} neither for training nor for validation, and another split "
                "does; list it in all of them or in none"
            )
    left_out = sorted(cases.keys() - every) if listed_in else []
    if left_out:
        logger.warning(
            "%s: %s in none of its splits left out: %s", file, counted(len(left_out), "case"), shown(left_out)
        )
    for name in left_out:
        del cases[name]
