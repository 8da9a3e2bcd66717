"""One table of bad inputs, and every door that they can come in by: each says the same line of the same file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bad_dicom import DICOM, series
from bad_inputs import AFFINE, GREY, IMAGES, LABEL, LABELS, MASK, MASKS, PICTURES, VOLUME
from bad_itk_files import ITK, ITK_LABELS
from monai.data import DataLoader, Dataset
from PIL import Image

from sam_monai.data import check_dataset, read_dataset
from sam_monai.errors import input_error_in
from sam_monai.inference import pipeline
from sam_monai.inference.records import cause_of
from sam_monai.training.samples import training_samples

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ("a", "b")
FLAT = {"spatial_dims": 2, "intensity": "picture", "ct_window": (-160, 240), "orientation": "coarsest", "spacing": None,
        "channels": None, "image_channels": None, "scale": "whole"}  # fmt: skip
MR, CT = FLAT | {"spatial_dims": 3, "intensity": "mr"}, FLAT | {"spatial_dims": 3, "intensity": "ct"}
Case = dict[str, str]
Settings = Mapping[str, Any]


def network() -> SimpleNamespace:
    sizes = {
        "image_size": 32,
        "resize": "stretch",
        "depth_attention": False,
        "slices_per_batch": 8,
        "channel_names": None,
    }
    return SimpleNamespace(**sizes, backbone=SimpleNamespace(pixel_mean=torch.zeros(3, 1, 1)))


def studies(case: Case, settings: Settings) -> None:
    """As :class:`sam_monai.inference.studies.Studies` loads a study."""
    next(iter(DataLoader(Dataset([{"image": case["image"]}], pipeline.preprocessing((), settings)), batch_size=1)))


# The check before a training, of a dataset and of the cases that a server or a federated client gives.
CHECK = "check_dataset"
WITH_LABELS: dict[str, Callable[[Case, Settings], object]] = {
    CHECK: lambda case, settings: check_dataset(
        read_dataset(None), None, NAMES, [case], intensity=settings["intensity"], ct_window=settings["ct_window"]
    ),
    "training": lambda case, settings: training_samples(NAMES, settings, network())(case),
    "validation and evaluation": lambda case, settings: pipeline.preprocessing(NAMES, settings)(case),
    "evaluation of prompts": lambda case, settings: pipeline.on_one_grid(NAMES, settings)(case),
}
DOORS: dict[str, Callable[[Case, Settings], object]] = {
    **WITH_LABELS,
    "inference": studies,
    "MONAI Label": lambda case, settings: pipeline.preprocessing((), settings)(
        {"image": case["image"], "image_path": case["image"], "foreground": [], "background": []}
    ),
}
# Against the adapter's settings, which a dataset has not yet.
SEEN_PREPARED = ("a volume",)


def lines(door: Callable[[Case, Settings], object], case: Case, settings: Settings) -> list[str]:
    """What a user is told."""
    with pytest.raises(Exception) as error:
        door(case, settings)
    found = input_error_in(error.value)
    assert found is not None, f"a traceback: {error.value!r}"
    assert cause_of(error.value) == str(found)
    return str(found).splitlines()


def refused_alike(
    doors: Mapping[str, Callable[[Case, Settings], object]], case: Case, settings: Settings, bad: str, said: str
) -> None:
    told = {name: lines(door, case, settings) for name, door in doors.items()}
    first = next(text for name, text in told.items() if name != CHECK)
    assert bad in first[0] and re.search(said, " ".join(first)), first
    for name, found in told.items():
        if name == CHECK:
            assert first[0] in found, (name, found, first)
        else:
            assert found == first, (name, found, first)


def partner(folder: Path, part: str, settings: Settings, like: str = "") -> str:
    """A good image or label; of a small image the label has its size."""
    if settings["spatial_dims"] == 2 and not like.endswith(".nii"):
        array = MASK[:, :7] if like == "too narrow" else MASK[:1] if like == "too low" else MASK
        Image.fromarray(GREY if part == "image" else array).save(folder / f"{part}.png")
        return str(folder / f"{part}.png")
    array = LABEL[:7] if like == "too small" else LABEL[:, :1] if like == "one row" else LABEL
    nib.save(nib.Nifti1Image(VOLUME if part == "image" else array, AFFINE), folder / f"{part}.nii.gz")
    return str(folder / f"{part}.nii.gz")


TABLE = [
    *(("image", MR, name, *row) for name, row in IMAGES.items()),
    *(("image", MR, name, *row) for name, row in ITK.items()),
    *(("image", CT, name, *row) for name, row in DICOM.items()),
    *(("image", FLAT, name, *row) for name, row in PICTURES.items()),
    *(("label", MR, name, *row) for name, row in {**LABELS, **ITK_LABELS}.items()),
    ("label", MR, "a DICOM image", series(), "known are 0 to 2|whole numbers"),
    *(("label", FLAT, name, *row) for name, row in MASKS.items()),
]


@pytest.mark.parametrize(
    ("part", "settings", "name", "make", "said"),
    TABLE,
    ids=[f"{row[0]}-{row[1]['intensity']}-{row[2]}" for row in TABLE],
)
def test_every_door_says_the_same_of_what_cannot_be_right(tmp_path, part, settings, name, make, said):
    other = "label" if part == "image" else "image"
    bad = str(make(tmp_path))
    case = {
        part: bad,
        other: partner(tmp_path, other, settings, ".nii" if (part, name) == ("image", "a volume") else name),
    }
    doors = {key: door for key, door in DOORS.items() if key in WITH_LABELS or part == "image"}
    if name in SEEN_PREPARED and part == "image":
        del doors[CHECK]
    refused_alike(doors, case, settings, bad, said)


def test_the_table_is_large_and_what_is_right_passes_every_door(tmp_path):
    assert sum(len(DOORS if row[0] == "image" else WITH_LABELS) for row in TABLE) > 1000 and len(TABLE) > 230
    for number, settings in enumerate((MR, FLAT)):
        (folder := tmp_path / str(number)).mkdir()
        case = {part: partner(folder, part, settings) for part in ("image", "label")}
        for door in DOORS.values():
            door(dict(case), settings)
    assert np.isfinite(VOLUME).all()
