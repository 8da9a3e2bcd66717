"""Masks and headers that are odd are told by the check: what is seen cannot be what was meant."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from folder_maker import SHAPE, image, label
from image_files import AFFINE, picture, volume
from PIL import Image

from sam_monai.data import LoadCased, check_dataset, picture_files, read_dataset
from sam_monai.errors import InputError


def scan(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(exist_ok=True)
    volume(path, array, affine)


def test_a_mask_that_jpeg_has_changed_is_what_it_was(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 20:50] = 255
    for i in range(3):
        for name in ("images", "masks"):
            (tmp_path / name).mkdir(exist_ok=True)
        picture(tmp_path / f"images/{i}.jpg", np.random.default_rng(i).integers(0, 255, (64, 64), np.uint8))
        Image.fromarray(mask).save(tmp_path / f"masks/{i}.jpg", quality=60)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "masks/0.jpg")))) > 2
    dataset = read_dataset(tmp_path)
    assert dataset.labels == ("label 1",) and not check_dataset(dataset)


def test_a_second_sample_of_a_tiff_is_not_dropped(tmp_path, monkeypatch):
    path = tmp_path / "x.tif"
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)
    LoadCased("image")({"image": path})
    read = picture_files._tiff
    monkeypatch.setattr(picture_files, "_tiff", lambda p, tag, d: 2 if tag == 277 else read(p, tag, d))
    with pytest.raises(InputError, match="holds 2 channels, of which one can be read"):
        LoadCased("image")({"image": path})


def test_names_that_label_files_state_are_used_where_they_agree(tmp_path):
    def slicer(path: Path, names: tuple[str, str]) -> None:
        path.parent.mkdir(exist_ok=True)
        array = np.zeros((4, 4, 3), np.uint8)
        array[:2], array[2:] = 1, 2
        head = "NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 4 3\n"
        head += "space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: raw\n"
        head += "space origin: (0,0,0)\n"
        head += "".join(f"Segment{i}_Name:={n}\nSegment{i}_LabelValue:={i + 1}\n" for i, n in enumerate(names))
        path.write_bytes(head.encode() + b"\n" + array.tobytes())

    for i in range(3):
        scan(tmp_path / f"images/{i}.nii.gz", np.random.default_rng(i).random((4, 4, 3)).astype(np.float32))
        slicer(tmp_path / f"labels/{i}.nrrd", ("liver", "tumour"))
    assert read_dataset(tmp_path).labels == ("liver", "tumour")
    slicer(tmp_path / "labels/1.nrrd", ("tumour", "liver"))
    with pytest.raises(InputError, match="calls the value 1 tumour, and another file calls it liver"):
        read_dataset(tmp_path)


def test_masks_that_number_few_objects_are_told(tmp_path, caplog):
    for i in range(5):
        image(tmp_path / f"images/{i}.png")
        label(tmp_path / f"masks/{i}.png", tuple(range(1, 3 + i)), 1)
    read_dataset(tmp_path)
    assert "number their objects" in caplog.text


@pytest.mark.parametrize("kind", ["inverted", "gaps", "spacing", "no validation"])
def test_odd_masks_and_headers_are_noted(tmp_path, kind):
    for i in range(6):
        array = np.zeros((*SHAPE[:2], 9), np.uint8)
        array[3:6, 3:6, slice(1, 8, 3 if kind == "gaps" else 1)] = 1
        if kind == "no validation" and i < 4:
            array[3:6, 3:6, 2] = 2
        if kind == "inverted":
            array = 1 - array
        scale = 1e-3 if kind == "spacing" else 1.0
        affine = np.diag([scale, scale, 2 * scale, 1])
        scan(tmp_path / f"images/{i}.nii.gz", np.random.default_rng(i).random(array.shape).astype(np.float32), affine)
        scan(tmp_path / f"labels/{i}.nii.gz", array, affine)
    said = {
        "inverted": "covers the edges of 6 of 6",
        "gaps": "in 6 volumes empty slices lie between drawn ones",
        "spacing": "voxels of 0.001 to 0.002 mm",
        "no validation": 'no validation label holds "label 2"',
    }
    notes = check_dataset(read_dataset(tmp_path))
    assert any(said[kind] in note for note in notes)
    assert not any(other in note for note in notes for name, other in said.items() if name != kind)


def test_a_ct_that_was_scaled_is_found_by_the_check(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    rng = np.random.default_rng(0)
    for i in range(4):
        hu = rng.integers(-1000, 400, (12, 10, 5)).astype(np.float32)
        scan(tmp_path / f"images/{i}.nii.gz", hu / 3000 + 0.5 if i == 2 else hu)
        scan(tmp_path / f"labels/{i}.nii.gz", (hu > 0).astype(np.uint8))
    dataset = read_dataset(tmp_path)
    check_dataset(dataset)
    with pytest.raises(InputError, match=r"2\.nii\.gz: holds values from .* no Hounsfield units"):
        check_dataset(dataset, intensity="ct")
    with pytest.raises(InputError, match=r"0\.nii\.gz: shows nothing in the window \[2000, 3000\]"):
        check_dataset(dataset, intensity="ct", ct_window=[2000, 3000])


def test_slices_that_are_to_be_ignored_are_no_gaps(tmp_path):
    for i in range(3):
        array = np.full((*SHAPE[:2], 9), 2, np.uint8)
        array[..., 1:8:3] = 0
        array[3:6, 3:6, 1:8:3] = 1
        scan(tmp_path / f"imagesTr/{i}.nii.gz", np.random.default_rng(i).random(array.shape).astype(np.float32))
        scan(tmp_path / f"labelsTr/{i}.nii.gz", array)
    cases = [{"image": f"imagesTr/{i}.nii.gz", "label": f"labelsTr/{i}.nii.gz"} for i in range(3)]
    labels = {"0": "background", "1": "liver", "2": "ignore"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "training": cases}))
    assert check_dataset(read_dataset(tmp_path)) == []


def test_empty_masks_of_jpeg_are_empty_and_grey_ones_are_refused(tmp_path):
    array = np.zeros((64, 64), np.uint8)
    Image.fromarray(array).save(tmp_path / "empty.jpg")
    assert not LoadCased("label", labels=1)({"label": tmp_path / "empty.jpg"})["label"].any()
    array[8:30, 8:30], array[40:46, 40:46] = 255, 128
    Image.fromarray(array).save(tmp_path / "two.jpg", quality=95)
    with pytest.raises(InputError, match="JPEG"):
        LoadCased("label", labels=1)({"label": tmp_path / "two.jpg"})
