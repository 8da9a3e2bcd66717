"""Look at every file of a dataset before training, and name all that do not fit at once."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..errors import InputError, counted, several, shown
from ..networks.regions import Regions, values_in_words
from . import pairs
from .channels import FILES, refuse_others, taken, with_files_taken
from .dataset import NO_DATA, Dataset
from .fingerprint import Fingerprint, FingerprintTaker
from .frames import frames_of
from .grids import Grids, OtherGrid, on_grid_of, without_voxels
from .instances import PIECES, inside_and_border, names_of
from .kind import CheckKind, odd_spacing
from .label_names import not_held
from .list_errors import MOST_LINES, in_its_list, swapped
from .load import LoadCased
from .mask_folders import number_of_files
from .names import told_apart
from .odd_masks import Gaps, Rims, Surroundings
from .unlabelled import UNLABELLED
from .voxels import voxels_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examined:
    """What :func:`examine` found."""

    dataset: Dataset
    notes: list[str]
    """On what is allowed but may be an oversight."""
    fingerprint: Fingerprint | None
    """Of the training cases; ``None`` where they are not the dataset's, as when a server gives them."""
    voxels: dict[str, str]
    """What each image shows, by its path (:func:`sam_monai.data.voxels.voxels_of`)."""


def check_dataset(dataset: Dataset, *args: Any, **kwargs: Any) -> list[str]:
    """The notes of :func:`examine`.

    Example:
        >>> from sam_monai.data import demo_dataset, read_dataset
        >>> check_dataset(read_dataset(demo_dataset()))
        []
    """
    return examine(dataset, *args, **kwargs).notes


def examine(
    dataset: Dataset,
    channels: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    cases: Sequence[dict] | None = None,
    orientation: str = "coarsest",
    channel_names: Sequence[str] | None = None,
    regions: Regions | None = None,
    frames: bool = False,
    instances: bool = False,
    intensity: str | Sequence[str] | None = None,
    ct_window: Sequence[float] | None = None,
) -> Examined:
    """Load every training and validation case, say all that is wrong with them, and take the training cases'
    fingerprint; test images need only exist.

    What makes a file unfit is decided by :class:`LoadCased`, through which all other doors load too.

    Args:
        dataset: what `read_dataset` returned.
        channels: as in `LoadCased`.
        labels: names of the foreground labels that are trained; ``None``: the dataset's.
        cases: what is trained on; ``None``: the dataset's training cases. Where they are not among those, as when a
            server gives them, they are checked in the dataset's place.
        orientation: in which volumes are sliced.
        channel_names: as in `LoadCased`; ``None``: those of the dataset that ``channels`` chooses.
        regions: the values of each label that are trained, of ``labels``.
        frames: as in `LoadCased`.
        instances: likewise.
        intensity: what the numbers of an image are taken for; ``None``: not compared with what they seem to be.
        ct_window: in Hounsfield units, of CT.

    Returns:
        With notes, also logged, on cases whose label is empty and on labels that occur in no training case.

    Raises:
        InputError: no cases; other labels or channels than the dataset's; else one line for each problem, with the file
            and the remedy, at most 20 and the number of the others.

    Example:
        >>> from sam_monai.data import demo_dataset, read_dataset
        >>> examined = examine(read_dataset(demo_dataset()))
        >>> examined.fingerprint.spatial_dims, examined.fingerprint.channels
        (3, 1)
    """
    if not (dataset.training if cases is None else cases):
        raise InputError(NO_DATA)
    listed = {case["image"] for case in dataset.training}
    labels, regions = (dataset.labels, dataset.regions) if labels is None else (labels, regions)
    given = cases is not None and any(case.get("image") not in listed for case in cases)
    if cases is not None and given:
        dataset = _given(cases, labels, regions)
    if tuple(labels) != dataset.labels:
        raise InputError(
            f"{dataset.folder}: its dataset.json has the labels {', '.join(dataset.labels)}, the key labels is "
            f"{', '.join(labels)}: give both the same, in one order. A packaged bundle has the labels of its adapter; "
            "for others train with --bundle ssam, ptsam or medsa"
        )
    if values_in_words(regions) != values_in_words(dataset.regions):
        raise InputError(
            f"{dataset.folder}: its labels have {values_in_words(dataset.regions)}, the key regions says "
            f"{values_in_words(regions)}: give both the same"
        )
    channel_names = taken(dataset.channels, channels) if channel_names is None else channel_names
    refuse_others(dataset.channels, channels, channel_names, dataset.folder)
    load_image = LoadCased("image", channels=channels, channel_names=channel_names, frames=frames)
    trained_labels = names_of(labels, dataset.spatial_dims, regions) if instances else dataset.labels
    load_label = LoadCased("label", dataset.labels, regions=dataset.regions, frames=frames, instances=instances)
    notes: list[str] = []
    said: dict[str, list[str]] = defaultdict(list)
    oddities = (Rims(), Surroundings())
    gaps = Gaps(orientation)
    grids = Grids()
    unfit: dict[int, tuple[OtherGrid, dict, Any]] = {}  # by the numbers of their problems
    pieces = 0  # labels of which each piece is taken for an object
    problems = [line for part in (dataset.training, dataset.validation) for line in pairs.listed_twice(part)]
    files = [with_files_taken(case, channels) for case in (*dataset.training, *dataset.validation)]
    problems += pairs.exchanged(files, channel_names or ())
    held: dict[str, str] = {}
    same: dict[str, list[str]] = defaultdict(list)
    kinds: dict[str, tuple[int, int]] = {}
    empty: dict[str, list[str]] = {"training": [], "validation": []}
    trained: set[int] = set()
    measured: set[int] = set()
    trained_on = {case["image"] for case in (dataset.training if cases is None else cases)}
    taker = FingerprintTaker(dataset.labels, orientation, dataset.regions, len(trained_on))
    begun = time.monotonic()
    others = [case for case in dataset.validation if case["image"] not in listed]  # all, where none was trained on
    parts = [("training", c) for c in dataset.training] + [("validation", c) for c in others]
    for part, case in tqdm(parts, desc="checking cases", disable=2 * len(parts) < 20):
        image = label = None
        try:
            image = load_image(case)["image"]
            grids.add(image, case["image"])
            kind = {"spatial_dims": image.ndim - 1, "intensity": intensity, "ct_window": ct_window}
            kind["channel_names"] = channel_names or None
            # Whether a header contradicts the dataset is told where the key modality is made of both.
            CheckKind(kind | {"orientation": orientation}, said[case["image"]].append)({"image": image})
            said[case["image"]] += odd_spacing(image)
            kinds[case["image"]] = (image.ndim - 1, image.shape[0] // frames_of(image))
            held[case["image"]] = voxels_of(image)
            same[held[case["image"]]].append(case["image"])
        except InputError as e:
            problems.append(str(e))
        try:
            label = load_label(case)["label"]
            pieces += PIECES in label.meta
            annotated = label != UNLABELLED
            if not annotated.any():
                problems.append(f"{case['label']}: no voxel of it is annotated; remove the case")
            gaps.add(label, case["label"])
            label = label.masked_fill(~annotated, 0)
            values = set(torch.bincount(label.flatten().int()).nonzero().flatten().tolist()) - {0}
            (trained if part == "training" else measured).update(values)
            if dataset.regions is None and not instances:
                for oddity in oddities:
                    oddity.add(label, case["label"])
            if not values:
                empty[part].append(case["label"])
        except InputError as e:
            problems.append((image is not None and swapped(case)) or str(e))
        try:
            if image is not None and label is not None:
                label = on_grid_of(label, image, case["label"], case["image"])
                if pairs.holds_its_label(image, label):
                    problems.append(f"{case['image']}: holds the same as its label {case['label']}; give the image")
                if part == "training" and case["image"] in trained_on and not given:
                    taker.add(image, inside_and_border(label, 1) == 1 if instances else label)
        except OtherGrid as e:
            unfit[len(problems)] = (e, case, without_voxels(label))
            problems.append(str(e))
        except InputError as e:
            problems.append(str(e))
    for number, (error, case, label) in unfit.items():
        if number < MOST_LINES and (hint := pairs.of_another(case, [c for _, c in parts], grids.fitting(label))):
            problems[number] = error.remedied(hint)
    problems += _odd_ones(kinds)
    for case in dataset.test:
        if not os.path.exists(case["image"]):
            problems.append(f"{case['image']}: no such file; copy it there or remove it from the test list")
    if not trained and not problems:
        problems.append(
            f"{dataset.folder}: no training label holds anything but background; "
            "check the label files, or list other training cases"
        )
    if problems:
        more = [f"and {len(problems) - MOST_LINES} more"] if len(problems) > MOST_LINES else []
        raise several([in_its_list(line, dataset.places) for line in problems[:MOST_LINES]] + more)
    every = [case["label"] for _, case in parts]
    notes += [
        f"{counted(len(found), f'{part} case')} with nothing but background: {shown(told_apart(found, every), 10)}"
        for part, found in empty.items()
        if found
    ]
    notes += not_held(dataset.labels, trained, dataset.regions)
    notes += [
        f'no validation label holds "{name}": its Dice is not measured'
        for name, values in zip(dataset.labels, dataset.regions or [[i + 1] for i in range(len(labels))], strict=True)
        if measured and measured.isdisjoint(values) and not trained.isdisjoint(values)
    ]
    notes += [
        f"{' and '.join(dict.fromkeys(paths))} hold the same image; a copy among the validation cases flatters"
        for paths in same.values()
        if len(set(paths)) > 1
    ]
    if pieces:
        notes.append(
            f"{counted(pieces, 'mask')} with one value for all objects: each connected piece is taken for an object"
        )
    notes += [note for oddity in oddities for note in oddity.notes(dataset.labels)] + gaps.notes()
    notes += pairs.oversights(dataset.training, dataset.validation)
    notes += pairs.of_several_images(files, channel_names or ())
    notes += alike(said)
    for note in notes:
        logger.warning(note)
    seconds = (time.monotonic() - begun) / len(parts)
    number = sum(len(case.get(FILES, ("",))) + number_of_files(case["label"]) for _, case in parts)
    dataset = replace(dataset, labels=trained_labels)
    return Examined(dataset, notes, taker.result(len(dataset.validation), seconds, number / len(parts)), held)


def alike(said: Mapping[str, Sequence[str]]) -> list[str]:
    """What was said of images, by their paths, each thing once with the number of the other images."""
    images: dict[str, list[str]] = defaultdict(list)
    for image, messages in said.items():
        for message in messages:
            images[message.replace(image, "")].append(message)
    return [each[0] + (f" (likewise {len(each) - 1} more)" if len(each) > 1 else "") for each in images.values()]


def _given(cases: Sequence[dict], labels: Sequence[str], regions: Regions | None) -> Dataset:
    odd = [case for case in cases if not all(isinstance(case.get(key), str | Path) for key in ("image", "label"))]
    if odd:
        raise InputError(f'a case given for training is {odd[0]}: each needs the paths "image" and "label"')
    if not labels:
        raise InputError("cases are given for training and no labels: name them by the key labels")
    stated = None if regions is None else tuple(map(tuple, regions))
    return Dataset(Path("the cases given"), "", tuple(labels), "", list(cases), [], [], (), regions=stated)


def _odd_ones(kinds: dict[str, tuple[int, int]]) -> list[str]:
    if len(set(kinds.values())) < 2:
        return []
    (axes, channels), _ = Counter(kinds.values()).most_common(1)[0]
    names = {2: "2D picture", 3: "3D volume"}
    return [
        f"{path}: is a {names[n]} with {counted(c, 'channel')}, most images are a {names[axes]} with {channels}; "
        + ("make two datasets of them" if n != axes else "convert it, or give key channels: [0, 0, 0] or [0]")
        for path, (n, c) in kinds.items()
        if (n, c) != (axes, channels)
    ]
