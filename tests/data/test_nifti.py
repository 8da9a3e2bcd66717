"""NIfTI headers are obeyed or refused: colours, time, units, scaling, and both places."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from image_files import load_image
from scipy.spatial.transform import Rotation

from sam_monai import InputError
from sam_monai.data import LoadCased
from sam_monai.inference.masks import SaveMasks

RNG = np.random.default_rng(0)
VOLUME = RNG.normal(100, 10, (12, 10, 9)).astype(np.float32)


def changed(path: Path, array: np.ndarray = VOLUME, affine: np.ndarray | None = None, **fields) -> Path:
    """A NIfTI file whose header holds these raw numbers, whatever a library would make of them."""
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    places = {"scl_slope": 112, "scl_inter": 116, "pixdim": 76, "srow_x": 280, "sform_code": 254, "qform_code": 252}
    content = bytearray(path.read_bytes())
    for name, value in fields.items():
        kind = "<i2" if name.endswith("code") else "<f4"
        raw = np.asarray(value, kind).tobytes()
        content[places[name] : places[name] + len(raw)] = raw
    path.write_bytes(content)
    return path


def test_the_fifth_dimension_and_rgb_are_channels(tmp_path):
    array = RNG.integers(0, 255, (12, 10, 9, 3), np.uint8)
    nib.save(nib.Nifti1Image(array[..., None, :].astype(np.float32), np.eye(4)), tmp_path / "vector.nii.gz")
    rgb = array.copy().view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii.gz")
    for name in ("vector", "rgb"):
        assert np.array_equal(load_image(tmp_path / f"{name}.nii.gz"), array.transpose(3, 0, 1, 2))


@pytest.mark.parametrize("times", [2, 3, 5])
def test_time_points_are_no_colours(tmp_path, times):
    array = RNG.normal(size=(12, 10, 9, times)).astype(np.float32)
    path = changed(tmp_path / "cine.nii", array)
    with pytest.raises(InputError, match=rf"cine\.nii: has {times} time points.*key channels"):
        load_image(path)
    assert np.array_equal(load_image(path, channels=[1])[0], array[..., 1])


def test_three_slices_are_no_colours(tmp_path):
    assert load_image(changed(tmp_path / "a.nii", VOLUME[..., :3])).shape == (1, 12, 10, 3)


def test_the_scaling_of_a_header_is_applied(tmp_path):
    stored = RNG.integers(0, 2000, (12, 10, 9)).astype(np.int16)
    path = changed(tmp_path / "a.nii", stored, scl_slope=0.5, scl_inter=-1024)
    assert np.array_equal(load_image(path)[0], stored * 0.5 - 1024)


@pytest.mark.parametrize("unit, factor", [("meter", 1000), ("mm", 1), ("micron", 1e-3), ("unknown", 1)])
def test_lengths_become_millimetres(tmp_path, unit, factor):
    image = nib.Nifti1Image(VOLUME, np.diag([0.1, 0.1, 0.4, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    assert load_image(tmp_path / "a.nii").pixdim.tolist() == pytest.approx([0.1 * factor, 0.1 * factor, 0.4 * factor])


def two_places(path: Path, codes=(1, 2)) -> tuple[np.ndarray, np.ndarray]:
    sform = np.diag([1, 1, 3, 1.0])
    sform[0, 3] = 30
    qform = np.eye(4)
    qform[:3, :3] = Rotation.from_euler("xyz", [8, -5, 11], degrees=True).as_matrix() @ np.diag([1, 1, 3])
    image = nib.Nifti1Image(VOLUME, sform)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return sform, qform


@pytest.mark.parametrize("codes", [*itertools.product((0, 1, 4), (0, 2, 3))])
def test_a_mask_has_both_affines_and_the_units_of_its_image(tmp_path, codes):
    path = tmp_path / "a.nii.gz"
    two_places(path, codes)
    image = load_image(path)
    mask = nib.load(SaveMasks(tmp_path / "o").save((image > 100).float(), str(path)))
    source = nib.load(path)
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert mask.header[field] == source.header[field]
    np.testing.assert_allclose(mask.get_sform(), source.get_sform())
    np.testing.assert_allclose(mask.get_qform(), source.get_qform())
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(source.dataobj) > 100)
    assert mask.header.get_data_dtype() == np.uint8


def test_a_label_may_lie_at_either_place_of_its_image_and_nowhere_else(tmp_path):
    sform, qform = two_places(tmp_path / "a.nii.gz")
    truth = (VOLUME > 100).astype(np.uint8)
    for affine in (sform, qform):
        label = changed(tmp_path / "l.nii", truth, affine)
        case = LoadCased(labels=1)({"image": tmp_path / "a.nii.gz", "label": label})
        assert np.array_equal(case["label"][0], truth)
        np.testing.assert_allclose(case["label"].affine, case["image"].affine)
    with pytest.raises(InputError, match=r"l\.nii: its affine differs"):
        LoadCased(labels=1)({"image": tmp_path / "a.nii.gz", "label": changed(tmp_path / "l.nii", truth, np.eye(4))})


@pytest.mark.parametrize("degrees", [(179.97, 0.03, 0.05), (180, 0.02, 90.01), (177, 3, 91), (12, 3, 4)])
def test_a_label_with_its_place_in_a_quaternion_or_rounded_is_read_as_its_image(tmp_path, degrees):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag([0.9, 0.9, 5.0])
    affine[:3, 3] = (-123.456789, 87.654321, -911.234567)
    image = changed(tmp_path / "a.nii", VOLUME, affine)
    truth = (VOLUME > 100).astype(np.uint8)
    quaternion = nib.Nifti1Image(truth, affine)
    quaternion.set_sform(None, 0)
    quaternion.set_qform(affine, 1)
    nib.save(quaternion, tmp_path / "q.nii")
    changed(tmp_path / "r.nii", truth, np.round(affine, 3))
    for name in "qr":
        case = LoadCased(labels=1)({"image": image, "label": tmp_path / f"{name}.nii"})
        assert np.array_equal(case["label"][0], truth)
        np.testing.assert_array_equal(case["label"].affine, case["image"].affine)


def test_a_fifth_of_a_voxel_at_one_corner_is_another_place(tmp_path):
    affine = np.eye(4)
    affine[:2, :2] = Rotation.from_euler("z", 0.015).as_matrix()[:2, :2]  # 0.2 voxels at the end of 12
    truth = (VOLUME > 100).astype(np.uint8)
    with pytest.raises(InputError, match="affine differs"):
        LoadCased(labels=1)({"image": changed(tmp_path / "a.nii"), "label": changed(tmp_path / "l.nii", truth, affine)})


def test_a_volume_that_does_not_say_how_it_lies_is_named(tmp_path, caplog):
    image = nib.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4))
    nib.save(image, tmp_path / "known.nii")
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "unknown.nii")
    for name in ("known", "unknown", "unknown"):
        LoadCased("image")({"image": tmp_path / f"{name}.nii"})
    assert caplog.text.count("left and right may be exchanged") == 1 and "unknown.nii" in caplog.text


def test_two_sizes_of_a_voxel_are_named(tmp_path, caplog):
    for name, sizes in (("usual", [1, 1, 1]), ("other", [1, 1, 3])):
        image = nib.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4))
        image.header["pixdim"][1:4] = sizes
        nib.save(image, tmp_path / f"{name}.nii")
        LoadCased("image")({"image": tmp_path / f"{name}.nii"})
    assert caplog.text.count("its pixdim of 1 x 1 x 3") == 1 and "usual" not in caplog.text


def test_a_file_that_is_far_shorter_than_its_header_says_takes_no_memory(tmp_path):
    """nibabel would first make room for all of it."""
    image = nib.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.eye(4))
    data = bytearray(image.to_bytes())
    data[40:48] = np.array([3, 1200, 1200, 1200], np.int16).tobytes()
    (tmp_path / "a.nii").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(
        InputError, match=r"a\.nii: cannot be read \(it holds 1024 bytes of values, and its header says"
    ):
        load_image(tmp_path / "a.nii")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**25
