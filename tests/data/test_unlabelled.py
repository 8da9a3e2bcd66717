"""Voxels that nobody has annotated are read as such, wherever labels come from, and counted nowhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from dicom_maker import write_series
from folder_maker import label, mask, nnunet, pairs, segmentations
from image_files import volume
from monai.transforms import RandFlipd

from sam_monai.__main__ import main
from sam_monai.data import LoadCased, check_dataset, read_dataset
from sam_monai.data.sides import mirrored_with_sides
from sam_monai.data.unlabelled import UNLABELLED
from sam_monai.errors import InputError

LABELS = {"background": 0, "liver": 1, "ignore": 2}


def loaded(dataset, number: int = 0) -> np.ndarray:
    return np.asarray(LoadCased(labels=dataset.labels)(dataset.training[number])["label"])[0]


@pytest.mark.parametrize("labels", [LABELS, {"0": "background", "1": "liver", "2": "Ignore"}])
def test_the_highest_value_called_ignore_is_no_label(tmp_path, labels):
    dataset = read_dataset(nnunet(tmp_path, labels=labels))
    assert dataset.labels == ("liver",)
    found = loaded(dataset)
    assert (found[:3] == 1).all() and (found[3:6] == UNLABELLED).all() and not found[6:].any()
    assert check_dataset(dataset) == []


def test_a_name_given_to_the_highest_value_makes_it_unlabelled(tmp_path):
    assert main(["dataset", str(pairs(tmp_path)), "--labels", "liver,ignore"]) == 0
    assert json.loads((tmp_path / "dataset.json").read_text())["labels"] == {
        "0": "background", "1": "liver", "2": "ignore",
    }  # fmt: skip
    dataset = read_dataset(tmp_path)
    assert dataset.labels == ("liver",) and (loaded(dataset)[3:6] == UNLABELLED).all()


def test_a_mask_called_ignore_marks_unlabelled_voxels(tmp_path):
    dataset = read_dataset(segmentations(tmp_path, names=("ignore", "liver")))
    assert dataset.labels == ("liver",)
    found = loaded(dataset)
    assert (found[:3] == UNLABELLED).all() and (found[3:6] == 1).all()


def test_a_segment_called_ignore_marks_unlabelled_voxels(tmp_path):
    from dicom_maker import write_segmentation

    series = tmp_path / "series"
    write_series(series, np.random.default_rng(0).integers(0, 99, (9, 8, 3)), np.eye(4))
    image = LoadCased("image")({"image": str(series)})["image"]
    values = np.zeros(image.shape[1:], np.uint8)
    values[:3], values[3:6] = 1, 2
    write_segmentation(values, image.affine.numpy(), series, ["ignore", "liver"], tmp_path / "seg.dcm")
    case = {"image": str(series), "label": str(tmp_path / "seg.dcm"), "ignore": 2}
    found = np.asarray(LoadCased(labels=["liver"])(case)["label"])[0]
    assert (found[:3] == UNLABELLED).all() and (found[3:6] == 1).all() and not found[6:].any()


@pytest.mark.parametrize("labels", [{"background": 0, "ignore": 1, "liver": 2}, {"background": 0, "ignore": 1}])
def test_an_ignore_label_that_is_not_the_highest_of_several_is_refused(tmp_path, labels):
    with pytest.raises(InputError, match=r"dataset\.json.*not the highest"):
        read_dataset(nnunet(tmp_path, labels=labels))


def test_counts_and_notes_of_the_check_leave_unlabelled_voxels_out(tmp_path):
    nnunet(tmp_path, labels=LABELS)
    label(tmp_path / "labelsTr/case_0.nii.gz", (2,))
    dataset = read_dataset(tmp_path)
    notes = check_dataset(dataset)
    assert notes == ["1 training case with nothing but background: case_0.nii.gz"]
    label(tmp_path / "labelsTr/case_0.nii.gz", (2,), rows=9)
    with pytest.raises(InputError, match=r"case_0\.nii\.gz: no voxel of it is annotated"):
        check_dataset(dataset)
    label(tmp_path / "labelsTr/case_0.nii.gz", (1, 3))
    with pytest.raises(InputError, match="holds the values 0, 1, 3, known are 0 to 2"):
        check_dataset(dataset)


def test_an_unlabelled_voxel_has_no_side():
    labels = ["left lung", "right lung"]
    (flip,) = mirrored_with_sides([RandFlipd(("image", "label"), prob=1.0, spatial_axis=0)], labels)
    values = torch.tensor([[[0.0, 1, 2, UNLABELLED]]])
    out = flip({"image": torch.zeros(1, 1, 4), "label": values})
    assert out["label"].tolist() == [[[0, 2, 1, UNLABELLED]]]


def test_unlabelled_voxels_are_those_of_masks_on_the_same_grid(tmp_path):
    top = segmentations(tmp_path, names=("ignore", "liver"))
    volume(top / "s0000/segmentations/ignore.nii.gz", np.ones((4, 4, 2), np.uint8))
    mask(top / "s0001/segmentations/ignore.nii.gz", 2, 5)
    with pytest.raises(InputError, match="(?s)is 4 x 4 x 2.*overlaps|overlaps.*is 4 x 4 x 2"):
        check_dataset(read_dataset(top))
