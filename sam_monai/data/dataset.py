"""A dataset is a folder with a Decathlon `dataset.json`, or in another form that is known; this module reads it."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, shown
from ..files import from_home
from ..networks.regions import overlap
from .channels import FILES, stated_names
from .dataset_json import cases_of, intensities_of, labels_of, stated_kind, unstated, usual_intensity
from .dicom_series import is_dicom_picture
from .folders import understand
from .kind import seems_ct
from .label_names import label_names
from .left_out import warn_of_unlisted
from .list_errors import of_list
from .listed import Listed
from .load import LoadCased
from .mask_folders import is_mask_folder
from .modality import code_of, codes_in
from .names import PICTURE_SUFFIXES, told_apart
from .overlaps import found_overlaps, has_a_mask_each
from .regions import ORDER, regions_of
from .unknown_forms import no_known_form
from .unlabelled import KEY, is_ignored

NO_DATA = "this bundle has no data of its own: give --dataset_dir, a folder of images and labels"

LOOKED_AT = 2  # images, which tell whether those of a folder that does not say it are CT

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """What a `dataset.json`, or a folder of another form, says, checked, with absolute paths.

    Cases are dicts with the keys "image" and "label" (test cases: "image" alone), "channel_files" where an image has a
    file for each channel, "fold" where the file has it, and "ignore" where a value in the label stands for voxels that
    nobody has annotated. Nothing else of an entry is kept: a dataset is data, and its keys shall meet none of the
    program's own.

    Example:
        >>> from sam_monai.data import demo_dataset, read_dataset
        >>> read_dataset(demo_dataset()).spatial_dims
        3
    """

    folder: Path
    name: str
    labels: tuple[str, ...]
    """Names of the foreground labels; labels[i] has the value i + 1 in the label files, or those of ``regions[i]``."""
    intensity: str | list[str]
    """What the numbers of an image are: "ct" (Hounsfield units), "mr" (arbitrary) or "picture" (brightness); a list
    where they are not the same in all channels."""
    training: list[dict]
    validation: list[dict]
    test: list[dict]
    reserved: tuple[str, ...]
    """Names of the training cases set aside for validation, where the file lists no `validation`: of their files, with
    as many of the folders above as tell the cases apart."""
    channels: tuple[str, ...] = ()
    """Names of an image's channels where they are several and no colours."""
    regions: tuple[tuple[int, ...], ...] | None = None
    """The values of each label where any has several, see :mod:`sam_monai.networks.regions`."""
    apart: bool = False
    """Whether the labels have a mask each, so that regions are those of their overlaps."""
    modality: tuple[str, ...] = ()
    """DICOM's codes for the modalities that the file names."""
    guessed: str = ""
    """Why ``intensity`` is that of the files' type, in words; empty where something states it."""
    places: Mapping[str, str] = field(default_factory=dict)
    """As of :class:`~sam_monai.data.listed.Listed`."""

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
    """Read a folder with a `dataset.json`, or in another known form. Labels are opened where nothing states their
    names, and where each has a mask of its own, to see whether they overlap. `sam_monai.data.check_dataset` opens the
    images.

    Args:
        dataset_dir: folder with `dataset.json` as of the Medical Segmentation Decathlon; nnU-Net's newer form of
            `labels` ({"background": 0, "liver": 1}) and its `channel_names` are understood as well. Or a folder, CSV
            or JSON list of another form, see :mod:`sam_monai.data.folders`. ``None``: no cases and no labels, for a
            configuration that holds its labels and gets its cases from a server.
        train_cases: train on so many cases of the list, counted after the split: the first, or, with a
            ``train_cases_seed``, those that it draws.
        seed: decides which cases are set aside where a `dataset.json` has neither `validation` nor folds: 20 % of them,
            at least one.
        fold: of a cross-validation: validate on the training cases whose key `fold`, as in Auto3DSeg's lists, has this
            number, and train on the others. ``None``: the first fold, where folds are stated. A form without a split
            has five folds.

    Raises:
        InputError: folder, file or keys that are missing or wrong, an unknown form, labels that are not 0..L, no
            training case.

    Example:
        >>> from sam_monai.data import demo_dataset
        >>> dataset = read_dataset(demo_dataset())
        >>> dataset.labels, len(dataset.training), len(dataset.validation)
        (('grey matter', 'white matter'), 4, 1)
    """
    if dataset_dir is None:
        return Dataset(Path(), "", (), "mr", [], [], [], ())
    _check_arguments(dataset_dir, seed, train_cases_seed, fold)
    path = Path(os.path.abspath(from_home(dataset_dir)))
    if not os.path.exists(path):
        raise InputError(f"{path}: no such folder; the key dataset_dir names a folder of images and labels")
    known = understand(path)
    if known is None:
        raise no_known_form(path)
    return dataset_of(known, train_cases, seed, train_cases_seed, fold)


def dataset_of(
    known: Listed,
    train_cases: int | None = None,
    seed: int = 0,
    train_cases_seed: int | None = None,
    fold: int | None = None,
    names: Sequence[str] | None = None,
    overlaps: bool = True,
) -> Dataset:
    """A dataset of what :func:`sam_monai.data.folders.understand` found. Arguments are those of :func:`read_dataset`;
    ``names`` take the place of the stated labels, or choose some folders of masks; ``overlaps`` says whether to look
    for labels that overlap, for which masks are read."""
    file, content = known.source, known.content
    folder = file if os.path.isdir(file) else file.parent
    if known.unlabelled:
        more = f", nor have {len(known.unlabelled) - 1} more" if len(known.unlabelled) > 1 else ""
        raise InputError(
            f"{known.unlabelled[0].image}: has no label{more}; add it, or move the image to "
            "a folder for testing, such as imagesTs"
        )
    entry, regions = regions_of(content.get("labels"), content.get(ORDER), file)
    labels = labels_of(entry, file) if "labels" in content or not known.how else None
    training = cases_of(content, "training", file, ("image", "label"))
    validation = cases_of(content, "validation", file, ("image", "label"))
    test = cases_of(content, "test", file, ("image",))
    if not training:
        raise InputError(f'{file}: "training" is missing or empty; list at least one {{"image", "label"}} pair')
    names_of_channels = content.get("channel_names", content.get("modality", ""))
    modality, first = content.get("modality", names_of_channels), training[0]["image"]
    kind = stated_kind(modality, file)
    channels = stated_names(names_of_channels, [*training, *validation, *test], kind == "picture", file)
    of_each = isinstance(modality, dict | list) and len(modality) > 1  # of each channel by itself
    usual = usual_intensity(first) if of_each or kind is None else kind
    intensity: str | list[str] = kind or usual
    if channels:
        said = [*(modality.values() if isinstance(modality, dict) else modality)] if of_each else []
        said = said if len(said) == len(channels) else [""] * len(channels)
        files = training[0].get(FILES, [first]) if of_each or kind is None else []
        each = [usual_intensity(file) for file in files] if len(files) == len(channels) else [usual] * len(channels)
        intensity = intensities_of([f"{one} {name}" for one, name in zip(said, channels, strict=True)], each)
    unsaid = f"{file}: {unstated(modality)}" if kind is None and not channels else ""
    if unsaid and intensity == "mr" and not code_of(Path(first)):
        if all(seems_ct(case["image"]) for case in training[:LOOKED_AT]):
            intensity, unsaid = "ct", f"{unsaid}, and values are like a CT's, with air at -1000"
    if labels is None or names is not None:
        labels = _named(labels, names, [*training, *validation], known)
    cases = [*training, *validation]
    apart = overlaps and regions is None and any(has_a_mask_each(case["label"]) for case in cases)
    if apart:
        regions = found_overlaps(cases, labels, LoadCased("label", labels=labels).masks)
        if regions is not None and overlap(regions):
            logger.warning("%s: masks share voxels, so each label is trained by its own sigmoid", file)
    if is_ignored(labels[-1]):
        for case in (*training, *validation):
            case[KEY] = len(labels) if regions is None else 1 + max(map(max, regions))
        labels = labels[:-1]
    reserved: tuple[str, ...] = ()
    every = [case["image"] for case in cases]

    def names_in(some: Sequence[dict]) -> list[str]:
        return told_apart([case["image"] for case in some], every)

    how = known.how
    if fold is not None and validation:
        raise InputError(f"{file}: states which cases validate, so there is no fold {fold}: leave out --fold")
    if fold is not None:
        training, validation = _split(training, fold, file)
        how = how and f"{how.partition('; ')[0]}; fold {fold} validates"
    elif known.fold is not None:
        training, validation = _split(training, known.fold, file)
        reserved = tuple(names_in(validation))
        if not known.how:
            logger.info("%s: its folds are stated and fold %d validates: %s", file, known.fold, shown(reserved))
    if how:
        logger.info("%s: %s (%s). Labels: %s", file, how, shown(names_in(validation)), shown(labels))
    if not validation:
        training, validation = _set_aside(training, seed, file)
        reserved = tuple(names_in(validation))
        logger.info(
            "%s lists no validation cases: %d of %d training cases set aside for validation: %s. "
            "Where several images come from one patient, list the validation cases yourself.",
            file,
            len(validation),
            len(training) + len(validation),
            ", ".join(reserved),
        )
    held_out = {case["image"] for case in validation}
    leaked = [case for case in training if case["image"] in held_out]
    if leaked:
        training = [case for case in training if case["image"] not in held_out]
        logger.warning("%s lists %s for training and for validation: not trained on", file, ", ".join(names_in(leaked)))
    known_images = {case["image"] for case in (*training, *validation)}
    if seen := [case for case in test if case["image"] in known_images]:
        logger.warning(
            "%s lists %s for testing, too: such masks tell nothing of new images", file, shown(names_in(seen))
        )
    if not known.how:
        warn_of_unlisted(content, [*training, *validation, *test], file)
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
        intensity=intensity,
        training=training,
        validation=validation,
        test=test,
        reserved=reserved,
        channels=channels,
        regions=regions,
        apart=apart,
        modality=codes_in(modality) or codes_in(names_of_channels),
        guessed=unsaid,
        places=known.places,
    )


def is_picture(path: str | Path) -> bool:
    """Tell whether a file, or the DICOM image in a folder, is a picture and no volume."""
    return str(path).lower().endswith(PICTURE_SUFFIXES) or is_dicom_picture(path)


def _named(
    stated: Sequence[str] | None, names: Sequence[str] | None, cases: list[dict], known: Listed
) -> tuple[str, ...]:
    """The labels' names where nothing states them, or where a user renames them."""
    if stated is None:
        try:
            found = label_names(cases, names)
        except InputError as error:
            raise of_list(error, cases, known.places) from error
        if names is None and not is_mask_folder(cases[0]["label"]):
            folder = known.source if os.path.isdir(known.source) else known.source.parent
            logger.warning(
                "%s: nothing names the labels, and S-SAM prompts by name: sam-monai dataset %s --labels %s "
                "writes a dataset.json with names",
                *(known.source, folder, ",".join(f"NAME{i}" for i in range(1, min(len(found), 3) + 1))),
            )
    elif names is not None and len(names) != len(stated):
        raise InputError(f"{known.source}: has the labels {', '.join(stated)}, and {len(names)} are named; name all")
    else:
        found = names or stated
    return labels_of({"0": "background", **{str(i): name for i, name in enumerate(found, 1)}}, known.source)


def _check_arguments(dataset_dir: object, seed: object, train_cases_seed: object, fold: object) -> None:
    if not isinstance(dataset_dir, str | Path) or not str(dataset_dir):
        raise InputError(f"the key dataset_dir is {dataset_dir!r}; give the path of a folder, as in ./{dataset_dir}")
    for name, value in (("seed", seed), ("train_cases_seed", train_cases_seed), ("fold", fold)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise InputError(f"the key {name} is {value!r}; give a whole number from 0 on")


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
