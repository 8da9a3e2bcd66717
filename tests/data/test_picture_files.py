from __future__ import annotations

import numpy as np
import pytest
import torch
from image_files import COLOUR, GREY, load_image, load_label, picture
from monai.data import MetaTensor
from PIL import Image


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
def test_rows_of_a_picture_are_the_rows_of_the_file(tmp_path, suffix):
    grey = load_image(picture(tmp_path / f"g{suffix}", GREY))
    assert isinstance(grey, MetaTensor) and grey.dtype == torch.float32
    assert grey.shape == (1, 9, 11) and np.array_equal(grey[0], GREY)
    colour = load_image(picture(tmp_path / f"c{suffix}", COLOUR))
    assert colour.shape == (3, 9, 11) and np.array_equal(colour, COLOUR.transpose(2, 0, 1))
    assert colour.meta["filename_or_obj"] == str(tmp_path / f"c{suffix}")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_picture_and_mask_alike(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Which corner of the stored pixels a viewer shows on top left, and whether rows and columns change places.
    seen = {
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: GREY[::-1].T,
        7: GREY[::-1, ::-1].T,
        8: GREY[:, ::-1].T,
    }[orientation]
    path = picture(tmp_path / "a.png", GREY, exif=exif)
    assert np.array_equal(load_image(path)[0], seen)
    assert np.array_equal(load_label(path, labels=255)[0], seen)


def test_16_bit_values_are_kept(tmp_path):
    deep = np.array([[0, 1, 300], [256, 40000, 65535]], np.uint16)
    for suffix in (".png", ".tif"):
        assert np.array_equal(load_image(picture(tmp_path / f"a{suffix}", deep))[0], deep)
    assert np.array_equal(load_label(picture(tmp_path / "l.png", deep), labels=65535)[0], deep)


def test_a_palette_or_cmyk_picture_is_read_as_the_colours_it_shows(tmp_path):
    flat = np.zeros((4, 6, 3), np.uint8)
    flat[:, 3:] = (250, 20, 90)
    Image.fromarray(flat).quantize(2).save(tmp_path / "p.png")
    assert np.array_equal(load_image(str(tmp_path / "p.png")), flat.transpose(2, 0, 1))
    assert load_image(picture(tmp_path / "c.jpg", flat, "CMYK")).shape == (3, 4, 6)
