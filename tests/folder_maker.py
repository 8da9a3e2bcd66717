"""Folders of small images and labels in the forms that people have, for tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from image_files import picture, volume

from sam_monai.data import read_dataset
from sam_monai.errors import InputError

SHAPE = (9, 8, 3)


def image(path: Path) -> Path:
    """A small image, a picture or a volume as the suffix says; its content goes by its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(crc32(str(path).encode())).integers(1, 255, SHAPE).astype(np.uint8)
    (volume if ".nii" in path.name else picture)(path, array)
    return path


def label(path: Path, values: tuple[int, ...] = (1, 2), rows: int = 3) -> Path:
    """A label map that holds the values, each in ``rows`` rows of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(SHAPE if ".nii" in path.name else SHAPE[:2], np.uint16 if max(values) > 255 else np.uint8)
    for i, value in enumerate(values):
        array[i * rows : (i + 1) * rows] = value
    (volume if ".nii" in path.name else picture)(path, array)
    return path


def mask(path: Path, first: int, last: int) -> Path:
    """A binary mask of some rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(SHAPE, np.uint8)
    array[first:last] = 1
    volume(path, array)
    return path


def pairs(top: Path, number: int = 6, images: str = "images", labels: str = "labels", suffix: str = ".png") -> Path:
    """Images and labels of the same names in two folders."""
    for i in range(number):
        image(top / images / f"c{i}{suffix}")
        label(top / labels / f"c{i}{suffix}")
    return top


def nnunet(top: Path, number: int = 6, channels: int = 1, **changes) -> Path:
    """nnU-Net's raw data; a change to ``None`` takes a key out."""
    for i in range(number):
        for channel in range(channels):
            image(top / "imagesTr" / f"case_{i}_{channel:04d}.nii.gz")
        label(top / "labelsTr" / f"case_{i}.nii.gz")
    for channel in range(channels):
        image(top / "imagesTs" / f"new_{channel:04d}.nii.gz")
    content = {
        "channel_names": {str(n): name for n, name in enumerate(("CT", "T2", "ADC")[:channels])},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": number,
        "file_ending": ".nii.gz",
        **changes,
    }
    (top / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return top


def segmentations(top: Path, number: int = 6, names: tuple[str, ...] = ("liver", "kidney_left")) -> Path:
    """A folder for each case, with an image and a mask for each label, as of TotalSegmentator."""
    for i in range(number):
        image(top / f"s{i:04d}" / "ct.nii.gz")
        for k, name in enumerate(names):
            mask(top / f"s{i:04d}" / "segmentations" / f"{name}.nii.gz", 3 * k, 3 * k + 3)
    return top


def bids(top: Path, number: int = 6) -> Path:
    """BIDS, with label maps among the derivatives, and images of another kind beside those that have one."""
    for i in range(number):
        name = f"sub-{i:02d}"
        image(top / name / "anat" / f"{name}_T1w.nii.gz")
        image(top / name / "func" / f"{name}_task-rest_bold.nii.gz")
        label(top / "derivatives" / "manual" / name / "anat" / f"{name}_space-T1w_dseg.nii.gz")
    return top


def refused_in_one_line(top: Path, make: Callable[[Path], object], said: str) -> None:
    """What ``make`` puts into a folder is refused by one line that names the folder, or a file in it."""
    make(top)
    with pytest.raises(InputError) as error:
        read_dataset(top)
    assert "\n" not in str(error.value) and str(top) in str(error.value)
    assert re.search(said, str(error.value)), str(error.value)
