"""Whether a list pairs each image with its own label."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .names import stem_of
from .picture_files import is_turned

Cases = Sequence[Mapping[str, Any]]


def listed_twice(cases: Cases) -> list[str]:
    """What is wrong with a list, whatever is in the files."""
    images = [os.path.realpath(case["image"]) for case in cases]
    labels = {os.path.realpath(case["label"]) for case in cases}
    return [f"{image}: is listed twice; keep it once" for image, n in Counter(images).items() if n > 1] + [
        f"{image}: is listed as an image and as a label; correct the list" for image in images if image in labels
    ]


def holds_its_label(image: torch.Tensor, label: torch.Tensor) -> bool:
    """Whether an image is its own label, or the mask that is read as one: a copy of the wrong file."""
    return image[: len(label)].shape == label.shape and torch.equal(
        image[: len(label)] / image.max(), label / label.max()
    )


def oversights(training: Cases, validation: Cases) -> list[str]:
    """What a list, or EXIF tags, may have got wrong."""
    cases = list({case["image"]: case for case in [*training, *validation]}.values())
    known = {stem_of(Path(case["image"])): case["image"] for case in cases}
    notes = []
    for case in cases:
        label, own = stem_of(Path(case["label"])), stem_of(Path(case["image"]))
        alike = [stem for stem in known if label == stem or (label.startswith(stem) and not label[len(stem)].isalnum())]
        if alike and own not in alike:
            named = known[max(alike, key=len)]
            notes.append(f"{case['label']} is listed as the label of {case['image']}, and is named like {named}")
        if is_turned(case["image"]) and not is_turned(case["label"]):
            notes.append(
                f"{case['image']} is turned by its EXIF tag, and its label {case['label']} has none; if that was drawn "
                "on the picture as it is stored, turn it too"
            )
    shared = Counter(os.path.realpath(case["label"]) for case in training)
    return notes + [f"{label} is the label of {n} cases" for label, n in shared.items() if n > 1]
