"""Which images of a folder are segmented, and what is said of the rest."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_maker import slice_file, write_series

from sam_monai.data import LoadCased, check_dataset, images_to_segment, read_dataset
from sam_monai.errors import InputError
from sam_monai.inference.outputs import Outputs


def test_images_to_segment_lists_a_folder_or_one_file(tmp_path):
    for name in ("b.PNG", "a.nii.gz", "c.tif", "notes.txt", "._a.nii.gz", "below/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [Path(c["image"]).name for c in images_to_segment(tmp_path)] == ["a.nii.gz", "b.PNG", "c.tif"]
    assert images_to_segment(tmp_path / "below" / "d.png") == [{"image": f"{tmp_path}/below/d.png"}]


def test_images_to_segment_takes_a_folder_of_dicom_slices_as_one_image(tmp_path):
    write_series(tmp_path, np.zeros((4, 4, 3), np.int16), np.eye(4))
    assert images_to_segment(tmp_path) == [{"image": str(tmp_path)}]


def test_images_to_segment_refuses_where_there_is_nothing(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds no image"):
        images_to_segment(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        images_to_segment(tmp_path / "nowhere.png")


def passed(images) -> dict[str, str]:
    return {Path(path).name: reason for path, reason in images.passed_over}


def test_folders_behind_links_are_found_once_and_loops_end(tmp_path):
    volume = np.random.default_rng(0).integers(0, 99, (9, 9, 3))
    write_series(tmp_path / "studies" / "one", volume, np.eye(4))
    write_series(tmp_path / "elsewhere" / "two", volume, np.eye(4))
    (tmp_path / "studies" / "two").symlink_to(tmp_path / "elsewhere" / "two")
    (tmp_path / "studies" / "one" / "loop").symlink_to(tmp_path / "studies")
    (tmp_path / "studies" / "again").symlink_to(tmp_path / "studies" / "one")
    (tmp_path / "studies" / "broken.nii").symlink_to(tmp_path / "nothing")
    images = images_to_segment(tmp_path / "studies", spatial_dims=3)
    assert [Path(case["image"]).name for case in images] == ["one", "two"]
    assert list(passed(images)) == ["broken.nii"] and "link" in passed(images)["broken.nii"]


def test_a_localiser_is_named_and_segmented_only_where_its_file_is_given(tmp_path):
    for name, kind in (("ct", "AXIAL"), ("scout", "LOCALIZER")):
        files = write_series(tmp_path / name, np.ones((9, 9, 3)), np.eye(4), ImageType=["ORIGINAL", "PRIMARY", kind])
    images = images_to_segment(tmp_path, spatial_dims=3)
    assert [Path(case["image"]).name for case in images] == ["ct"] and "localiser" in passed(images)["scout"]
    assert images_to_segment(files[0], spatial_dims=3) == [{"image": str(files[0])}]


def test_what_may_be_an_image_and_is_not_segmented_is_named_with_the_reason(tmp_path):
    files = write_series(tmp_path / "good", np.ones((9, 9, 3), np.int16), np.eye(4))
    for name in ("no_orientation", "damaged"):
        write_series(tmp_path / name, np.ones((9, 9, 3), np.int16), np.eye(4))
    for file in (tmp_path / "no_orientation").iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.ImageOrientationPatient
        dataset.save_as(file)
    victim = next((tmp_path / "damaged").iterdir())
    victim.write_bytes(victim.read_bytes()[:150])
    capture = slice_file(np.ones((9, 9)), Modality="OT")
    capture.save_as(tmp_path / "capture.dcm", enforce_file_format=True)
    report = pydicom.dcmread(files[0])
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    report.Modality = "SR"
    report.save_as(tmp_path / "report.dcm")
    (tmp_path / "text.dcm").write_text("no DICOM")
    for name in ("movie.gif", "scan.mgz", "notes.txt", "DICOMDIR", ".hidden.png", "good/inner.png"):
        (tmp_path / name).touch()
    images = images_to_segment(tmp_path, spatial_dims=3)
    assert "good" in {Path(case["image"]).name for case in images}
    reasons = passed(images)
    expected = {
        "no_orientation": "3 files.*ImageOrientationPatient", victim.name: "", "capture.dcm": "without a place",
        "report.dcm": "another kind.*SR", "text.dcm": "DICOM", "movie.gif": "ends in none", "scan.mgz": "ends in none",
        "inner.png": "folder within",
    }  # fmt: skip
    assert expected.keys() == reasons.keys()
    assert all(re.search(pattern, reasons[name]) for name, pattern in expected.items())


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_series_that_lies_in_two_folders_is_named_once_and_not_segmented_in_halves(tmp_path, interleaved):
    files = write_series(tmp_path / "tmp", np.random.default_rng(0).integers(0, 99, (9, 9, 8)), np.eye(4))
    for k, file in enumerate(files):
        folder = tmp_path / "cd" / f"DIR{k % 2 if interleaved else k // 5}"
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / file.name)
    write_series(tmp_path / "cd" / "whole", np.random.default_rng(1).integers(0, 99, (9, 9, 8)), np.eye(4))
    images = images_to_segment(tmp_path / "cd", spatial_dims=3)
    assert [Path(case["image"]).name for case in images] == ["whole"]
    ((_, reason),) = images.passed_over
    assert "DIR0" in reason and "DIR1" in reason and "several folders" in reason
    shutil.copytree(tmp_path / "cd" / "whole", tmp_path / "cd" / "copy")  # a copy is no half
    assert len(images_to_segment(tmp_path / "cd", spatial_dims=3)) == 2


@pytest.mark.parametrize(
    "name", ["2024_05_17", "20240517", "scans#2", "a b", "50%", "$HOME", "it's", "[1]*", "Ünïcode 山", "@x"]
)
def test_a_folder_of_any_name_is_the_folder_that_is_read(tmp_path, name, monkeypatch):
    folder = tmp_path / name
    array = np.random.default_rng(0).normal(size=(9, 9, 3)).astype(np.float32)
    folder.mkdir()
    for i in range(3):
        nibabel.save(nibabel.Nifti1Image(array + i, np.eye(4)), folder / f"{name}{i}.nii.gz")
        nibabel.save(nibabel.Nifti1Image((array > 0).astype(np.uint8), np.eye(4)), folder / f"l{i}.nii.gz")
    write_series(folder / "dicom", array * 100, np.eye(4))
    monkeypatch.chdir(tmp_path)
    assert len(images_to_segment(name, spatial_dims=3)) == 7
    cases = [{"image": f"{name}{i}.nii.gz", "label": f"l{i}.nii.gz"} for i in range(3)]
    content = {"labels": {"0": "background", "1": "a"}, "training": cases[:2], "validation": cases[2:]}
    (folder / "dataset.json").write_text(json.dumps(content))
    dataset = read_dataset(name)
    assert dataset.folder == folder and check_dataset(dataset) == []
    assert LoadCased("image")({"image": f"{name}/dicom"})["image"].shape == (1, 9, 9, 3)


@pytest.mark.parametrize("source", [None, 5, "", ["a"], 20240517])
def test_a_source_that_is_no_path_is_refused(source):
    with pytest.raises(InputError, match="dataset_dir"):
        images_to_segment(source)


def test_a_folder_whose_images_are_all_for_training_is_refused_and_not_passed_over(tmp_path):
    array = np.random.default_rng(0).normal(size=(9, 9, 3)).astype(np.float32)
    for name, values in {"images": array, "labels": (array > 0).astype(np.uint8)}.items():
        (tmp_path / name).mkdir()
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / name / "a.nii.gz")
    with pytest.raises(InputError, match="every image in it has a label"):
        images_to_segment(tmp_path)
    assert len(images_to_segment(tmp_path / "images")) == 1


def test_what_a_system_or_a_program_keeps_for_itself_is_not_searched(tmp_path):
    """Such as what was thrown away, or the files to which those of a DataLad folder are links."""
    for name in (".git/annex/a.nii.gz", ".Trash-1000/files/b.nii.gz", "$RECYCLE.BIN/c.nii.gz", "sub/d.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "e.nii.gz").symlink_to(tmp_path / ".git/annex/a.nii.gz")
    images = images_to_segment(tmp_path, spatial_dims=3)
    assert [Path(case["image"]).name for case in images] == ["e.nii.gz", "d.nii.gz"] and not images.passed_over


def test_results_of_many_images_in_a_folder_within_are_not_told_of_as_images(tmp_path):
    for name in "abc":
        (tmp_path / "p1").mkdir(exist_ok=True)
        (tmp_path / f"p1/{name}.nii.gz").touch()
        Outputs(tmp_path).write(name, tmp_path / f"p1/{name}.png", f"{tmp_path}/p1/{name}.nii.gz")
    assert not images_to_segment(tmp_path, spatial_dims=3).passed_over
    (tmp_path / "p1/other.png").touch()
    assert list(passed(images_to_segment(tmp_path, spatial_dims=3))) == ["other.png"]
