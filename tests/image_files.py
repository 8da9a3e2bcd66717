"""Pictures and NIfTI volumes made of arrays, written and loaded again, for tests."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from monai.data import MetaTensor
from PIL import Image

from sam_monai.data import LoadCased

AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.5, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 11), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8)


def picture(path: Path, array: np.ndarray, mode: str | None = None, **options) -> str:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return str(path)


def volume(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return str(path)


def load_image(path: str | Path, **options) -> MetaTensor:
    return LoadCased("image", **options)({"image": path})["image"]


def load_label(path: str | Path, labels=2) -> MetaTensor:
    return LoadCased("label", labels=labels)({"label": path})["label"]
