"""A folder that is nearly of a known form is refused with what is to be done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from folder_maker import bids, image, label, pairs, refused_in_one_line, segmentations

from sam_monai.data import read_dataset
from sam_monai.errors import InputError


def table(top: Path, *rows: str, name: str = "list.csv") -> Path:
    (pairs(top, images="a", labels="b") / name).write_text("\n".join(rows))
    return top


def splits(top: Path) -> None:
    for split in ("train", "val"):
        pairs(top / split, 2)


NEARLY = {
    "label misspelt": (lambda t: table(t, "image,lable,patient"),
                       r"list\.csv: has the columns image, lable, patient: did you mean label\?$"),
    "image misspelt": (lambda t: table(t, "Images;mask"), r"has the columns Images, mask: did you mean image\?$"),
    "both longer": (lambda t: table(t, "id,img_path,mask_path"), r"did you mean image and label\?$"),
    "a spreadsheet": (lambda t: table(t, "PK", name="list.xlsx"),
                      r"if list\.xlsx lists the cases, save it as CSV with the columns image and label$"),
    "another folder of images": (lambda t: pairs(t, images="scans", labels="masks", suffix=".nii.gz"),
                                 r"holds masks/ and no images/; if the images are in scans/, rename that to images/"),
    "pairs one level down": (lambda t: pairs(t / "study"), r"/study: looks like a dataset; give that folder$"),
    "pairs two levels down": (lambda t: pairs(t / "some/study") and image(t / "other/a.png"), "me/study: looks like"),
    "splits one level down": (lambda t: splits(t / "study"), r"/study: looks like a dataset"),
    "masks of cases one level down": (lambda t: segmentations(t / "study"), r"/study: looks like a dataset"),
    "BIDS one level down": (lambda t: bids(t / "study"), r"/study: looks like a dataset"),
    "a list one level down": (lambda t: table(t / "study", "image,label", "a/c0.png,b/c0.png"), r"/study: looks like"),
}  # fmt: skip


@pytest.mark.parametrize("form", NEARLY)
def test_what_was_meant_is_said(tmp_path, form):
    refused_in_one_line(tmp_path, *NEARLY[form])


UNKNOWN = {
    "two datasets": lambda t: [pairs(t / "one"), pairs(t / "two")],
    "three levels down": lambda t: pairs(t / "a/b/study"),
    "another table": lambda t: table(t, "case,age,sex"),
    "half a list": lambda t: table(t, "image_id;split"),
    "masks beside two folders": lambda t: [image(t / "x/a.png"), image(t / "y/a.png"), label(t / "masks/a.png")],
}


@pytest.mark.parametrize("form", UNKNOWN)
def test_nothing_is_guessed(tmp_path, form):
    refused_in_one_line(tmp_path, UNKNOWN[form], r"holds no dataset\.json and has no other known form: images/ beside")


def test_a_spreadsheet_that_is_given_by_its_path_is_to_be_saved_as_csv(tmp_path):
    table(tmp_path, "PK", name="list.xlsx")
    with pytest.raises(InputError, match=r"list\.xlsx: is no folder and no list of cases.*; save it as CSV$"):
        read_dataset(tmp_path / "list.xlsx")


def test_a_case_without_an_image_among_others_stays_an_error(tmp_path):
    segmentations(tmp_path)
    (tmp_path / "s0002/images").mkdir()
    shutil.move(tmp_path / "s0002/ct.nii.gz", tmp_path / "s0002/images")
    with pytest.raises(InputError, match="s0002: one image is needed beside segmentations/"):
        read_dataset(tmp_path)
