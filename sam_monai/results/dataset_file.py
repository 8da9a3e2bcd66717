"""The `dataset.json` of a folder in another form, and three of its cases as a picture, to look at before training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.channels import FILES
from ..data.dataset import Dataset, dataset_of, is_picture
from ..data.dataset_json import cases_of
from ..data.folders import understand
from ..data.frames import frames_of, fullest
from ..data.load import LoadCased
from ..data.made import is_output
from ..data.nifti import has_fourth_axis
from ..data.regions import ORDER
from ..data.unknown_forms import no_known_form
from ..data.unlabelled import KEY, NAME, UNLABELLED
from ..errors import InputError, shown
from ..files import from_home
from ..inference.outputs import Outputs
from .drawing import Row, chosen_slices, draw_rows, slice_in_words, stretched, view

FILE, PICTURE, CASES = "dataset.json", "dataset.png", 3


def write_dataset(
    folder: str | Path,
    labels: Sequence[str] | None = None,
    modality: str | None = None,
    channel: int | str | None = None,
    output: str | Path | None = None,
) -> list[str]:
    """Write what a folder was understood to hold as a `dataset.json`, and draw three cases beside it.

    Args:
        folder: in any known form; a `dataset.json` that this function wrote is left out of account.
        labels: names in the order of the masks' values; of folders of masks they choose some. ``None``: as stated or
            found.
        modality: of the images, such as CT, or of each of several channels, as in "T1,T2"; ``None``: as stated.
        channel: to take alone where a case has several files, counted from 0 or by its name.
        output: folder to write to; ``None``: the folder itself.

    Returns:
        Lines that say what was understood and written.
    """
    source = Path(os.path.abspath(from_home(folder)))
    if not os.path.exists(source):
        raise InputError(f"{source}: no such folder")
    at = source if os.path.isdir(source) else source.parent
    out = at if output is None else Path(os.path.abspath(from_home(output)))
    target = out / FILE
    for path in (target, out / PICTURE):
        if os.path.lexists(path) and is_output(path, {}) != "":
            raise InputError(f"{path}: is there and was not written by this command, or was changed since; it stays: "
                             "give --output, another folder to write to")  # fmt: skip
    known = understand(source, channel, past_json=is_output(at / FILE, {}) == "")
    if known is None:
        raise no_known_form(source)
    if modality is not None:
        before = known.content.get("channel_names", known.content.get("modality"))
        known.content["modality"] = by_number([name.strip() for name in modality.split(",")])
        known.content["channel_names"] = known.content["modality"]
        if "," not in modality and before:  # one word for all channels, which keep their names
            known.content["channel_names"] = before
    dataset = dataset_of(known, names=labels)
    modalities = known.content.get("modality") or known.content.get("channel_names") or ""
    modalities = by_number(modalities) if isinstance(modalities, list | tuple) else modalities
    named: dict[str, Any] = {}
    both = by_number(list(dataset.channels)) != modalities and {"modality", "channel_names"} <= known.content.keys()
    if dataset.channels and isinstance(modalities, dict) and (both or len(modalities) == 1):
        named = {"channel_names": by_number(dataset.channels)}
    elif dataset.channels:
        modalities = by_number(dataset.channels)
    training, validation = dataset.training, dataset.validation
    if known.stated and known.fold is not None:  # each of the folds may be asked for
        listed = cases_of(known.content, "training", known.source, ("image", "label"))
        places = {case["image"]: i for i, case in enumerate(listed)}
        training = sorted([*training, *validation], key=lambda case: places[case["image"]])
        validation = []
    relative = {
        part: [relative_to(out, case, not validation) for case in cases]
        for part, cases in (("training", training), ("validation", validation), ("test", dataset.test))
    }
    content = {"name": dataset.name, "modality": modalities, **named, **stated_labels(dataset), **relative}
    outputs = Outputs(out)
    with outputs.writing(out / PICTURE) as part:
        draw_cases(dataset, part)
    outputs.write(json.dumps(content, indent=4, ensure_ascii=False) + "\n", target)
    kinds = dataset.intensity if isinstance(dataset.intensity, str) else ", ".join(dataset.intensity)
    stated = f"modality {json.dumps(modalities, ensure_ascii=False)}" if modalities else "nothing states a modality"
    parts = f"{len(training)} for training, {len(validation)} for validation"
    if not validation:
        parts = f"{len(training)} with labels, some of which a training sets aside for validation"
    return [
        f"{known.source}: {known.how or 'a dataset.json'}",
        f"cases: {parts}; {len(dataset.test)} without labels",
        f"labels: {shown(dataset.labels, 200)}",
        f"intensities: {kinds} ({stated}; if that is wrong, give --modality CT, MR or RGB)",
        f"written: {target}",
        f"look at {CASES} of its cases: {out / PICTURE}",
    ]


def by_number(names: Sequence[str]) -> dict[str, str]:
    """Names as a `dataset.json` lists them."""
    return {str(i): name for i, name in enumerate(names)}


def stated_labels(dataset: Dataset) -> dict[str, Any]:
    """A dataset's labels as a `dataset.json` states them."""
    ignored = {NAME: dataset.training[0][KEY]} if KEY in dataset.training[0] else {}
    if dataset.regions is None or dataset.apart:  # these are found again
        return {"labels": {str(i): name for i, name in enumerate(("background", *dataset.labels, *ignored))}}
    regions = [list(region) for region in dataset.regions]
    named = dict(zip(dataset.labels, regions, strict=True))
    return {"labels": {"background": 0, **named, **ignored}, ORDER: [region[0] for region in regions]}


def relative_to(folder: Path, case: Mapping[str, Any], with_fold: bool = False) -> dict[str, Any]:
    """A case as a `dataset.json` in a folder lists it."""
    entry: dict[str, Any] = {key: os.path.relpath(case[key], folder) for key in ("image", "label") if key in case}
    if FILES in case:
        entry["image"] = [os.path.relpath(file, folder) for file in case[FILES]]
    return entry | ({"fold": case["fold"]} if with_fold and "fold" in case else {})


def draw_cases(dataset: Dataset, path: Path) -> None:
    """Draw the first, the middle and the last case, each at the slice in the middle of its labels."""
    cases = [*dataset.training, *dataset.validation]
    chosen = sorted({round(i * (len(cases) - 1) / (CASES - 1)) for i in range(CASES)})
    rows = []
    for case in (cases[i] for i in chosen):
        several = not dataset.channels and frames_of(LoadCased("image", frames=True)(case)["image"]) > 1
        timed = several and has_fourth_axis(case["label"])
        channels = [0] if dataset.channels or several and not timed else None  # one time point of them
        numbered = (
            len(dataset.labels) == 1 and dataset.regions is None and KEY not in case and is_picture(case["image"])
        )
        load = LoadCased(
            labels=dataset.labels, channels=channels, regions=dataset.regions, frames=timed, instances=numbered
        )
        loaded = load(case)
        loaded["label"] = loaded["label"].clamp(max=1) if numbered else loaded["label"]
        loaded["label"] = loaded["label"].masked_fill(loaded["label"] == UNLABELLED, 0)
        frame = slice(None) if frames_of(loaded["image"]) == 1 else fullest(loaded["label"])
        image, label = (view(loaded[key][frame], "coarsest") for key in ("image", "label"))
        (k,) = chosen_slices(label.planes[0], 1)
        name = os.path.relpath(case["image"], dataset.folder)
        maps = {name: None, "label": label.planes[0, ..., k]}
        rows.append(Row(stretched(image.planes)[..., k], maps, slice_in_words(image, k), image.aspect, image.sides))
    draw_rows(rows, dataset.labels, dataset.name, path, dataset.regions)
