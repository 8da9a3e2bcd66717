"""Numbered objects compared with those of a reference: which were found, missed and invented."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from skimage.metrics import contingency_table
from torch import Tensor

IOU = 0.5  # above which two objects are the same: at most one can lie so on another
OBJECTS = ("ap50", "objects_found", "objects_missed", "objects_invented")


def matched(pred: Tensor, label: Tensor) -> dict[str, float]:
    """Objects of one picture, of maps (1, H, W) that number them: average precision at an intersection over union of
    0.5, which is found / (found + missed + invented), and these three. NaN: there is no object in either."""
    both: Any = contingency_table(label.cpu().numpy().astype(int), pred.cpu().numpy().astype(int)).tocoo()
    sizes = [np.asarray(both.sum(axis)).ravel() for axis in (1, 0)]
    union = sizes[0][both.row] + sizes[1][both.col] - both.data
    found = int(((both.data > IOU * union) & (both.row > 0) & (both.col > 0)).sum())
    held, marked = (int((size[1:] > 0).sum()) for size in sizes)
    return counted(found, held - found, marked - found)


def counted(found: float, missed: float, invented: float) -> dict[str, float]:
    precision = found / total if (total := found + missed + invented) else math.nan
    return dict(zip(OBJECTS, (precision, found, missed, invented), strict=True))


def matched_in_all(rows: Sequence[Mapping[str, Any]]) -> str:
    """What :func:`matched` found in cases, in a sentence: the mean over cases, and all objects together."""
    each = [row["ap50"] for row in rows if not math.isnan(row["ap50"])]
    if not each:
        return "Objects: there is none, neither in the references nor in the predictions"
    found, missed, invented = (int(sum(row[key] for row in rows)) for key in OBJECTS[1:])
    return (
        f"Objects: average precision at IoU {IOU:g} is {sum(each) / len(each):.4f} in the mean of cases; in all, "
        f"{found} were found, {missed} missed and {invented} invented."
    )
