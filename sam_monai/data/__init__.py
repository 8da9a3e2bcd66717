"""Datasets: a folder with a Decathlon `dataset.json`, read, checked and loaded file by file."""

from __future__ import annotations

from sam_monai.data.check import check_dataset
from sam_monai.data.dataset import Dataset, has_sides, images_to_segment, read_dataset
from sam_monai.data.demo import demo_dataset
from sam_monai.data.load import LoadCased
from sam_monai.data.prompts import KeepClicks, prompts_beside, with_prompts

__all__ = [
    "Dataset",
    "KeepClicks",
    "LoadCased",
    "check_dataset",
    "demo_dataset",
    "has_sides",
    "images_to_segment",
    "prompts_beside",
    "read_dataset",
    "with_prompts",
]
