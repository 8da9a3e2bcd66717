"""A list that pairs an image with another's label, or with a copy of the label, is seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_monai import InputError
from sam_monai.data import LoadCased, check_dataset, read_dataset

RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c")


def listed(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    labels = {"0": "background", "1": "spot"}
    cases = [{"image": f"{image}.png", "label": f"{label}.png"} for image, label in pairs]
    content = {"modality": {"0": "RGB"}, "labels": labels, "training": cases[:-1], "validation": cases[-1:]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    for name in NAMES:
        Image.fromarray(RNG.integers(0, 256, (24, 24), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        mask = RNG.integers(0, 2, (24, 24), dtype=np.uint8)
        for suffix in ("_mask", "-seg_1"):
            Image.fromarray(255 * mask).save(tmp_path / f"{name}{suffix}.png")
    return tmp_path


@pytest.mark.parametrize("suffix", ["_mask", "-seg_1"])
def test_the_label_of_another_case_is_noted(pictures, suffix):
    own = [(name, name + suffix) for name in NAMES]
    assert check_dataset(read_dataset(listed(pictures, own))) == []
    notes = check_dataset(read_dataset(listed(pictures, [own[0], ("b", f"c{suffix}"), ("c", f"b{suffix}")])))
    assert [note.rpartition("/")[2] for note in notes] == ["c.png", "b.png"]
    assert all("is listed as the label of" in note for note in notes)


def test_names_that_say_nothing_are_not_noted(pictures):
    for number, name in enumerate(NAMES):
        (pictures / f"{name}_mask.png").rename(pictures / f"label{number}.png")
    pairs = [("a", "label2"), ("b", "label1"), ("c", "label0")]
    assert check_dataset(read_dataset(listed(pictures, pairs))) == []


@pytest.mark.parametrize("factor", [1, 255])
def test_a_copy_of_the_label_is_no_image(pictures, factor):
    mask = np.asarray(Image.open(pictures / "b_mask.png")) // 255
    Image.fromarray(mask * np.uint8(factor)).save(pictures / "b.png")
    with pytest.raises(InputError, match=r"b\.png: holds the same as its label .*b_mask\.png; give the image"):
        check_dataset(read_dataset(listed(pictures, [(name, f"{name}_mask") for name in NAMES])))


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_a_picture_that_is_turned_and_a_label_that_is_not_are_noted(pictures, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    picture = Image.open(pictures / "b.png")
    picture.save(pictures / "b.png", exif=exif)
    pairs = [(name, f"{name}_mask") for name in NAMES]
    notes = check_dataset(read_dataset(listed(pictures, pairs)))
    assert len(notes) == 1 and "b.png is turned by its EXIF tag, and its label" in notes[0]
    Image.open(pictures / "b_mask.png").save(pictures / "b_mask.png", exif=exif)
    assert check_dataset(read_dataset(listed(pictures, pairs))) == []


def test_a_label_of_small_numbers_is_no_jpeg(tmp_path):
    numbers = RNG.integers(0, 3, (24, 24), dtype=np.uint8)
    for name, saving in {"x.jpg": {}, "x.tif": {"compression": "jpeg"}, "y.png": {"format": "JPEG"}}.items():
        Image.fromarray(numbers).save(tmp_path / name, **saving)
        with pytest.raises(InputError, match="is a JPEG of small numbers"):
            LoadCased("label", labels=2)({"label": tmp_path / name})
    blocks = np.kron(RNG.integers(0, 2, (3, 3)), np.ones((8, 8))).astype(np.uint8) * 255
    Image.fromarray(blocks).save(tmp_path / "z.jpg", quality=100)
    label = LoadCased("label", labels=1)({"label": tmp_path / "z.jpg"})["label"]
    assert np.array_equal(label[0], blocks // 255)
