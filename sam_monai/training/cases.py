"""Which cases an adapter was trained on, told by the content of their files, so that none of them is evaluated."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.channels import FILES
from ..data.dataset import Dataset, read_dataset
from ..data.dicom_seg import is_segmentation
from ..data.dicom_series import is_dicom, series_of
from ..data.itk_headers import with_values
from ..data.load import LoadCased
from ..data.mask_folders import is_mask_folder, mask_files
from ..data.names import told_apart
from ..data.unlabelled import KEY
from ..data.voxels import voxels_of
from ..errors import InputError, counted, shown
from ..networks.adapter_files import read_adapter, read_training
from ..networks.identity import from_tensor
from ..networks.regions import with_sets

WHOLE = 4 * 2**20  # bytes up to which a file is read whole; of a larger one so many are read, spread evenly
PIECE = 2**16
PROBES = 5  # of which one was trained on, almost certainly, where a fifth of them was not
NOTE = "validation cases that were trained on"

logger = logging.getLogger(__name__)


def content(path: str | Path, whole: bool = False) -> str:
    """16 hexadecimal digits of what a file, or the DICOM series or the masks in a folder, holds; whatever it is
    called, but for the masks. ``whole``: of every byte, also of a large file."""
    path = Path(path)
    if is_mask_folder(path):  # whose names say which label a mask is of
        parts = sorted(f"{name.casefold()} {file_content(file, whole)}" for name, file in mask_files(path).items())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    in_series = (path.is_dir() or is_dicom(path)) and not is_segmentation(path)
    parts = sorted(file_content(file, whole) for file in (series_of(path).files if in_series else with_values(path)))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def content_of_all(files: Sequence[str]) -> str:
    """A hash of what the files of an image hold; of one file, its :func:`content`. Nothing where one is gone."""
    if not all(Path(file).exists() for file in files):
        return ""
    each = [content(file) for file in files]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()[:16]


def file_content(path: Path, whole: bool = False) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if whole or size <= WHOLE:
            while part := file.read(WHOLE):
                digest.update(part)
        else:  # neighbouring volumes may begin with the same header and megabytes of air
            pieces = WHOLE // PIECE
            for i in range(pieces):
                file.seek(i * (size - PIECE) // (pieces - 1))
                digest.update(file.read(PIECE))
    return digest.hexdigest()


def contents(cases: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Of each case the name of its image, and what image, label and further channels hold; without what is not a
    file."""
    held = [case for case in cases if isinstance(case.get("image"), (str, Path)) and Path(case["image"]).exists()]
    return [
        [
            name,
            content(case["image"]),
            *([content(case["label"], whole=True)] if "label" in case else []),  # of which a stroke may be corrected
            *(content(file) for file in case.get(FILES, ())[1:]),
        ]
        for name, case in zip(told_apart([case["image"] for case in held]), held, strict=True)
    ]


def evaluation_cases(
    dataset_dir: str | Path | None, adapter: str | Path, seed: int = 0, fold: int | None = None
) -> Dataset:
    """A dataset whose validation cases are those that were set aside when an adapter was trained.

    Where ``dataset.json`` lists validation cases these are evaluated. Where it does not, the split would be drawn anew,
    by another ``seed`` or ``fold`` than the training's perhaps; so the adapter says which cases it left out. If it was
    trained on none of them, all are evaluated. Without an adapter's file the dataset is as
    :func:`sam_monai.data.read_dataset` reads it.

    Raises:
        InputError: as :func:`sam_monai.data.read_dataset`; or no case is left that was not trained on.
    """
    dataset = read_dataset(dataset_dir, seed=seed, fold=fold)
    if dataset.apart and Path(adapter).is_file():  # other cases may overlap in other ways
        regions = from_tensor(read_adapter(adapter)["identity"])["preprocessing"].get("regions")
        regions = regions and with_sets(regions, dataset.regions)  # labels may overlap as training did not show
        dataset = dataclasses.replace(dataset, regions=regions)
        last = len(dataset.labels) if regions is None else max(map(max, regions))
        for case in (case for case in (*dataset.training, *dataset.validation) if KEY in case):
            case[KEY] = last + 1
    trained, left_out, shown = known_cases(adapter)
    if not dataset.reserved and fold is None:
        others = [case["image"] for case in dataset.training if Path(case["image"]).exists()]
        if trained and others and trained.isdisjoint(map(content, others)):
            logger.warning(
                "evaluated: the %s that the dataset lists for validation. The adapter was not trained on its training "
                "cases: to evaluate them too, list all cases as `validation` in dataset.json",
                counted(len(dataset.validation), "case"),
            )
        return dataset
    every = [*dataset.training, *dataset.validation]
    found = {case["image"]: content(case["image"]) for case in every if Path(case["image"]).exists()}
    if not trained | left_out and fold is None and Path(adapter).is_file():
        logger.warning(
            "%s does not say which cases it was trained on, so %d of %d are evaluated, which trainings set aside: put "
            "its .safetensors file beside it, or, if it was trained on none of them, list all as `validation`",
            adapter, len(dataset.validation), len(every),
        )  # fmt: skip
    if not trained & set(found.values()):
        if not shown or fold is not None or saved_again(every[:PROBES], adapter, shown):
            return dataset
        logger.warning("evaluated: all %s, for the adapter was trained on none of them", counted(len(every), "case"))
        return dataclasses.replace(dataset, validation=every, reserved=())
    kept = [case for case in every if found.get(case["image"]) in left_out - trained]
    why = "set aside when the adapter was trained"
    if not kept:
        kept = [case for case in dataset.validation if found.get(case["image"]) not in trained]
        why = "of this split that the adapter was not trained on"
    if not kept:
        raise InputError(
            f"{dataset.folder}: every validation case of this split was trained on by {adapter}; "
            'list other cases under "validation" in dataset.json'
        )
    if kept != dataset.validation:
        logger.warning("evaluated: %s %s: %s", counted(len(kept), "case"), why, names(kept, every))
    chosen = [case["image"] for case in kept]
    return dataclasses.replace(
        dataset,
        validation=kept,
        training=[case for case in every if case["image"] not in chosen],
        reserved=tuple(told_apart(chosen, [case["image"] for case in every])) if dataset.reserved else (),
    )


def saved_again(cases: Sequence[Mapping[str, Any]], adapter: str | Path, shown: set[str]) -> bool:
    """Whether any of some images, in whatever file, shows what an adapter was trained on."""
    prepared = from_tensor(read_adapter(adapter)["identity"])["preprocessing"]
    channels = {key: prepared.get(key) for key in ("channels", "channel_names")}
    load = LoadCased("image", **channels, frames=not any(channels.values()))  # a fourth dimension is one or the other
    try:
        return any(voxels_of(load(case)["image"]) in shown for case in cases)
    except InputError:  # which the check of all cases names
        return True


def overlap(
    cases: Sequence[Mapping[str, Any]], adapter: str | Path, voxels: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What an evaluation's report says of cases that the adapter was trained on; said on the command line as well.
    ``voxels`` are what images show, by their paths, of :func:`sam_monai.data.examine`: by that an image is known
    that was saved again, in another format perhaps."""
    trained, _, shown = known_cases(adapter)
    if not trained:
        logger.warning("%s does not say which cases it was trained on: see to it that none is evaluated", adapter)
        return {NOTE: "not known"}
    both = [
        case
        for case in cases
        if {digest for _, digest, *_ in contents([case])} & trained or (voxels or {}).get(case["image"]) in shown
    ]
    if both:
        logger.warning(
            "%d of %d cases evaluated were trained on, so their figures say nothing of new images: %s",
            len(both),
            len(cases),
            names(both, cases),
        )
    return {NOTE: names(both, cases) or "none"}


def known_cases(adapter: str | Path) -> tuple[set[str], set[str], set[str]]:
    """Contents of the images that an adapter was trained on, of those it was validated on, and what the former show;
    empty if not known."""
    summary = (read_training(adapter) if Path(adapter).is_file() else None) or {}
    trained, validated = ({*summary.get(f"{part}_hashes", ())} for part in ("training", "validation"))
    return trained, validated, {*summary.get("training_voxels", ())}


def names(cases: Sequence[Mapping[str, Any]], among: Sequence[Mapping[str, Any]], most: int = 16) -> str:
    """Of some cases of those ``among`` which they are."""
    return shown(told_apart(*([case["image"] for case in some] for some in (cases, among))), most)
