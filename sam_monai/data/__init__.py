"""Datasets: a folder with a Decathlon `dataset.json`, read, checked, loaded and prepared file by file; DICOM."""

from __future__ import annotations

from .. import modules_of
from .channels_of_images import channels_picked, image_channels
from .check import check_dataset, examine
from .dataset import Dataset, read_dataset
from .demo import demo_dataset
from .found import images_to_segment
from .load import LoadCased
from .sides import has_sides, side_pairs

__all__ = [
    "Dataset",
    "LoadCased",
    "channels_picked",
    "check_dataset",
    "examine",
    "demo_dataset",
    "has_sides",
    "image_channels",
    "images_to_segment",
    "read_dataset",
    "side_pairs",
]

__getattr__ = modules_of(__name__)
