"""Voxels that nobody has annotated. nnU-Net's label "ignore", the highest value of a file, marks them.

In memory they have one value, :data:`UNLABELLED`, whatever the number of labels. They are left out of the loss, of the
places around which samples lie, of prompts that are drawn, of metrics and of counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform

NAME = "ignore"
KEY = "ignore"  # of a case: the value in its label file that stands for an unlabelled voxel
UNLABELLED = 2**16 - 1
ANNOTATED = "annotated_frames"  # of the same: in how many frames, of those that its file holds, a voxel is annotated
LEFT_OUT = "left_out"  # of a case some of whose voxels were made background so: a hash that says which


def is_ignored(name: str) -> bool:
    """Tell whether a label's name is that of unlabelled voxels."""
    return name.casefold() == NAME


class LeaveOutUnlabelled(Transform):
    """Makes reference and prediction background where nobody has annotated, so that no metric compares them there."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out, label = dict(data), data.get("label")
        if isinstance(label, torch.Tensor) and (unlabelled := label == UNLABELLED).any():  # inference has no label
            out[LEFT_OUT] = hashlib.sha256(np.packbits(unlabelled.cpu().numpy())).hexdigest()
            out[ANNOTATED] = int((~unlabelled).flatten(1).any(1).sum())
            for key in ("pred", "label"):
                out[key] = out[key].masked_fill(unlabelled.to(out[key].device), 0)
        return out
