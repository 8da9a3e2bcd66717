"""Images without labels: an adapter's own masks of them as further labels to train on (pseudo-labels)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.bundle import ConfigParser
from tqdm.auto import tqdm

from ..backbones.weights import content_hash
from ..data.channels import FILES, taken
from ..data.dataset import Dataset
from ..data.found import images_to_segment
from ..data.instances import KEY as INSTANCES
from ..data.instances import names_of
from ..data.made import Written, is_output
from ..distributed import first_process
from ..errors import InputError, counted, shown
from ..files import write_aside
from ..inference.records import read_record
from ..networks.adapter_files import at_temperature, in_short, read_adapter
from ..networks.base import AdaptedSAM
from ..networks.identity import from_tensor, to_tensor
from ..networks.regions import values_in_words
from ..prompts.prompt_files import prompts_beside
from ..training.cases import content, known_cases, names
from .keys import PATHS
from .typed import literal

FOLDER = "pseudo_labels"  # in output_dir
TEACHER = "teacher.pt"
MOST = 8  # images for each labelled one; more would take more time to segment than they give


def with_pseudo_labels(
    dataset: Dataset,
    unlabelled: str | Path | None,
    adapter: str | Path,
    output_dir: str | Path,
    settings: Mapping[str, Any],
    resume: bool = False,
    quick: bool = False,
) -> Dataset:
    """A dataset whose training cases are its own, and images without labels with the masks that an adapter gives them.

    The masks lie in the folder ``pseudo_labels`` of ``output_dir``, with pictures and a report, as the bundle's
    inference writes them, and a copy of the adapter that made them. Masks that are there already are not made again.
    Left out are images of cases of the dataset, those with prompts beside them, and those in which no label is found.

    Args:
        dataset: with labels.
        unlabelled: a folder of images, or what else :func:`sam_monai.data.images_to_segment` takes; ``None``: the
            dataset stays as it is.
        adapter: that of an earlier training on the dataset.
        output_dir: of the training.
        settings: values of the bundle's inference, with ``bundle_root``, ``channels`` and ``device`` among them.
        resume: whether the training goes on, if it has begun, with the masks that it began with.
        quick: whether the training is a quick one, which takes no images without labels.

    Raises:
        InputError: no adapter, or one for other labels or that knows the validation cases; no image is left, or one
            cannot be segmented.
    """
    if unlabelled is None:
        return dataset
    if quick:
        raise InputError("a quick training takes two labelled cases: leave out --quick or --unlabelled")
    folder, adapter = Path(output_dir) / FOLDER, Path(adapter)
    teacher = teacher_in(output_dir)
    goes_on = resume and teacher.is_file() and not (adapter.is_file() and same_adapter(adapter, teacher))
    check_teacher(teacher if goes_on else adapter, dataset)
    if first_process() and not goes_on:
        for suffix in (".safetensors", ".pt"):
            write_aside(adapter.with_suffix(suffix).read_bytes(), teacher.with_suffix(suffix))
    idist.barrier()
    images = chosen(dataset, unlabelled, settings["channels"])
    if first_process():
        dice = in_short(teacher).get("validation Dice", "not known")
        what = f"masks of {teacher if goes_on else adapter} (validation Dice {dice})"
        print(f"{counted(len(images), 'image')} without labels: trained on with {what}, in {folder}", flush=True)
    bundle_root = Path(settings["bundle_root"])
    parser = ConfigParser(ConfigParser.load_config_file(bundle_root / "configs" / "inference.json"))
    paths = {key: str(value) for key, value in settings.items() if key in PATHS and value is not None}
    paths = {key: literal(path) for key, path in {**paths, "adapter": str(teacher), "output_dir": str(folder)}.items()}
    parser.update({**settings, **paths, "dataset#data": tuple(images)})  # a list's paths MONAI would alter
    parser.get_parsed_content("run")
    idist.barrier()  # each process segments a part
    found = {}
    for file in sorted((folder / "manifest").rglob("*.json")):
        if (record := read_record(file)) is not None and any(record.get("voxels", {}).values()):
            found[record["image"]] = str(folder / record["mask"])
    taught = [{**case, "label": found[case["image"]]} for case in images if case["image"] in found]
    if first_process() and len(taught) < len(images):
        empty = [case for case in images if case["image"] not in found]
        tqdm.write(f"no label was found in {names(empty, images)}, so these are not trained on")
    if not taught:
        raise InputError(f"{unlabelled}: {adapter} found no label in any of its images: leave out --unlabelled")
    return dataclasses.replace(dataset, training=[*dataset.training, *taught])


def teacher_in(output_dir: str | Path) -> Path:
    """The copy of the adapter that made the masks."""
    return Path(output_dir) / FOLDER / TEACHER


def same_adapter(adapter: Path, other: Path) -> bool:
    return content_hash(at_temperature(read_adapter(adapter))) == content_hash(at_temperature(read_adapter(other)))


def starting_as_teacher(network: AdaptedSAM, unlabelled: str | Path | None, output_dir: str | Path) -> AdaptedSAM:
    """The network, which starts as the adapter that labelled the images of :func:`with_pseudo_labels`, if any were: so
    it ended higher than from the start (docs/tried.md)."""
    if unlabelled is not None:
        state = read_adapter(teacher_in(output_dir))
        ours, theirs = from_tensor(network.state_dict()["identity"]), from_tensor(state["identity"])
        if "prompted" in ours and theirs.get("prompted", True) != ours["prompted"]:
            alone = "for its labels alone" if ours["prompted"] else "with prompts"
            raise InputError(
                f"the adapter that labelled the images was trained {alone}, and this training is not: give both "
                "the same --draws"
            )
        may_differ = {key: ours[key] for key in ("image_size", "preprocessing", "temperature")}
        network.load_state_dict({**state, "identity": to_tensor(theirs | may_differ)})
    return network


def check_teacher(adapter: Path, dataset: Dataset) -> None:
    """Refuse an adapter whose masks cannot teach of a dataset, or would tell of its validation cases."""
    if not adapter.is_file():
        raise InputError(
            f"{adapter}: there is no adapter yet that could label the images of --unlabelled: train one first, by the "
            "same command without that key"
        )
    record = from_tensor(read_adapter(adapter)["identity"])
    images, labels = record["preprocessing"], dataset.labels
    labels = names_of(labels, dataset.spatial_dims, dataset.regions) if images.get(INSTANCES) else labels
    same_values = values_in_words(images.get("regions")) == values_in_words(dataset.regions)
    if tuple(record["labels"]) != labels or not same_values:
        raise InputError(
            f"{adapter}: is for the labels {shown(record['labels'])}, and those of {dataset.folder} are "
            f"{shown(labels)}: train an adapter on it first, by the same command without --unlabelled"
        )
    trained = known_cases(adapter)[0]
    if not trained:
        raise InputError(
            f"{adapter} does not say which cases it was trained on, so its masks may tell of those that validate: put "
            "its .safetensors file beside it, or train one first by the same command without --unlabelled"
        )
    if leaked := [case for case in dataset.validation if digests_of(case) & trained]:
        raise InputError(
            f"{adapter}: was trained on {names(leaked, dataset.validation)}, which validate here, so its masks would "
            "tell of them: train one first on the cases as they are split now, by the same command without --unlabelled"
        )


def digests_of(case: Mapping[str, Any]) -> set[str]:
    """What the files of a case's image hold, as far as they are there."""
    return {content(file) for file in case.get(FILES, [case["image"]]) if os.path.exists(file)}


def chosen(dataset: Dataset, unlabelled: str | Path, channels: Sequence[int] | None) -> list[dict[str, Any]]:
    """The images to label: no cases of the dataset, whatever their files are called, and not too many.

    Raises:
        InputError: none are left, or one is missing.
    """
    images = images_to_segment(unlabelled, 0, dataset.spatial_dims, taken(dataset.channels, channels), channels)
    if missing := [case["image"] for case in images if not os.path.exists(case["image"])]:
        raise InputError(f"{unlabelled}: lists {missing[0]}, and there is no such file: correct the list")
    results: dict[Path, Written] = {}
    known = set[str]().union(*map(digests_of, (*dataset.training, *dataset.validation)))
    left = [
        case
        for case in images
        if is_output(case["image"], results) is None
        and not prompts_beside(Path(case["image"])).is_file()
        and digests_of(case).isdisjoint(known)
    ]
    what = "cases of the dataset, results of this package or images with prompts beside them"
    if not left:
        raise InputError(
            f"{unlabelled}: holds no images but {what}: give --unlabelled a folder of other images, or leave it out"
        )
    most = MOST * len(dataset.training)
    spread = [left[i * len(left) // most] for i in range(most)] if len(left) > most else left
    if first_process():
        if len(left) < len(images):
            out = f"{len(images) - len(left)} of {counted(len(images), 'image')}"
            tqdm.write(f"{unlabelled}: {out} left out, which are {what}")
        if len(spread) < len(left):
            tqdm.write(f"{unlabelled}: {len(spread)} of {len(left)} images are taken, {MOST} for each labelled one")
    return spread
