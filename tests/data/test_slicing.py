"""Volumes are sliced as they were acquired, whichever way they are stored and however many threads prepare them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.orientations import aff2axcodes

from sam_monai import InputError
from sam_monai.data.kind import check_size
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


@pytest.mark.parametrize("across", [0, 1, 2])
def test_few_slices_are_enough_whichever_axis_of_the_file_they_lie_along(across):
    shape, spacing = [12, 12, 12], [1.0, 1.0, 1.0, 1.0]
    shape[across], spacing[across] = 3, 4.0
    volume = MetaTensor(torch.rand(1, *shape), torch.diag(torch.tensor(spacing, dtype=torch.float64)))
    check_size(volume)
    small = MetaTensor(volume[:, :7, :7, :7], volume.affine)
    with pytest.raises(InputError, match="slices are only 7 x 7"):
        check_size(small)
