from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from bad_inputs import with_table
from bad_itk_files import segments
from image_files import COLOUR, GREY, RNG, load_label, picture, volume

from sam_monai.data import label_values
from sam_monai.errors import InputError


def test_a_0_255_mask_of_one_label_is_read_as_0_1_and_said_once(tmp_path, caplog):
    label_values.say_once.cache_clear()
    path = picture(tmp_path / "m.png", np.where(GREY > 128, 255, 0).astype(np.uint8))
    with caplog.at_level(logging.INFO):
        mask = load_label(path, labels=["polyp"])
        load_label(path, labels=1)
    assert mask.dtype == torch.float32 and np.array_equal(mask[0], GREY > 128)
    assert len(caplog.records) == 1
    with pytest.raises(InputError, match="255"):
        load_label(path, labels=2)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_mask_whose_three_colours_are_equal_is_grey(tmp_path, suffix):
    inside = np.where(GREY > 128, 255, 0).astype(np.uint8)
    assert np.array_equal(load_label(picture(tmp_path / f"m{suffix}", np.stack([inside] * 3, -1)), 1)[0], GREY > 128)
    with pytest.raises(InputError, match="3 channels"):
        load_label(picture(tmp_path / f"c{suffix}", np.stack([inside, inside, 255 - inside], -1)), 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_whole_numbers_within_the_labels_are_accepted(tmp_path, dtype):
    array = RNG.integers(0, 3, (4, 5, 6)).astype(dtype)
    for number in (2, 255):
        assert np.array_equal(load_label(volume(tmp_path / "l.nii.gz", array), number)[0], array)
    assert np.array_equal(load_label(volume(tmp_path / "l.nii.gz", array[..., None]))[0], array)


def test_the_rounding_of_a_scaled_nifti_label_is_taken_out(tmp_path):
    array = RNG.integers(0, 3, (4, 5, 6)) + 1e-5
    assert set(load_label(volume(tmp_path / "l.nii.gz", array)).unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    "make", [segments(a=1, b=2), segments(liver=1), segments(a=5), with_table("A"), with_table("x")]
)
def test_names_in_a_file_that_contradict_nothing_change_nothing(tmp_path, make):
    assert load_label(make(tmp_path), ("a", "b")).unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((4, 4, 4), 3, np.uint8), "values 3, known are 0 to 2"),
        (np.full((4, 4, 4), -1, np.int16), "values -1"),
        (np.full((4, 4, 4), 0.5), r"not whole numbers \(0.5\)"),
        (np.full((4, 4, 4), np.nan), "NaN"),
        (np.zeros((4, 4, 4, 2), np.uint8), "2 channels"),
    ],
)
def test_a_label_volume_that_does_not_fit_is_refused(tmp_path, array, said):
    with pytest.raises(InputError, match=rf"l\.nii\.gz: .*{said}.*; save the label"):
        load_label(volume(tmp_path / "l.nii.gz", array))


@pytest.mark.parametrize(("mode", "said"), [("P", "palette"), ("RGB", "3 channels"), ("RGBA", "4 channels")])
def test_a_colour_or_palette_mask_is_refused(tmp_path, mode, said):
    with pytest.raises(InputError, match=rf"m\.png.*{said}.*; save the label with one channel"):
        load_label(picture(tmp_path / "m.png", COLOUR, mode))


def test_a_jpeg_mask_whose_values_were_blurred_is_refused_with_the_reason(tmp_path):
    path = picture(tmp_path / "m.jpg", np.where(RNG.random((32, 32)) > 0.5, 255, 0).astype(np.uint8), quality=50)
    with pytest.raises(InputError, match="JPEG"):
        load_label(path, 1)
