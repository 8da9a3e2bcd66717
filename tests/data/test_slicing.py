"""Volumes prepared in several threads are each turned to their own plane."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.orientations import aff2axcodes

from sam_monai.data.slicing import PLANES, ToSlicesd


def test_volumes_of_several_threads_are_turned_each_to_its_own_plane():
    turn = ToSlicesd(("image",), "coarsest")
    volumes = [
        MetaTensor(torch.rand(1, 8, 9, 10), torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)))
        for spacing in ((1, 1, 3), (1, 3, 1), (3, 1, 1))
    ]
    planes = ["axial", "coronal", "sagittal"]
    expected = [turn({"image": volume})["image"] for volume in volumes]

    def work(i: int) -> bool:
        out = turn({"image": volumes[i % 3]})
        right = "".join(map(str, aff2axcodes(np.asarray(out["image"].affine)))) == PLANES[planes[i % 3]]
        same = torch.equal(out["image"], expected[i % 3])
        return right and same and torch.equal(turn.inverse(out)["image"], volumes[i % 3])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(400)))
