"""A label map among the images is named, and an image is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dicom_maker import SETTINGS
from image_files import picture, volume

from sam_monai.data.label_like import values_of_labels
from sam_monai.errors import warn_once
from sam_monai.inference import pipeline

RNG = np.random.default_rng(0)
NOISE = RNG.normal(100, 20, (64, 64, 4))


def structures(number: int) -> np.ndarray:
    """A label map of boxes."""
    return np.kron(np.arange(64).reshape(8, 8) % (number + 1), np.ones((8, 8)))[..., None].repeat(4, 2)


def tensor(array) -> torch.Tensor:
    return torch.as_tensor(np.asarray(array, np.float32))[None]


@pytest.mark.parametrize("number", [1, 2, 7, 40])
def test_whole_structures_of_whole_numbers_look_like_labels(number):
    assert values_of_labels(tensor(structures(number))) == list(range(number + 1))
    assert values_of_labels(tensor(structures(1)[..., 0] * 255)) == [0, 255]


@pytest.mark.parametrize(
    "array",
    [NOISE, NOISE.round(), NOISE.astype(np.uint8), structures(2) - 1, structures(2) / 2, structures(2) + NOISE / 1e3,
     np.arange(64.0)[:, None, None].repeat(20, 1).repeat(4, 2), np.clip(NOISE - 130, 0, None).round(),
     structures(40) * 100 + RNG.integers(0, 9, (64, 64, 4))],
)  # fmt: skip
def test_images_do_not(array):
    assert values_of_labels(tensor(array)) is None


@pytest.mark.parametrize(("make", "name", "dims"), [(volume, "a_seg.nii.gz", 3), (picture, "a.png", 2)])
def test_a_label_map_that_is_taken_for_an_image_is_named_and_still_answered(make, name, dims, tmp_path, caplog):
    warn_once.cache_clear()
    array = structures(2).astype(np.uint8)
    path = make(tmp_path / name, array if dims == 3 else array[..., 0])
    for intensity in ("mr", "picture"):
        prepare = pipeline.preprocessing((), SETTINGS | {"intensity": intensity, "spatial_dims": dims})
        assert "image" in prepare({"image": str(path)})
    told = [line for line in caplog.messages if f"{name}: looks like a label map" in line]
    assert len(told) == 1 and "it holds the values 0, 1, 2" in told[0]


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_noise_in_one_slice_is_no_label_map_whichever_axis_it_lies_across(axis):
    image = torch.randint(0, 256, (1, 64, 64), generator=torch.Generator().manual_seed(0)).float().unsqueeze(axis)
    assert values_of_labels(image) is None
