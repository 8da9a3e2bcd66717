"""An image is known by what it shows, whatever file holds it, and another one is not taken for it."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_maker import AFFINE, write_series
from image_files import COLOUR, GREY, load_image, picture, volume

from sam_monai.data.voxels import MOST, voxels_of

NOISE = np.random.default_rng(0).normal(0, 100, (16, 14, 5)).astype(np.int16)


def test_a_volume_that_was_saved_again_is_the_same(tmp_path):
    write_series(tmp_path / "x", NOISE, AFFINE)
    expected = voxels_of(load_image(tmp_path / "x"))
    turned = NOISE.transpose(1, 2, 0)[::-1, :, ::-1].astype(np.float32)
    for name, array in {"a.nii": NOISE, "a.nii.gz": NOISE.astype(np.float64), "b.nii.gz": turned}.items():
        assert voxels_of(load_image(volume(tmp_path / name, array))) == expected, name
    other = NOISE.copy()
    other[3, 4, 2] += 1
    for name, array in {"c.nii": other, "d.nii": NOISE[:-1], "e.nii": np.roll(NOISE, 1, 0)}.items():
        assert voxels_of(load_image(volume(tmp_path / name, array))) != expected, name


@pytest.mark.parametrize("array", [GREY, COLOUR])
def test_a_picture_that_was_saved_again_is_the_same(array, tmp_path):
    names = ("a.png", "a.tif", "a.bmp")
    assert len({voxels_of(load_image(picture(tmp_path / name, array))) for name in names}) == 1
    grey = voxels_of(load_image(picture(tmp_path / "g.png", GREY)))
    assert (grey == voxels_of(load_image(picture(tmp_path / "c.png", GREY, "RGB")))) is True
    assert grey != voxels_of(load_image(picture(tmp_path / "d.png", COLOUR)))
    swapped = load_image(picture(tmp_path / "s.png", COLOUR[..., ::-1].copy()))
    assert voxels_of(swapped) != voxels_of(load_image(picture(tmp_path / "d.png", COLOUR)))


def test_a_large_volume_is_known_from_either_end():
    array = np.random.default_rng(1).normal(size=(1, 300, 260, MOST // 50000)).astype(np.float32)
    assert array.size > MOST
    expected = voxels_of(array)
    assert voxels_of(array[:, ::-1].transpose(0, 3, 1, 2)) == expected != voxels_of(array + 1)
