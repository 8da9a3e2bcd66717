"""Datasets: a folder with a Decathlon `dataset.json`, read, checked, loaded and prepared file by file; DICOM."""

from __future__ import annotations

from .. import modules_of
from .check import check_dataset
from .dataset import Dataset, has_sides, images_to_segment, read_dataset
from .demo import demo_dataset
from .load import LoadCased

__all__ = [
    "Dataset",
    "LoadCased",
    "check_dataset",
    "demo_dataset",
    "has_sides",
    "images_to_segment",
    "read_dataset",
]

__getattr__ = modules_of(__name__)
