"""What a network sees lies in [0, 1] and shows something, whatever the numbers of a file are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_maker import SETTINGS
from image_files import picture, volume
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from sam_monai import InputError
from sam_monai.data import LoadCased
from sam_monai.data.kind import CheckKind
from sam_monai.data.preparing import CheckPrepared, mr_range, preparing
from sam_monai.errors import input_error_in

RNG = np.random.default_rng(0)


def prepared(path: str | Path, **settings) -> MetaTensor:
    made = SETTINGS | {"intensity": "mr"} | settings
    return Compose([LoadCased("image"), *preparing(made)])({"image": str(path)})["image"]


def refusal(path: str | Path, **settings) -> str:
    with pytest.raises(Exception) as error:
        prepared(path, **settings)
    found = input_error_in(error.value)
    assert found is not None and Path(path).name in str(found)
    return str(found)


@pytest.mark.parametrize("outside, share", [(0, 0.6), (0, 0.9), (0, 0.995), (0, 0.9999), (-1, 0.996), (2000, 0.996)])
def test_a_structure_cut_out_of_its_surroundings_is_seen(outside, share):
    alone = RNG.normal(1000, 100, 2000)
    values = np.full(round(2000 / (1 - share)), outside, np.float32)
    values[:2000] = alone
    low, high = mr_range(values)
    assert min(low, high) == min(outside, low) and np.mean((alone >= low) & (alone <= high)) > 0.98
    assert np.ptp((alone - low) / (high - low)) > 0.4


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("outside", [-32768, 65535])
def test_a_number_that_stands_for_outside_takes_no_part_in_the_range(outside, share):
    alone = RNG.normal(1000, 100, 2000)
    values = np.full(round(2000 / (1 - share)), outside, np.float32)
    values[:2000] = alone
    assert mr_range(values) == pytest.approx(tuple(np.percentile(alone, (0.5, 99.5))), rel=1e-3)


@pytest.mark.parametrize("voxels", [1, 2, 9])
def test_a_few_voxels_of_intensity_are_scaled(tmp_path, voxels):
    array = np.zeros((32, 30, 8), np.float32)
    array.flat[:voxels] = 700
    image = prepared(volume(tmp_path / "a.nii.gz", array))
    assert (image == 1).sum() == voxels and (image == 0).sum() == array.size - voxels


def test_an_image_without_a_constant_background_keeps_its_percentiles():
    values = RNG.normal(size=5000).astype(np.float32)
    assert mr_range(values) == pytest.approx(tuple(np.percentile(values, (0.5, 99.5))))


@pytest.mark.parametrize("most", [1, 2, 100, 255])
def test_the_scale_of_an_8_bit_picture_is_that_of_its_type(tmp_path, most):
    array = np.zeros((20, 24), np.uint8)
    array[5:9] = most
    image = prepared(picture(tmp_path / "a.png", array), intensity="picture", spatial_dims=2)
    assert image.max() == pytest.approx(most / 255)


def test_the_scale_of_a_deeper_picture_is_its_own_even_where_8_bits_would_do(tmp_path):
    for most in (200, 300, 60000):
        array = np.linspace(0, most, 480).reshape(20, 24).astype(np.uint16)
        image = prepared(picture(tmp_path / "a.png", array), intensity="picture", spatial_dims=2)
        assert image.min() == 0 and image.max() == 1


def test_one_saturated_pixel_of_a_deep_picture_leaves_the_others_visible(tmp_path):
    array = np.random.default_rng(0).normal(400, 20, (64, 64)).astype(np.uint16)
    array[20:40, 20:40] += 350
    array[0, 0] = 65535
    image = prepared(picture(tmp_path / "a.png", array), intensity="picture", spatial_dims=2)
    assert image.amax() == 1 and image[0, 20:40, 20:40].mean() - image[0, 41:].mean() > 0.5


def test_a_mask_of_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(RNG.random((20, 24)) > 0.5).save(tmp_path / "a.png")
    assert prepared(tmp_path / "a.png", intensity="picture", spatial_dims=2).unique().tolist() == [0, 1]


def test_a_ct_that_is_not_in_hounsfield_units_is_refused(tmp_path):
    path = volume(tmp_path / "a.nii.gz", RNG.random((12, 10, 9)).astype(np.float32))
    assert "which are no Hounsfield units" in refusal(path, intensity="ct")
    array = RNG.normal(0, 1, (12, 10, 9)).astype(np.float32)  # as deep learning wants it
    assert "which are no Hounsfield units" in refusal(volume(tmp_path / "b.nii.gz", array), intensity="ct")
    assert prepared(path, intensity="ct", ct_window=(0, 0.5)).max() == 1  # a window that says how they were scaled


def test_an_image_that_hardly_shows_anything_is_warned_of_once(tmp_path, caplog):
    Image.fromarray(RNG.integers(0, 6, (20, 24), np.uint8)).save(tmp_path / "dark.png")
    Image.fromarray(RNG.integers(0, 60, (20, 24), np.uint8)).save(tmp_path / "usual.png")
    for name in ("dark", "usual", "dark"):
        prepared(tmp_path / f"{name}.png", intensity="picture", spatial_dims=2)
    assert caplog.text.count("shows little") == 1 and "dark.png" in caplog.text


@pytest.mark.parametrize("pixels, warned", [(1, True), (100, False)])
def test_a_picture_of_which_one_pixel_alone_is_bright_is_warned_of(tmp_path, caplog, pixels, warned):
    array = RNG.integers(0, 6, (96, 96), np.uint8)
    array.flat[:pixels] = 255  # by the white of 8 bits, what is not bright stays dark
    Image.fromarray(array).save(tmp_path / "a.png")
    prepared(tmp_path / "a.png", intensity="picture", spatial_dims=2)
    assert ("a.png: shows little" in caplog.text) == warned


def test_a_ct_without_a_negative_value_is_warned_of(caplog):
    check = CheckKind({"spatial_dims": 3, "intensity": "ct"})
    values = MetaTensor(torch.linspace(-100, 300, 1000).reshape(1, 10, 10, 10), meta={"filename_or_obj": "bright.nii"})
    check({"image": values})
    assert not caplog.text
    check({"image": values + 100})
    assert "holds no value below 0" in caplog.text


@pytest.mark.parametrize(
    "change, said", [(lambda hu: (hu + 1000) / 1200, "no Hounsfield"), (lambda hu: hu + 1024, "no value below 0")]
)
def test_a_channel_of_hounsfield_units_is_looked_at_by_itself(change, said):
    hu = RNG.normal(-900, 40, (1, 10, 10, 10))
    hu[:, 2:8] = RNG.normal(40, 20, (1, 6, 10, 10))
    settings = {"spatial_dims": 3, "intensity": ["ct", "mr"], "channel_names": ["CT", "PET"]}
    warned: list[str] = []
    check = CheckKind(settings, warned.append)
    uptake = RNG.random(hu.shape) - 0.5
    check({"image": MetaTensor(torch.tensor(np.concatenate([hu, uptake])), meta={"filename_or_obj": "a.nii"})})
    assert not warned
    try:
        changed = np.concatenate([change(hu), uptake])
        check({"image": MetaTensor(torch.tensor(changed), meta={"filename_or_obj": "a.nii"})})
    except InputError as error:
        warned.append(str(error))
    (line,) = warned
    assert line.startswith("a.nii: its channel CT holds") and said in line


@pytest.mark.parametrize("pixels", [1.3, 1.5, 1.8, 2.3])
def test_a_white_area_stays_white_where_pictures_shrink(tmp_path, pixels):
    array = RNG.integers(20, 120, (101, 77), np.uint8)
    array[20:60, 20:60] = 255
    image = picture(tmp_path / "a.png", array)
    assert prepared(image, intensity="picture", spatial_dims=2, spacing=[pixels, pixels]).max() == pytest.approx(1)


@pytest.mark.parametrize("window", [[5], [], [240, -160], [0, 0], [0, float("nan")], ["a", 1], [0, 1, 2]])
def test_a_window_needs_two_ends(window):
    with pytest.raises(InputError, match="ct_window"):
        preparing(SETTINGS | {"ct_window": window})


@pytest.mark.parametrize("orientation", ["XYZ", "", "PL", "PLR", "axial ", 3, None])
def test_an_orientation_that_is_none_is_refused(orientation):
    with pytest.raises(InputError, match="key orientation"):
        preparing(SETTINGS | {"orientation": orientation})


@pytest.mark.parametrize("values", [[0, 2], [-0.1, 1], [0, np.nan], [0.3, 0.3001]])
def test_the_last_step_lets_nothing_else_than_0_to_1_pass(values):
    image = MetaTensor(torch.tensor([[values]], dtype=torch.float32), meta={"filename_or_obj": "x.png"})
    with pytest.raises(InputError, match=r"x\.png"):
        CheckPrepared("image")({"image": image})


@pytest.mark.parametrize("values", [[0, 0.5], [-1, 1], [0, np.nan]])
def test_the_last_step_lets_no_label_pass_that_is_no_whole_number(values):
    label = MetaTensor(torch.tensor([[values]], dtype=torch.float32), meta={"filename_or_obj": "l.png"})
    with pytest.raises(InputError, match=r"l\.png"):
        CheckPrepared("label")({"label": label})


def test_an_image_of_which_resampling_leaves_a_few_pixels_is_refused(tmp_path):
    path = volume(tmp_path / "a.nii.gz", RNG.normal(0, 100, (24, 20, 6)).astype(np.float32))
    assert prepared(path, spacing=(1.0, 1.0, 3.0)).shape[-1] == 6
    assert "is only 6 x 7 x 6 once resampled" in refusal(path, spacing=(2.0, 2.0, 3.0))
    assert prepared(path, spacing=(1.0, 1.0, 20.0)).shape[-1] >= 1
