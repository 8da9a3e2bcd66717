"""Cases as a folder or a list tells them: what is common to all forms, and the datalist."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, counted
from .channels import FILES, case_of
from .dataset_json import NotParsed, cases_of, parse
from .dicom_series import patient_of
from .made import LISTS, Written, is_output
from .names import IMAGE_SUFFIXES, OTHER_SUFFIXES, is_hidden, stem_of
from .regions import ORDER

FOLDS = 5  # of which the last one validates where no split is stated
SPLITS = {
    **dict.fromkeys(("train", "training", "tr"), "training"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}

logger = logging.getLogger(__name__)


@dataclass
class Case:
    image: Path
    label: Path | None
    split: str = "training"
    fold: int | None = None
    others: Sequence[Path] = ()
    """Files of further channels."""
    patient: str | None = None
    """Of whom there may be several cases, which stay on one side of the split."""
    row: int | None = None
    """In a table, counted as a spreadsheet does."""

    @property
    def entry(self) -> dict[str, Any]:
        """As in a `dataset.json`."""
        image = [str(self.image), *map(str, self.others)] if self.others else str(self.image)
        entry = {"image": image} if self.label is None else {"image": image, "label": str(self.label)}
        return entry if self.fold is None else entry | {"fold": self.fold}


@dataclass(frozen=True)
class Listed:
    """What a folder or a list of cases was understood to say."""

    source: Path
    """What errors name: a file, or a folder without one."""
    content: dict[str, Any]
    """As of a `dataset.json`, but with absolute paths, and without "labels" where no names are stated."""
    how: str = ""
    """The form, in words; empty for a `dataset.json` of the Decathlon's form."""
    fold: int | None = None
    """That validates where the caller names none."""
    stated: bool = True
    """Whether the data say which cases validate."""
    unlabelled: list[Case] = field(default_factory=list)
    """Those that have no label and are not among those of the test."""
    tree: bool = False
    """Whether each case has a folder of its own, so that file names alone do not tell cases apart."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where a file is listed, in words and by its path, if that is no `dataset.json`."""
    patients: bool = False
    """Whether the list says which cases are of one patient."""

    @property
    def labels_exist(self) -> bool:
        """Whether a label of any case is there; a table of findings names none."""
        return any(os.path.exists(entry["label"]) for entry in (*self.content["training"], *self.content["validation"]))

    @property
    def images(self) -> set[str]:
        """The first file of every case with or without a label, but those of the test."""
        entries = [*self.content["training"], *self.content["validation"], *(case.entry for case in self.unlabelled)]
        return {os.path.realpath(case_of(entry["image"])["image"]) for entry in entries}

    def to_segment(self) -> list[dict[str, Any]]:
        """The test cases and those without a label or, where there are none, the validation cases; their images."""
        tests = [*self.content["test"], *(case.entry for case in self.unlabelled)]
        validation = self.content["validation"] or [c for c in self.content["training"] if c.get("fold") == self.fold]
        return [case_of(entry["image"]) for entry in tests or validation]


def listed(
    source: Path,
    form: str,
    cases: Iterable[Case],
    labels: Any = None,
    modality: Any = "",
    name: Any = None,
    tree: bool = False,
    order: Any = None,
) -> Listed:
    """Cases in the form of a `dataset.json`, with a fold for each where no split is stated. A case without a label that
    is no test case is kept apart.

    ``form`` says in words what the source was taken for. Labels, modality, name and order (`regions_class_order`) are
    as in a `dataset.json`; labels that are ``None`` are found later.
    """
    content: dict[str, Any] = {"name": name, "modality": modality, "training": [], "validation": [], "test": []}
    content |= {} if labels is None else {"labels": labels} | ({} if order is None else {ORDER: order})
    unlabelled: list[Case] = []
    patients: list[str] = []
    seen: set[Path] = set()
    cases = list(cases)
    for case in cases:
        if case.image in seen:
            raise InputError(f"{source}: {case.image} is listed twice; keep it once")
        seen.add(case.image)
        if case.split == "test":
            content["test"].append({"image": case.entry["image"]})
        elif case.label is None:
            unlabelled.append(case)
        else:
            content[case.split].append(case.entry)
            if case.split == "training":
                patients.append(case.patient or patient_of(case.image) or str(case.image))
    warn_of_one_patient(source, cases)
    if not seen:
        raise NotParsed(f"{source}: {form}: there is no image; known ones end in {' '.join(IMAGE_SUFFIXES)}")
    training, fold = content["training"], None
    folds = {case["fold"] for case in training if "fold" in case}
    stated = bool(folds or content["validation"])
    if content["validation"]:
        split = "the split is stated"
    elif stated:
        fold = min(folds)
        split = f"the folds are stated and fold {fold} validates"
    else:
        patients = patients if len(set(patients)) > 1 else [case["label"] for case in training]
        numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
        for case, patient in zip(training, patients, strict=True):
            case["fold"] = numbers[patient] % FOLDS
        fold = min(FOLDS, len(numbers)) - 1 if len(numbers) > 1 else None
        which = "every fifth" if len(numbers) >= FOLDS else "the last"
        which += " case" if len(numbers) == len(training) else " subject"
        split = f"no split is stated, so {which} validates"
        if len(numbers) == len(training) and not {*patients} <= {case.patient for case in cases}:
            split += "; where several images come from one patient, list the validation cases yourself"
    counts = f"{len(training) + len(content['validation'])} labelled images, {len(content['test'])} for testing"
    places = _places(source, cases) if os.path.isfile(source) and source.name != "dataset.json" else {}
    named = max(Counter(case.patient for case in cases if case.patient).values(), default=0) > 1
    return Listed(source, content, f"{form}: {counts}; {split}", fold, stated, unlabelled, tree, places, named)


def _places(source: Path, cases: Sequence[Case]) -> dict[str, str]:
    places = {}
    for case in cases:
        where = f"its entry in {source.name}" if case.row is None else f"row {case.row} of {source.name}"
        places |= {str(file): where for file in (case.image, case.label, *case.others) if file is not None}
    return places


def warn_of_one_patient(source: Path, cases: Sequence[Case]) -> None:
    """Warn of patients on both sides of a stated split: the network has seen them when it is measured."""
    sides: dict[str, set[object]] = defaultdict(set)
    stated = [case for case in cases if case.label is not None or case.split == "test"]
    stated = stated if len({(case.split, case.fold) for case in stated}) > 1 else []
    headers = {case.image: patient_of(case.image) for case in stated if case.patient is None}
    headers = headers if len({*headers.values()}) > 1 else {}  # all alike: a name in place of names
    for case in stated:
        if patient := case.patient or headers.get(case.image):
            sides[patient].add(case.split if case.fold is None else f"fold {case.fold}")
    both = {patient: found for patient, found in sides.items() if len(found) > 1}
    if both:
        first, found = next(iter(both.items()))
        logger.warning(
            "%s: %s on both sides of the split, such as %s in %s: the figures will flatter; keep each on one side",
            source, "1 patient is" if len(both) == 1 else f"{len(both)} patients are", first,
            " and ".join(sorted(map(str, found))),
        )  # fmt: skip


def refuse_other_lists(content: dict[str, Any], file: Path, known: Sequence[str] = ()) -> None:
    """Refuse lists of cases under names that nothing reads, whose cases would be left out or drawn otherwise."""
    for key, value in content.items():
        meant = SPLITS.get(str(key).strip().lower())
        if meant not in (None, key) and key not in known and isinstance(value, list) and value:
            raise InputError(f'{file}: has the list "{key}", and it would not be read; call it "{meant}"')


def read_datalist(file: Path) -> Listed | None:
    """The datalist of MONAI's Auto3DSeg: `training` with folds, and `testing`; ``None`` where it is something else."""
    content = parse(file)
    if not isinstance(content.get("training"), list):
        return None
    refuse_other_lists(content, file, ("testing",))
    content["test"] = content.get("test") or content.get("testing")
    parts = {"training": ("image", "label"), "validation": ("image", "label"), "test": ("image",)}
    cases = [
        Case(
            Path(case["image"]),
            Path(case["label"]) if "label" in case else None,
            part,
            case.get("fold"),
            [Path(file) for file in case.get(FILES, ())[1:]],
        )
        for part, keys in parts.items()
        for case in cases_of(content, part, file, keys)
    ]
    refuse_odd_folds([case.fold for case in cases], file)
    names = content.get("channel_names", content.get("modality", ""))
    return listed(file, f"the datalist {file.name}", cases, content.get("labels"), names, order=content.get(ORDER))


def refuse_odd_folds(folds: Sequence[Any], file: Path) -> None:
    """Refuse folds that are no whole numbers, and would be taken for none."""
    odd = [one for one in folds if one is not None and (not isinstance(one, int) or isinstance(one, bool))]
    if odd:
        raise InputError(f'{file}: "fold" is {odd[0]!r}; give whole numbers from 0 on')


def first_fold(content: dict[str, Any], file: Path) -> int | None:
    """The first of the folds that a `dataset.json` states, where it lists no validation cases."""
    training = content.get("training")
    if content.get("validation") or not isinstance(training, list):
        return None
    folds = [case.get("fold") for case in training if isinstance(case, dict)]
    refuse_odd_folds(folds, file)
    known = {fold for fold in folds if fold is not None}
    return min(known) if known and len({*map(str, folds)}) > 1 else None


def entries(folder: Path | None) -> dict[str, Path]:
    """Images and folders of a folder by their names without suffix; nothing of a folder that is not there, and no
    result of this package that nobody has changed since."""
    found: dict[str, Path] = {}
    if folder is None or not os.path.isdir(folder):
        return found
    known: dict[Path, Written] = {}
    others: list[str] = []
    lists = (LISTS, "manifest") if os.path.isdir(folder / LISTS) else ()
    for path in sorted(folder.iterdir()):
        is_folder = os.path.isdir(path)
        is_image = path.name.lower().endswith((*IMAGE_SUFFIXES, ".dcm"))
        if is_hidden(path.name) or path.name in lists:
            continue
        if not (is_folder or is_image):
            others += [] if path.name.lower().endswith(OTHER_SUFFIXES) else [path.name]
            continue
        if not is_folder and is_output(path, known) == "":
            continue
        name = unicodedata.normalize("NFC", path.name if is_folder else stem_of(path))  # a Mac takes umlauts apart
        other = found.setdefault(name, path)
        if other != path:
            raise InputError(f"{path}: {other.name} has the same name; keep one of the two files")
    if others:
        ends = " ".join(IMAGE_SUFFIXES)
        logger.warning(
            "%s: %s such as %s left out: images end in %s", folder, counted(len(others), "file"), others[0], ends
        )
    return found
