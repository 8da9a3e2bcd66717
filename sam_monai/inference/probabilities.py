"""How likely each label is at each voxel of an image's own file, beside its mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Compose, Transform
from torch import Tensor

from ..data.instances import merged
from ..data.nifti import on_source
from ..errors import InputError
from ..networks.regions import Regions, probabilities_of
from .file_grid import ToFileGridd

KEY = "probabilities"
ENDS = "_prob.nii.gz"
STEPS = 2**16 - 1  # of a probability in a file: NIfTI has no numbers of 16 bits with a fraction


class ToProbabilities(Transform):
    """The logits of a case, "pred", as "probabilities" (L, *spatial) on the grid of the image's own file; of
    T frames (L, T, *spatial).

    Logits are interpolated, as for the mask, so its labels are those of the highest probability, or, of regions that
    overlap, those above a half.
    """

    def __init__(
        self,
        preparation: Compose,
        regions: Regions | None = None,
        temperature: float = 1.0,
        instances: bool = False,
    ) -> None:
        self.grid = ToFileGridd(preparation)
        self.regions, self.temperature, self.instances = regions, temperature, instances

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if len(data["pred"]) == 1:
            raise InputError(
                "probabilities are not kept for prompted objects in a large volume or in patches: leave the key "
                "probabilities out"
            )
        logits = [one.as_tensor() for one in self.grid.channels(data)]
        each = torch.cat(logits) if len(logits[0]) == 1 else torch.stack(logits)
        each = merged(each) if self.instances else each
        return {**data, KEY: probabilities_of(each, self.regions, self.temperature)[1:]}


def save_probabilities(each: Tensor, affine: np.ndarray, source: str, path: Path) -> None:
    """Write probabilities (L, *spatial) as one NIfTI of four axes, the last of which are the labels. A picture has a
    third axis of length 1, and frames (L, T, *spatial) have the labels as a fifth. Values are stored in 16 bits with
    the slope that makes them 0 to 1."""
    values = torch.round(each.cpu() * STEPS).numpy().astype(np.uint16)
    values = np.moveaxis(values if values.ndim > 3 else values[..., None], 0, -1)
    values = np.moveaxis(values, 0, 3) if values.ndim == 5 else values
    image: Any = on_source(values, affine, source)
    image.header.set_slope_inter(1 / STEPS, 0)
    nib.save(image, path)
