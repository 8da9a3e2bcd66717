"""BIDS: `sub-*` folders, with a label map `*_dseg` or a mask `*_mask` beside images or under `derivatives`."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel as nib

from ..errors import InputError, shown
from .affines import TOLERANCE, apart
from .csv_lists import stated_splits
from .listed import Case, Listed, listed
from .names import MARK, is_hidden, stem_of
from .nifti import millimetres

OF_MASKS = "lesion|mask|msk|seg|label|roi"  # in the name of a file
Session = tuple[str, ...]  # as in ("sub-01", "ses-1")


def read_bids(folder: Path, channel: int | str | None) -> Listed | None:
    """The cases of a BIDS folder; ``None`` where it has no label.

    Images of a session are its channels where every session has the same ones on one grid. ``channel`` takes one of
    them, by its name or by its place among the sorted names."""
    images, labels = _files(folder)
    if not labels:
        return None
    chosen = _channels(folder, images) if channel is None else _one(folder, images, channel)
    names = list(next(iter(chosen.values())))
    cases = [
        Case(files[0], labels.get(key), others=files[1:], patient=key[0])
        for key, files in ((key, list(named.values())) for key, named in chosen.items())
    ]
    splits = stated_splits(folder / "participants.tsv", "participant_id")
    for case in cases if splits else ():
        if case.patient not in splits and case.label is not None:
            raise InputError(f"{folder / 'participants.tsv'}: states no split of {case.patient}; add it")
        case.split, case.fold = splits.get(case.patient or "", (case.split, None))
    words = sorted({_whole(labels[key]) for key in chosen if key in labels})
    form = "a BIDS folder"
    if odd := [name for name in names if re.search(OF_MASKS, name.lower())]:
        raise InputError(
            f"{folder}: {odd[0]} is taken for an image, and {words[0]} for the label; move away what is neither, or "
            "list pairs in a CSV"
        )
    if len(names) > 1:
        form += f" with the channels {', '.join(names)}"
    elif channel is not None:
        form += f", of which {names[0]} is taken"
    if any(word.endswith("_mask") for word in words):  # of a brain, perhaps, and not what was meant
        form += f" with the labels {shown(words, 3)}"
    modality: Any = names if len(names) > 1 else stem_of(cases[0].image).rpartition("_")[2]
    return listed(folder, form, cases, _label_names(folder), modality, tree=True)


def _files(folder: Path) -> tuple[dict[Session, list[Path]], dict[Session, Path]]:
    """The images of each session, as far as they are of a kind that has labels (`anat`, and not `func`), and the
    label of each that has one."""
    images: dict[Session, list[Path]] = defaultdict(list)
    labels: dict[Session, list[Path]] = defaultdict(list)
    for file in sorted(folder.rglob("sub-*.nii*")):
        if any(map(is_hidden, file.relative_to(folder).parts)):
            continue
        stem = stem_of(file)
        key = tuple(re.findall(r"(?:^|_)((?:sub|ses)-[^_]+)", stem))
        if stem.endswith(("_dseg", "_mask")):
            labels[key].append(file)
        elif file.relative_to(folder).parts[0] != "derivatives" and not stem.endswith(MARK):
            images[key].append(file)
    every = {file.parent.name for file in chain.from_iterable(labels.values())}
    for key in {**images, **labels}:
        kinds = {file.parent.name for file in labels.get(key, ())} or every
        images[key] = [file for file in images[key] if file.parent.name in kinds]
        if key in labels and (len(labels[key]) > 1 or not images[key]):
            what, files = ("label", labels[key]) if images[key] else ("image", [])
            shown = ", ".join(file.name for file in files) or "none"
            raise InputError(f"{folder}: {'_'.join(key)} needs one {what}, and has {shown}; list pairs in a CSV")
    return {key: files for key, files in images.items() if files}, {key: files[0] for key, files in labels.items()}


def _words(file: Path) -> list[str]:
    """What the name says besides subject and session: acq-hi, run-1, T1w."""
    return [word for word in stem_of(file).split("_") if not word.startswith(("sub-", "ses-"))] or ["image"]


def _whole(file: Path) -> str:
    return "_".join(_words(file))


def _without_run(file: Path) -> str:
    return "_".join(word for word in _words(file) if not word.startswith("run-"))


def _suffix(file: Path) -> str:
    return _words(file)[-1]


def _channels(folder: Path, images: Mapping[Session, Sequence[Path]]) -> dict[Session, dict[str, Path]]:
    """The images of each session by the names that all sessions share. Repeats of one image (`run-1`, `run-2`) are no
    channels."""
    repeated = next((k for k, files in images.items() if len({*map(_without_run, files)}) < len(files)), None)
    for name in (_whole, _without_run, _suffix) if repeated is None else ():
        named = _named(images, name)
        first, *others = named.values()
        if all(one.keys() == first.keys() for one in others) and all(len(named[k]) == len(images[k]) for k in images):
            short = _without_common(list(first))
            for one in named.values():
                _refuse_other_grids(folder, one)
            return {key: {s: one[n] for s, n in zip(short, first, strict=True)} for key, one in named.items()}
    held = {key: sorted(map(_whole, files)) for key, files in images.items()}
    if repeated is not None:
        what = f"{'_'.join(repeated)} has repeats of an image, {', '.join(held[repeated])}"
        names = held[repeated] if len({*held[repeated]}) == len(held[repeated]) else []
        raise InputError(f"{folder}: {what}; {_remedy(folder, names)}")
    kinds = {key: sorted(map(_suffix, files)) for key, files in images.items()}
    most = max(kinds, key=lambda key: len(kinds[key]))
    fewest = next((key for key in kinds if {*kinds[most]} - {*kinds[key]}), None)
    other = fewest or next(key for key in held if held[key] != held[most])
    common = sorted(set.intersection(*map(set, kinds.values())))
    raise InputError(
        f"{folder}: {'_'.join(most)} has the images {', '.join(held[most])}, and {'_'.join(other)} has "
        f"{', '.join(held[other])}; add what is missing, or {_remedy(folder, common)}"
    )


def _named(images: Mapping[Session, Sequence[Path]], name: Callable[[Path], str]) -> dict[Session, dict[str, Path]]:
    return {key: {name(file): file for file in sorted(files, key=name)} for key, files in images.items()}


def _without_common(names: Sequence[str]) -> list[str]:
    """Names without the words that all begin with, as with `space-MNI`; a name alone is its last word."""
    words = [name.split("_") for name in names]
    shared = len(os.path.commonprefix([each[:-1] for each in words]))
    return ["_".join(each[shared:]) for each in words]


def _remedy(folder: Path, names: Sequence[str]) -> str:
    one = f"take one: sam-monai dataset {folder} --channel {names[0]}; or " if names else ""
    return f"{one}list pairs in a CSV"


def _one(folder: Path, images: Mapping[Session, Sequence[Path]], channel: int | str) -> dict[Session, dict[str, Path]]:
    """One image of each session, of the whole name or, where none has that, of the last words of it."""
    if isinstance(channel, int):
        named = _channels(folder, images)
        names = list(next(iter(named.values())))
        if channel >= len(names):
            raise InputError(f"{folder}: has no channel {channel}; there are {len(names)}: {', '.join(names)}")
        return {key: {names[channel]: one[names[channel]]} for key, one in named.items()}
    wanted = channel.casefold()
    chosen: dict[Session, dict[str, Path]] = {}
    for key, files in images.items():
        found = [file for file in files if _whole(file).casefold() == wanted]
        found = found or [file for file in files if f"_{_whole(file)}".casefold().endswith(f"_{wanted}")]
        if len(found) != 1:
            what = "several images" if found else "no image"
            names = ", ".join(map(_whole, found or files))
            raise InputError(
                f"{folder}: {'_'.join(key)} has {what} {channel}: there are {names}; name one that every session has, "
                "or list pairs in a CSV"
            )
        chosen[key] = {channel: found[0]}
    return chosen


def _refuse_other_grids(folder: Path, named: Mapping[str, Path]) -> None:
    """Refuse images of a session that do not lie voxel on voxel, by their headers."""
    if len(named) < 2:
        return
    grids = []
    for file in named.values():
        try:
            header: Any = nib.load(file)
            grids.append((file, tuple(header.shape[:3]), millimetres(header.header) @ header.affine))
        except Exception:  # whatever is wrong is said where the file is opened
            return
    first, shape, affine = grids[0]
    for file, size, place in grids[1:]:
        if size != shape or apart(affine, place, (*shape, 1, 1)[:3]) > TOLERANCE:
            sizes = [" x ".join(map(str, one)) for one in (size, shape)]
            what = f"is {sizes[0]}, and {first.name} is {sizes[1]}" if size != shape else f"lies beside {first.name}"
            raise InputError(
                f"{file}: {what}, and channels need one grid; resample it, or {_remedy(folder, list(named))}"
            )


def _label_names(folder: Path) -> dict[str, str] | None:
    """The labels' names in BIDS' tables `*dseg.tsv`; ``None`` where there is none, where tables differ, and where the
    values are not 1, 2, ..., as of an atlas of which the masks hold a part."""
    tables: set[tuple[tuple[str, str], ...]] = set()
    for file in folder.rglob("*dseg.tsv"):
        if any(map(is_hidden, file.relative_to(folder).parts)):
            continue
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        rows = csv.DictReader(lines, delimiter="\t")
        try:
            tables.add(tuple((row.get("index") or "", (row.get("name") or "").strip()) for row in rows))
        except csv.Error as error:
            raise InputError(f"{file}: cannot be read as a table ({error}); correct it, or remove it") from error
    if len(tables) != 1:
        return None
    names = {index: name for index, name in tables.pop() if index != "0"}
    numbered = list(names) == [str(i) for i in range(1, len(names) + 1)]
    return {"0": "background", **names} if names and numbered and all(names.values()) else None
