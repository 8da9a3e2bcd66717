"""Folders of cases as people have them, each understood as what a `dataset.json` would say.

The forms are tried in the order of :func:`understand`. A folder that has none of them is not guessed at.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, counted, quiet, shown
from .bids import read_bids
from .csv_lists import read_csv, stated_splits
from .dataset_json import NotParsed, parse
from .dicom_series import is_dicom
from .labels_beside import OF_IMAGES, OF_LABELS, read_beside
from .left_out import masks_of_others, refuse_folders_of_pictures, refuse_lists_beside, warn_of_unread
from .listed import (
    SPLITS,
    Case,
    Listed,
    entries,
    first_fold,
    listed,
    read_datalist,
    refuse_other_lists,
)
from .made import is_output
from .mask_folders import is_mask_folder
from .names import MARK, is_hidden, stem_of
from .nnunet import ONE_FILE, by_case, fold_entries, one_channel, read_nnunet

IMAGES, LABELS = ("imagestr", "images", "image"), ("labelstr", "labels", "label", "masks", "mask")
MASKS = ("segmentations", "segmentation", "masks", "labels")
SPREADSHEETS = (".xlsx", ".xls", ".ods")

logger = logging.getLogger(__name__)


def understand(
    path: Path, channel: int | str | None = None, past_json: bool = False, beside: bool = True
) -> Listed | None:
    """What a folder, or a list of cases in a CSV or JSON file, says; ``None`` where it has no known form. ``channel``,
    counted from 0 or by its name, is taken where a case has several files. ``past_json`` leaves a `dataset.json` out of
    account. ``beside``: whether masks beside images are their labels."""
    if os.path.isfile(path) and path.suffix.lower() not in (".csv", ".json"):
        remedy = "save it as CSV" if path.suffix.lower() in SPREADSHEETS else "unpack it, or give its folder"
        raise InputError(f"{path}: is no folder and no list of cases (CSV or JSON); {remedy}")
    if os.path.isfile(path) and path.name != "dataset.json":
        return _taking(read_csv(path) if path.suffix.lower() == ".csv" else read_datalist(path), channel)
    folder = path.parent if path.name == "dataset.json" else path
    file = folder / "dataset.json"
    if os.path.lexists(file) and not past_json:
        if not os.path.isfile(file):
            raise InputError(f"{folder}: its dataset.json is no file; write one that lists labels and cases")
        content = parse(file)
        if (known := read_nnunet(folder, content, channel)) is None:
            refuse_other_lists(content, file)
            fold_entries(content, folder / "splits_final.json")
            if is_output(file, {}) == "":
                warn_of_older_list(folder, content)
        return known or _taking(Listed(file, content, fold=first_fold(content, file)), channel)
    form = _pairs(folder, channel) or _taking(_mask_trees(folder), channel) or _bids(folder, channel)
    if form is not None:
        table = None
        try:
            table = _lists(folder)
        except NotParsed as error:  # some other table, or an empty one
            logger.warning("%s (it is not read: %s)", error, form.how.partition(":")[0])
        refuse_lists_beside(folder, form, table)
    form = form or _taking(_lists(folder), channel)
    if form is None and beside and (form := read_beside(folder, channel)) is not None:
        refuse_lists_beside(folder, form, None)
    return form


def warn_of_older_list(folder: Path, content: dict[str, Any]) -> None:
    """Warn where a folder has changed since this package listed its cases in a `dataset.json`, which is what counts."""
    form: Listed | None = None
    with quiet():  # what is said now was said when the list was written
        with suppress(InputError):  # a list beside the folders counts, from which the file was made
            form = understand(folder, past_json=True)
        with suppress(InputError):
            form = form or _lists(folder)
    if form is None:
        return
    then, now = (parts_by_label(one, folder, form.stated) for one in (content, form.content))
    new, gone = now.keys() - then.keys(), then.keys() - now.keys()
    moved = {label for label in now.keys() & then.keys() if now[label] != then[label]}
    if new or gone or moved:
        changes = {"not in it": new, "gone": gone, "in another part of the split": moved}
        said = ", ".join(f"{counted(len(some), 'label')} {what}" for what, some in changes.items() if some)
        first = sorted(new or gone or moved)[0]
        logger.warning(
            "%s: was made of %s, which has changed since: %s, such as %s. Run sam-monai dataset again",
            folder / "dataset.json", form.source.name, said, first,
        )  # fmt: skip


def parts_by_label(content: Mapping[str, Any], folder: Path, stated: bool) -> dict[str, Any]:
    """In which part of the split each labelled case is, or in which fold, by the path of its label."""
    parts = {}
    fixed = bool(content.get("validation"))  # so folds, which the list that was written leaves out, do not count
    for part in ("training", "validation"):
        for case in content.get(part) or ():
            if isinstance(case, dict) and isinstance(case.get("label"), str):
                parts[os.path.realpath(folder / case["label"])] = (
                    (part if fixed else case.get("fold", part)) if stated else None
                )
    return parts


def _taking(known: Listed | None, channel: int | str | None) -> Listed | None:
    """Cases that are listed, with one channel of each where that is asked for."""
    if known is None or channel is None:
        return known
    return replace(known, content=one_channel(known.content, channel, known.source))


def _pairs(folder: Path, channel: int | str | None) -> Listed | None:
    """`images/` beside `labels/` or `masks/`, as they are or with `train/`, `val/`, `test/` above or within."""
    inside = _folders(folder)
    images, labels = _only(inside, IMAGES), _only(inside, LABELS)
    parts: list[tuple[str, Path, Path | None]] = []
    lacking: list[Path] = []
    if images is not None and labels is not None:
        of_images, of_labels = _splits_in(images), _splits_in(labels)
        parts = [(split, at, of_labels.get(split)) for split, at in of_images.items()]
        loose = [at for name, at in entries(images).items() if name.lower() not in SPLITS] if parts else []
        if loose:
            raise InputError(f"{loose[0]}: lies beside the folder {parts[0][1].name}; move it into one of the splits")
        parts = parts or [("training", images, labels)]
    elif images is None and labels is None:
        splits = [(at, _folders(at)) for at in inside if at.name.lower() in SPLITS]
        held = [(at, within, _only(within, IMAGES)) for at, within in splits]
        _refuse_twice([at for at, _, one in held if one is not None])
        parts = [(SPLITS[at.name.lower()], one, _only(within, LABELS)) for at, within, one in held if one is not None]
        lacking = [at for at, _, one in held if one is None]
    if not any(split == "training" and at is not None for split, _, at in parts):
        return None
    if lacking:
        raise InputError(f"{lacking[0]}: holds no folder {parts[0][1].name}, as {parts[0][1].parent.name} does; rename "
                         "the one with its images so, or move the folder away")  # fmt: skip
    cases: list[Case] = []
    tests: list[Path] = []
    for split, image_folder, label_folder in parts:
        found = entries(image_folder)
        refuse_folders_of_pictures(found)
        if split == "test" or label_folder is None:
            tests += found.values() if split == "test" else ()
            cases += [Case(image, None, split) for image in found.values()] if split != "test" else []
        else:
            pairs = _paired(found, image_folder, label_folder, channel)
            cases += [Case(files[0], label, split, others=files[1:]) for files, label in pairs]
    several = channel is not None or any(case.others for case in cases)  # so tests have a file for each channel too
    tests += list(entries(_only(inside, ("imagests",))).values())
    grouped = by_case({stem_of(at): at for at in tests}, folder, channel) if several else {at: [at] for at in tests}
    cases += [Case(files[0], None, "test", others=files[1:]) for files in grouped.values()]
    warn_of_unread(folder, [*inside, *(at for _, one, _ in parts for at in _folders(one.parent))], parts)
    where = [f"{one.relative_to(folder)}/ with {at.relative_to(folder)}/" for _, one, at in parts if at is not None]
    channels = {1 + len(case.others) for case in cases} - {1}
    where += [f"{max(channels)} files of each image taken for its channels"] if channels else []
    return listed(folder, f"images and labels of the same names, {', '.join(where)}", cases)


def _paired(
    images: dict[str, Path], image_folder: Path, label_folder: Path, channel: int | str | None
) -> list[tuple[list[Path], Path | None]]:
    """The files of images and the labels of the same name. Where no name is the same, labels may begin or end in `mask`
    or the like, images in `image`, and images may end in the number of a channel."""
    files = {stem: [path] for stem, path in images.items()}
    labels = entries(label_folder)
    if images and not labels and (there := masks_of_others(label_folder)):
        raise InputError(
            f"{label_folder}: holds no mask but {shown(there, 3)}; a mask is a picture or volume in which 0 is the "
            "background and 1, 2, ... are the labels: write such files"
        )
    if labels and not images.keys() & labels.keys():
        numbered = {stem[:-5] for stem in images if re.fullmatch(r".+_\d{4}", stem)}
        plain = _plain(labels, OF_LABELS)
        if images.keys() & plain.keys():
            labels = plain
        elif numbered & labels.keys():
            files, channel = by_case(images, image_folder.parent, channel), None
        elif (others := _plain(images, OF_IMAGES)).keys() & plain.keys():
            labels, files = plain, {stem: [path] for stem, path in others.items()}
    for stem in sorted(labels.keys() - files.keys()):
        raise InputError(
            f"{labels[stem]}: no image in {image_folder} has this name (there is {next(iter(files), 'none')}); give "
            "both the same name, or list the pairs in a CSV with the columns image and label"
        )
    if channel is not None:
        raise InputError(f"{image_folder}: {ONE_FILE.format(channel)}")
    return [(channels, labels.get(stem)) for stem, channels in files.items()]


def _plain(files: dict[str, Path], words: str) -> dict[str, Path]:
    """Files by their names without one of some words at the beginning or at the end."""
    found: dict[str, Path] = {}
    for stem, path in files.items():
        name = re.sub(rf"^({words})([_-]|(?=\d))|[._-]({words})$", "", stem, count=1, flags=re.IGNORECASE)
        if (other := found.setdefault(name, path)) != path:
            raise InputError(f"{path}: {other.name} seems to be of the same image; list the pairs in a CSV")
    return found


def _mask_trees(folder: Path) -> Listed | None:
    """A folder a case with an image and a folder of masks, one a label, as of TotalSegmentator's data."""
    if not any(_only(_folders(at), MASKS) for at in _folders(folder)):
        return None
    cases: list[Case] = []
    odd: list[str] = []
    several = False  # images beside a folder of masks
    splits = stated_splits(folder / "meta.csv", "image_id")
    for at in _folders(folder):
        masks = _only(_folders(at), MASKS)
        images = [at] if is_dicom(at) else []
        for stem, path in entries(at).items():
            is_volume = is_dicom(path) if os.path.isdir(path) else not path.name.lower().endswith(".dcm")
            if is_volume and not stem.endswith(MARK):  # a mask that this package wrote is no second image
                images.append(path)
        if masks is not None and len(images) != 1:
            names = ", ".join(path.name for path in images) or "none"
            whole = not images and _only(_folders(at), IMAGES) is not None  # a dataset of its own
            several |= is_mask_folder(masks) and not whole
            odd.append(f"{at}: one image is needed beside {masks.name}/, and there is {names}; list cases in a CSV")
            continue
        label = masks if masks is not None and is_mask_folder(masks) else None
        if images and splits and at.name not in splits:
            raise InputError(f"{folder / 'meta.csv'}: states no split of {at.name}; add a row, or move the folder away")
        split, fold = splits.get(at.name, ("training", None))
        cases += [Case(image, label, split, fold) for image in images]
    if odd and (several or any(case.label is not None for case in cases)):
        raise InputError(odd[0])
    if not any(case.label is not None for case in cases):
        return None
    form = "a folder for each case, with an image and a mask for each label"
    return listed(folder, form, cases, modality=" ".join(sorted({stem_of(case.image) for case in cases})), tree=True)


def _bids(folder: Path, channel: int | str | None) -> Listed | None:
    return read_bids(folder, channel) if any(at.name.startswith("sub-") for at in _folders(folder)) else None


def _lists(folder: Path) -> Listed | None:
    """A CSV or a datalist of MONAI's Auto3DSeg in the folder."""
    found: list[Listed] = []
    for file in sorted(folder.iterdir()):
        one = None
        if file.suffix.lower() == ".csv" and os.path.isfile(file):
            one = read_csv(file)
        elif file.suffix.lower() == ".json" and os.path.isfile(file) and file.name != "dataset.json":
            with suppress(NotParsed):  # some other file
                one = read_datalist(file)
        found += [one] if one is not None else []
    if len(found) > 1:
        names = ", ".join(one.source.name for one in found)
        raise InputError(f"{folder}: holds several lists of cases, {names}; give the path of one of them")
    return found[0] if found else None


def _folders(folder: Path) -> list[Path]:
    if not os.access(folder, os.R_OK | os.X_OK):
        return []  # what cannot be read is said where images are looked for
    return [path for path in sorted(folder.iterdir()) if os.path.isdir(path) and not is_hidden(path.name)]


def _splits_in(folder: Path) -> dict[str, Path]:
    """The folders within that are named like a split."""
    return _refuse_twice([at for at in _folders(folder) if at.name.lower() in SPLITS])


def _refuse_twice(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders that are named like splits, by these; two of one split are refused."""
    found: dict[str, Path] = {}
    for at in folders:
        if found.setdefault(split := SPLITS[at.name.lower()], at) != at:
            raise InputError(f"{at}: means the same split as {found[split].name}/ beside it; make one folder of them")
    return found


def _only(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The one of some folders that has one of the names."""
    found = [path for path in folders if path.name.lower() in names]
    if len(found) > 1:
        raise InputError(f"{found[1]}: lies beside {found[0].name}/; keep one of the two, or list the cases in a CSV")
    return found[0] if found else None
