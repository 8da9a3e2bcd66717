"""What is wrong with the files of a list is told as a mistake of the list."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from folder_maker import pairs
from image_files import volume

from sam_monai.data import check_dataset, read_dataset
from sam_monai.errors import InputError


def table(top: Path, *changes: tuple[str, str], number: int = 6) -> Path:
    """Pairs in a CSV, in which some names are others."""
    rows = [f"images/c{i}.nii.gz,labels/c{i}.nii.gz" for i in range(number)]
    pairs(top, number, suffix=".nii.gz")
    text = "\n".join(["image,label", *rows])
    for old, new in changes:
        text = text.replace(old, new)
    (top / "list.csv").write_text(text)
    return top / "list.csv"


def said(file: Path) -> list[str]:
    with pytest.raises(InputError) as error:
        check_dataset(read_dataset(file))
    return str(error.value).replace(f"{file.parent}/", "").splitlines()


def test_a_file_that_is_not_there_is_named_with_its_row(tmp_path):
    file = table(tmp_path)
    (tmp_path / "images/c3.nii.gz").unlink()
    assert said(file) == ["images/c3.nii.gz: no such file; copy it there or correct row 5 of list.csv"]
    (tmp_path / "labels/c0.nii.gz").unlink()
    assert said(file) == [
        "labels/c0.nii.gz: no such file; copy it there or correct row 2 of list.csv",
        "images/c3.nii.gz: no such file; copy it there or correct row 5 of list.csv",
    ]


def test_a_name_that_is_nearly_that_of_a_file_is_shown_it(tmp_path):
    file = table(tmp_path, ("images/c3.nii.gz", "images/c3.nii"), ("labels/c4.nii.gz", "labels/C4_.nii.gz"))
    assert [line.partition("list.csv")[2] for line in said(file)] == [" (there is c3.nii.gz)", " (there is c4.nii.gz)"]


def test_many_files_that_are_not_there_are_counted(tmp_path):
    lines = said(table(tmp_path, ("labels/", "masks/"), number=25))
    assert len(lines) == 21 and "correct row 2 of list.csv" in lines[0] and lines[-1] == "and 5 more"


def test_a_file_that_cannot_be_read_is_named_with_its_row(tmp_path):
    file = table(tmp_path)
    for name, row in (("images/c5.nii.gz", 7), ("labels/c4.nii.gz", 6)):
        (tmp_path / name).write_bytes(b"")
        line = said(file)[0]
        assert line.startswith(f"{name}: cannot be read") and line.endswith(f"or correct row {row} of list.csv")


def test_a_datalist_is_called_by_its_name(tmp_path):
    pairs(tmp_path, images="a", labels="b")
    cases = [{"fold": i % 3, "image": f"a/c{i}.png", "label": f"b/c{i}.png"} for i in range(6)]
    labels = {"0": "background", "1": "x", "2": "y"}
    (tmp_path / "task.json").write_text(json.dumps({"labels": labels, "training": cases}))
    (tmp_path / "a/c1.png").unlink()
    assert said(tmp_path / "task.json") == ["a/c1.png: no such file; copy it there or correct its entry in task.json"]


SWAPPED = (
    "images/c{0}.nii.gz: looks like a label map, and its label labels/c{0}.nii.gz like a scan: image and label seem"
)


@pytest.mark.parametrize("whole", [False, True])
def test_image_and_label_that_are_swapped_are_named(tmp_path, whole):
    file, rng = table(tmp_path), np.random.default_rng(0)
    mask = np.kron(np.arange(9).reshape(3, 3) % 3, np.ones((8, 8)))[..., None].repeat(4, 2).astype(np.uint8)
    for i in range(6):
        scan = rng.integers(0, 200, mask.shape) if whole else rng.normal(0, 300, mask.shape)
        volume(tmp_path / f"labels/c{i}.nii.gz", scan.astype(np.float32))
        volume(tmp_path / f"images/c{i}.nii.gz", mask)
    assert [line[: len(SWAPPED) - 4] for line in said(file)] in ([SWAPPED.format(i)] for i in range(6))
    labels = {"0": "background", "1": "x", "2": "y"}
    cases = [{"image": f"images/c{i}.nii.gz", "label": f"labels/c{i}.nii.gz"} for i in range(6)]
    content = {"labels": labels, "training": cases[:5], "validation": cases[5:]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    lines = said(tmp_path / "dataset.json")
    assert [line[: len(SWAPPED) - 4] for line in lines] == [SWAPPED.format(i) for i in range(6)]
