"""A dataset is a folder with a Decathlon `dataset.json`; this module reads it and says what it does not like."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..networks.identity import RUN
from .dicom import is_dicom_picture

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")

LONGEST_NAME = 200  # of a label
NO_DATA = "this bundle has no data of its own: give --dataset_dir, a folder with a dataset.json"

_INTENSITY_WORDS = {
    "ct": r"ct|cta|cbct|[cn]ect|computed",
    "mr": r"f?mr\w*|t[12]\w*|flair|pdw?|dwi|adc|dti|swi|dce|bold|magnetic",
    "picture": r"rgb|r|g|b|red|green|blue|colou?r|photo\w*|picture|\w*scop[iy]\w*|fundus|histo\w*",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """What a `dataset.json` says, checked, with absolute paths.

    Cases are dicts with the keys "image" and "label" (test cases: "image" alone), and "fold" where the file has it.
    Nothing else of an entry is kept: a dataset is data, and its keys shall meet none of the program's own.
    """

    folder: Path
    name: str
    labels: tuple[str, ...]
    """Names of the foreground labels; labels[i] has the value i + 1 in the label files."""
    intensity: str
    """What the numbers of an image are: "ct" (Hounsfield units), "mr" (arbitrary) or "picture" (brightness)."""
    training: list[dict]
    validation: list[dict]
    test: list[dict]
    reserved: tuple[str, ...]
    """File names of the training cases set aside for validation, where the file lists no `validation`."""

    @property
    def spatial_dims(self) -> int:
        """2 for a dataset of pictures, 3 for one of volumes."""
        if not self.training:
            raise InputError(NO_DATA)
        return 2 if is_picture(self.training[0]["image"]) else 3


def read_dataset(
    dataset_dir: str | Path | None,
    train_cases: int | None = None,
    seed: int = 0,
    train_cases_seed: int | None = None,
    fold: int | None = None,
) -> Dataset:
    """Read the `dataset.json` of a folder. Images are not opened: see `sam_monai.data.check_dataset`.

    Args:
        dataset_dir: folder with `dataset.json` as of the Medical Segmentation Decathlon; nnU-Net's newer form of
            `labels` ({"background": 0, "liver": 1}) and its `channel_names` are understood as well. ``None``: no cases
            and no labels, for a configuration that holds its labels and gets its cases from a server.
        train_cases: train on so many cases of the list, counted after the split: the first, or, with a
            ``train_cases_seed``, those that it draws.
        seed: decides which cases are set aside where there is no `validation`: 20 % of them, at least one.
        fold: of a cross-validation: validate on the training cases whose key `fold`, as in Auto3DSeg's lists, has this
            number, and train on the others.

    Raises:
        InputError: folder, file or keys that are missing or wrong, labels that are not 0..L, no training case.
    """
    if dataset_dir is None:
        return Dataset(Path(), "", (), "mr", [], [], [], ())
    _check_arguments(dataset_dir, seed, train_cases_seed, fold)
    folder = Path(os.path.abspath(Path(dataset_dir).expanduser()))
    file = folder / "dataset.json"
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder; the dataset folder (key dataset_dir) holds a file dataset.json")
    if not os.path.isfile(file):
        what = "its dataset.json is no file" if os.path.lexists(file) else "holds no dataset.json"
        raise InputError(f"{folder}: {what}; write one that lists labels, training and validation cases")
    content = _parse(file)
    labels = _labels(content.get("labels"), file)
    training = _cases(content, "training", file, ("image", "label"))
    validation = _cases(content, "validation", file, ("image", "label"))
    test = _cases(content, "test", file, ("image",))
    if not training:
        raise InputError(f'{file}: "training" is missing or empty; list at least one {{"image", "label"}} pair')
    if fold is not None:
        training, validation = _split(training, fold, file)
    reserved: tuple[str, ...] = ()
    if not validation:
        training, validation = _set_aside(training, seed, file)
        reserved = tuple(Path(case["image"]).name for case in validation)
        logger.info(
            "%s lists no validation cases: %d of %d training cases set aside for validation: %s. "
            "Where several images come from one patient, list the validation cases yourself.",
            file,
            len(validation),
            len(training) + len(validation),
            ", ".join(reserved),
        )
    held_out = {case["image"] for case in validation}
    leaked = [Path(case["image"]).name for case in training if case["image"] in held_out]
    if leaked:
        training = [case for case in training if case["image"] not in held_out]
        logger.warning("%s lists %s for training and for validation: not trained on", file, ", ".join(leaked))
    if not training:
        raise InputError(f"{file}: every training case is a validation case too; list others for training")
    if train_cases is not None:
        if isinstance(train_cases, bool) or not isinstance(train_cases, int) or train_cases < 1:
            raise InputError(f"train_cases is {train_cases!r}; give a whole number from 1 on, or null for all")
        if train_cases > len(training):
            raise InputError(f"train_cases is {train_cases}, but {file} leaves {len(training)} cases for training")
        if train_cases_seed is not None:
            training = random.Random(train_cases_seed).sample(training, len(training))
        training = training[:train_cases]
    return Dataset(
        folder=folder,
        name=content["name"] if isinstance(content.get("name"), str) and content["name"] else folder.name,
        labels=labels,
        intensity=_intensity(content.get("modality", content.get("channel_names", "")), training[0]["image"], file),
        training=training,
        validation=validation,
        test=test,
        reserved=reserved,
    )


def is_picture(path: str | Path) -> bool:
    """Tell whether a file, or the DICOM image in a folder, is a picture and no volume."""
    return str(path).lower().endswith(PICTURE_SUFFIXES) or is_dicom_picture(path)


def _check_arguments(dataset_dir: object, seed: object, train_cases_seed: object, fold: object) -> None:
    if not isinstance(dataset_dir, str | Path) or not str(dataset_dir):
        raise InputError(f"the key dataset_dir is {dataset_dir!r}; give the path of a folder, as in ./{dataset_dir}")
    for name, value in (("seed", seed), ("train_cases_seed", train_cases_seed), ("fold", fold)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise InputError(f"the key {name} is {value!r}; give a whole number from 0 on")


def _parse(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as e:
        raise InputError(f"{file}: broken JSON at line {e.lineno}, column {e.colno}: {e.msg}; correct it") from e
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{file}: cannot be read ({e}); save it as a UTF-8 text file") from e
    except RecursionError as e:
        raise InputError(f"{file}: is nested too deep; write a plain list of cases") from e
    except ValueError as e:  # a number of thousands of digits
        raise InputError(f"{file}: cannot be read ({e}); correct it") from e
    if not isinstance(content, dict):
        raise InputError(f'{file}: must hold one JSON object, {{"labels": ..., "training": [...]}}')
    return content


def _labels(entry: Any, file: Path) -> tuple[str, ...]:
    remedy = 'write "labels": {"0": "background", "1": "first label", "2": "second label"}'
    if not isinstance(entry, dict) or not entry:
        raise InputError(f'{file}: the key "labels" is missing or no object; {remedy}')
    if any(isinstance(v, list) for v in entry.values()):
        raise InputError(f'{file}: "labels" holds lists of values; overlapping labels are not supported; {remedy}')
    if all(isinstance(v, int) and not isinstance(v, bool) for v in entry.values()):
        names = {value: name for name, value in entry.items()}
    elif all(isinstance(v, str) and k.strip().isdecimal() and len(k) < 9 for k, v in entry.items()):
        names = {int(k): v for k, v in entry.items()}
    else:
        raise InputError(f'{file}: "labels" does not give each label a whole number and a name; {remedy}')
    if len(names) < len(entry) or sorted(names) != list(range(len(names))) or len(names) < 2:
        found = ", ".join(str(k)[:20] for k in sorted(names)[:20])
        raise InputError(
            f'{file}: "labels" has the values {found}; they must be 0 (the background), 1, 2, ... '
            f"without a gap, in the label files too; {remedy}"
        )
    foreground = tuple(names[value].strip() for value in range(1, len(names)))
    odd = [name for name in foreground if len(name) > LONGEST_NAME or not name.isprintable()]
    if odd:
        raise InputError(
            f"{file}: the label {odd[0][:50]!r}... is no name; names have up to {LONGEST_NAME} characters that print"
        )
    if acted_upon := [name for name in foreground if RUN.match(name)]:
        raise InputError(
            f"{file}: the label {acted_upon[0]!r} is what a configuration would run or look up (as it does what begins "
            "with $, @ or %); rename it"
        )
    if "" in foreground or len({name.casefold() for name in foreground}) < len(foreground):
        raise InputError(f'{file}: "labels" has an empty name or the same name twice; give each label its own name')
    if "ignore" in foreground and "ignore" in entry:
        raise InputError(f'{file}: nnU-Net\'s "ignore" label is not supported; give those voxels a label of their own')
    return foreground


def _cases(content: dict[str, Any], key: str, file: Path, wanted: tuple[str, ...]) -> list[dict]:
    entries = content.get(key) or []
    shape = " and ".join(f'"{k}"' for k in wanted)
    if not isinstance(entries, list):
        raise InputError(f'{file}: "{key}" must be a list of objects with {shape}')
    cases = []
    for number, entry in enumerate(entries):
        if wanted == ("image",) and isinstance(entry, str):
            entry = {"image": entry}
        if not isinstance(entry, dict) or not all(_is_path(entry.get(k)) for k in wanted):
            raise InputError(
                f'{file}: entry {number} of "{key}" is {reprlib.repr(entry)}; '
                f"it must give {shape} as paths relative to the folder"
            )
        paths = {k: os.path.abspath(file.parent / entry[k]) for k in wanted}
        cases.append({**paths, "fold": entry["fold"]} if "label" in wanted and "fold" in entry else paths)
    return cases


def _is_path(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(value) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False


def _split(cases: list[dict], fold: int, file: Path) -> tuple[list[dict], list[dict]]:
    folds = sorted({str(case["fold"])[:20] for case in cases if "fold" in case})
    validation = [case for case in cases if case.get("fold") == fold]
    if not validation or len(validation) == len(cases):
        found = ", ".join(folds) or "none"
        raise InputError(
            f'{file}: fold is {fold!r}, and the training cases have the folds {found}; give "fold" to each'
        )
    return [case for case in cases if case.get("fold") != fold], validation


def _set_aside(cases: list[dict], seed: int, file: Path) -> tuple[list[dict], list[dict]]:
    if len(cases) < 2:
        raise InputError(f'{file}: one training case and no "validation"; add a second case to either list')
    chosen = set(random.Random(seed).sample(range(len(cases)), max(1, round(0.2 * len(cases)))))
    return [c for i, c in enumerate(cases) if i not in chosen], [cases[i] for i in sorted(chosen)]


def _intensity(entry: Any, image: str, file: Path) -> str:
    entry = "" if entry is None else entry
    texts = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else [entry]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f'{file}: "modality" must name each channel, as in {{"0": "CT"}} or {{"0": "RGB"}}')
    words = {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}
    kinds = {kind for kind, known in _INTENSITY_WORDS.items() for word in words if re.fullmatch(known, word)}
    if len(kinds) == 1:
        return kinds.pop()
    kind = "picture" if image.lower().endswith(PICTURE_SUFFIXES) else "mr"
    logger.info(
        '%s: modality %s says neither CT, MR nor RGB; intensities are treated as "%s".', file, str(entry)[:200], kind
    )
    return kind
