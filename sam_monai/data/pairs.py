"""Whether a list pairs each image with its own label."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .channels import FILES
from .names import stem_of, told_apart
from .picture_files import is_turned

MOST = 5  # notes of one kind

Cases = Sequence[Mapping[str, Any]]


def listed_twice(cases: Cases) -> list[str]:
    """What is wrong with a list, whatever is in the files."""
    images = [os.path.realpath(case["image"]) for case in cases]
    labels = {os.path.realpath(case["label"]) for case in cases}
    return [f"{image}: is listed twice; keep it once" for image, n in Counter(images).items() if n > 1] + [
        f"{image}: is listed as an image and as a label; correct the list" for image in images if image in labels
    ]


def exchanged(cases: Cases, channels: Sequence[str]) -> list[str]:
    """What is wrong with lists of channel files that are named by other channels than those they are listed for."""
    problems = []
    names = [name.casefold() for name in channels]
    for case in cases if len({*names}) == len(names) else ():
        for own, file in zip(names, case.get(FILES, ()), strict=False):
            stem = stem_of(Path(file)).casefold()
            others = [name for name in names if re.search(rf"(^|[^a-z0-9]){re.escape(name)}$", stem)]
            if others and not re.search(rf"(^|[^a-z0-9]){re.escape(own)}([^a-z0-9]|$)", stem):
                problems.append(f"{file}: is listed as the channel {own} of its image, and is named like {others[0]}")
    return problems


def of_several_images(cases: Cases, channels: Sequence[str]) -> list[str]:
    """Images whose channels are files with the numbers of different images in their names."""
    numbers = {
        case["image"]: [
            re.findall(r"\d+", re.sub(rf"(?<![a-z0-9]){re.escape(own.casefold())}(?![a-z0-9])", "", stem))
            for own, stem in zip(channels, (stem_of(Path(f)).casefold() for f in case.get(FILES, ())), strict=False)
        ]
        for case in cases
    }
    known = {tuple(each[0]) for each in numbers.values() if each}
    odd = [image for image, each in numbers.items() if any(one != each[0] and tuple(one) in known for one in each)]
    return [f"{image}: its channels are files of several images, by the numbers in their names" for image in odd[:MOST]]


def holds_its_label(image: torch.Tensor, label: torch.Tensor) -> bool:
    """Whether an image is its own label, or the mask that is read as one: a copy of the wrong file."""
    return image[: len(label)].shape == label.shape and torch.equal(
        image[: len(label)] / image.max(), label / label.max()
    )


def oversights(training: Cases, validation: Cases) -> list[str]:
    """What a list, or EXIF tags, may have got wrong."""
    cases = list({case["image"]: case for case in [*training, *validation]}.values())
    known = by_stem(cases)
    notes = []
    for case in cases:
        if named := named_like(case, known):
            notes.append(f"{case['label']} is listed as the label of {case['image']}, and is named like {named}")
        if is_turned(case["image"]) and not is_turned(case["label"]):
            notes.append(
                f"{case['image']} is turned by its EXIF tag, and its label {case['label']} has none; if that was drawn "
                "on the picture as it is stored, turn it too"
            )
    notes += misnumbered(cases)
    places = {os.path.dirname(case["image"]): case["image"] for case in cases}
    for case in cases if len(places) == len(cases) else ():  # a folder for each
        other = places.get(os.path.dirname(case["label"]), case["image"])
        if other != case["image"]:
            notes.append(f"{case['label']} is listed as the label of {case['image']}, and lies beside {other}")
    shared = Counter(os.path.realpath(case["label"]) for case in training)
    return notes + [f"{label} is the label of {n} cases" for label, n in shared.items() if n > 1]


def by_stem(cases: Cases) -> dict[str, str]:
    """Images by their names without suffix."""
    return {stem_of(Path(case["image"])): case["image"] for case in cases}


def named_like(case: Mapping[str, Any], known: Mapping[str, str]) -> str | None:
    """Which other image of those ``known`` a case's label is named like, if it is not named like its own."""
    label, own = stem_of(Path(case["label"])), stem_of(Path(case["image"]))

    def is_alike(stem: str) -> bool:
        return label == stem or (label.startswith(stem) and not label[len(stem)].isalnum())

    if own in known and is_alike(own):
        return None
    return known[max(alike, key=len)] if (alike := list(filter(is_alike, known))) else None


def of_another(case: Mapping[str, Any], cases: Cases, fitting: Sequence[str]) -> str | None:
    """A remedy for a label that does not fit its image and seems to be that of another, by the images that it is
    ``fitting`` or by its name."""
    named, every = named_like(case, by_stem(cases)), [one["image"] for one in cases]
    if len(fitting) == 1 or named in fitting:
        found = "it fits", fitting[0] if len(fitting) == 1 else named
    elif named is not None:
        found = "it is named like", named
    else:
        return None
    return f"{found[0]} {told_apart([str(found[1])], every)[0]}: are the rows or files shifted?"


def misnumbered(cases: Cases) -> list[str]:
    """Labels whose numbers, in the names of file and folders, are those of another image, as after lists were sorted in
    two ways. Only where all images and all labels have the same numbers."""
    images, labels = (told_apart([case[key] for case in cases]) for key in ("image", "label"))
    numbers = [[tuple(map(int, re.findall(r"\d+", name))) for name in names] for names in (images, labels)]
    if sorted(numbers[0]) != sorted(numbers[1]):
        return []
    differing = [case for case, own, other in zip(cases, *numbers, strict=True) if own != other]
    return [f"{case['label']} is listed as the label of {case['image']}, by whose number it is another's" for case in
            differing[:MOST]]  # fmt: skip
