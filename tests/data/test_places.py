"""Masks lie where their image lies."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from dicom_maker import (
    AFFINE,
    blob,
    grids,
    threshold,
    write_series,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_monai import InputError
from sam_monai.data import LoadCased
from sam_monai.data.slicing import slicing_axes


@settings(max_examples=40)
@given(grid=grids(), seed=st.integers(0, 99))
def test_a_mask_lies_where_its_intensity_is_in_a_nifti_file(tmp_path, grid, seed):
    shape, affine = grid
    nib.save(nib.Nifti1Image(blob(shape, seed), affine), tmp_path / "a.nii.gz")
    file, mask = nib.load(tmp_path / "a.nii.gz"), nib.load(threshold(tmp_path / "a.nii.gz", tmp_path / "out"))
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(file.dataobj) > 0)
    np.testing.assert_allclose(mask.affine, file.affine, atol=1e-4)


@settings(max_examples=25)
@given(grid=grids(handed=True), seed=st.integers(0, 99))
def test_a_mask_lies_where_its_intensity_is_in_a_dicom_series(tmp_path, grid, seed):
    shape, affine = grid
    folder = tmp_path / "series"
    shutil.rmtree(folder, ignore_errors=True)
    array = blob(shape, seed)
    files = write_series(folder, array, affine, seed)
    mask = nib.load(threshold(folder, tmp_path / "out"))
    # By position: voxel (column, row) of the slice that lies where the file says.
    for k, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        lps = np.array([float(x) for x in dataset.ImagePositionPatient])
        place = np.linalg.inv(mask.affine) @ [-lps[0], -lps[1], lps[2], 1]
        i, j, slice_ = (int(round(x)) for x in place[:3])
        assert (i, j) == (0, 0) and np.abs(place[:3] - [i, j, slice_]).max() < 1e-2
        assert np.array_equal(np.asarray(mask.dataobj)[:, :, slice_], array[:, :, k] > 0)


def test_a_sheared_affine_is_refused(tmp_path):
    affine = AFFINE.copy()
    affine[1, 2] = 0.8
    nib.save(nib.Nifti1Image(blob((6, 7, 8)), affine), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="a.nii.gz.*right angles"):
        LoadCased("image")({"image": tmp_path / "a.nii.gz"})


@pytest.mark.parametrize(
    "spacing, axes", [((1, 1, 3), "PLS"), ((1, 4, 1), "ILP"), ((5, 1, 1), "IPL"), ((1, 1, 1.1), "PLS")]
)
def test_volumes_are_sliced_across_their_coarsest_spacing(spacing, axes):
    assert slicing_axes(np.diag([*spacing, 1.0]), "coarsest") == axes
    assert slicing_axes(np.diag([*spacing, 1.0]), "sagittal") == "IPL"
    assert slicing_axes(np.diag([*spacing, 1.0]), "RAS") == "RAS"
    assert slicing_axes(np.diag([*spacing, 1.0]), "coarsest", (9, 1, 9)) == "ILP"


def test_a_single_slice_is_as_thick_as_it_was_acquired(tmp_path):
    write_series(tmp_path, blob((8, 9, 1)), AFFINE)
    image = LoadCased("image")({"image": tmp_path})["image"]
    assert image.shape == (1, 8, 9, 1) and image.pixdim.tolist() == pytest.approx([0.7, 0.7, 3.0], abs=1e-5)


def test_resampling_is_undone(tmp_path):
    shape = (40, 36, 12)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    ball = (((grid - [20, 17, 6]) * [0.7, 0.7, 2.5]) ** 2).sum(-1) < 8**2
    write_series(tmp_path / "s", np.where(ball, 100, -100), AFFINE)
    mask = nib.load(threshold(tmp_path / "s", tmp_path / "o", spacing=(1.0, 1.0, 2.0)))
    found = np.asarray(mask.dataobj) > 0
    again = nib.load(threshold(tmp_path / "s", tmp_path / "p"))
    truth = np.asarray(again.dataobj) > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.97
    np.testing.assert_allclose(np.argwhere(found).mean(0), np.argwhere(truth).mean(0), atol=0.1)


@settings(max_examples=15)
@given(grid=grids(), axes=st.permutations(range(3)), flips=st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_label_with_other_axes_than_its_image_is_turned(tmp_path, grid, axes, flips):
    shape, affine = grid
    truth = (blob(shape) > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(truth, affine), tmp_path / "a.nii.gz")
    label = nib.Nifti1Image(truth, affine)
    turn = np.array([[axis, -1 if flip else 1] for axis, flip in zip(axes, flips, strict=True)])
    nib.save(label.as_reoriented(turn), tmp_path / "b.nii.gz")
    case = LoadCased(labels=1)({"image": tmp_path / "a.nii.gz", "label": tmp_path / "b.nii.gz"})
    assert torch.equal(case["image"], case["label"])
    torch.testing.assert_close(case["image"].affine, case["label"].affine, atol=1e-3, rtol=0)
