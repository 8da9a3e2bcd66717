"""Folders as people have them are understood, split in the stated way, and refused by name where they are not right."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_maker import write_series
from folder_maker import bids, image, label, mask, nnunet, pairs, segmentations
from image_files import load_label

from sam_monai.data import LoadCased, check_dataset, images_to_segment, read_dataset
from sam_monai.errors import InputError
from sam_monai.training.cases import contents


def stems(cases) -> list[str]:
    return [Path(case["image"]).name.split(".")[0] for case in cases]


def csv(top: Path, text: str, name: str = "list.csv") -> Path:
    (top / name).write_text(text, encoding="utf-8")
    return top


def listed(top: Path, *columns: str) -> Path:
    """A CSV of the pairs in a folder; each of ``columns`` is a name and a value for each case."""
    rows = [",".join(["image", "label", *(column.partition("=")[0] for column in columns)])]
    pairs(top, images="a", labels="b")
    for i in range(6):
        values = [column.partition("=")[2].split("|")[i] for column in columns]
        rows.append(",".join([f"a/c{i}.png", f"b/c{i}.png", *values]))
    return csv(top, "\n".join(rows))


def datalist(top: Path, **changes) -> Path:
    pairs(top, images="a", labels="b")
    cases = [{"fold": i % 3, "image": f"a/c{i}.png", "label": f"b/c{i}.png"} for i in range(6)]
    content = {"training": cases[:5], "testing": [{"image": "a/c5.png"}], **changes}
    (top / "task.json").write_text(json.dumps(content))
    return top


def bare_nnunet(top: Path) -> Path:
    """Its folders without its dataset.json."""
    (nnunet(top) / "dataset.json").unlink()
    return top


def splits(top: Path) -> Path:
    for part, numbers in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 8))):
        for i in numbers:
            image(top / part / "Images" / f"c{i}.png")
            if part != "test":
                label(top / part / "Masks" / f"c{i}.png")
    return top


def splits_within(top: Path) -> Path:
    for part, numbers in (("train", range(4)), ("val", range(4, 6))):
        for i in numbers:
            image(top / "images" / part / f"c{i}.png")
            label(top / "labels" / part / f"c{i}.png")
    return top


def ends_in_mask(top: Path) -> Path:
    for i in range(6):
        image(top / "images" / f"c_{i:04d}.png")
        label(top / "masks" / f"c_{i:04d}_segmentation.png")
    return top


def begins_with_mask(top: Path) -> Path:
    for i in range(6):
        image(top / "images" / f"c_{i:04d}.png")
        label(top / "masks" / f"mask_c_{i:04d}.png")
    return top


def image_and_mask(top: Path) -> Path:
    for i in range(6):
        image(top / "images" / f"IMG{i}.png")
        label(top / "masks" / f"mask_{i}.png")
    return top


def masks_for_each(top: Path) -> Path:
    """A folder of masks for each image, in the folder of the labels."""
    for i in range(6):
        image(top / "images" / f"c{i}.nii.gz")
        mask(top / "labels" / f"c{i}" / "b.nii.gz", 0, 2)
        mask(top / "labels" / f"c{i}" / "a.nii.gz", 2, 5)
    return top


def series(top: Path) -> Path:
    """A DICOM series for each image, with a label map in NIfTI."""
    for i in range(6):
        volume = np.random.default_rng(i).integers(1, 255, (9, 8, 3)).astype(np.int16)
        write_series(top / "images" / f"c{i}", volume, np.eye(4))
        label(top / "labels" / f"c{i}.nii.gz")
        header = LoadCased("image")({"image": f"{top}/images/c{i}"})["image"]
        values = nibabel.load(top / "labels" / f"c{i}.nii.gz").get_fdata()
        turned = values.reshape(header.shape[1:]).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(turned, header.affine.numpy()), top / "labels" / f"c{i}.nii.gz")
    return top


def with_meta(top: Path) -> Path:
    """The table of TotalSegmentator's data."""
    words = ("train", "Train", "Val ", "train", "Test", "train")
    rows = "\n".join(f"s{i:04d};60;{word}" for i, word in enumerate(words))
    return csv(segmentations(top), f"image_id;age;split\n{rows}", "meta.csv")


def semicolons(top: Path) -> Path:
    """As a spreadsheet in some languages saves it, with a mark at the beginning and empty rows."""
    pairs(top, images="a", labels="b")
    rows = [f"a/c{i}.png;b/c{i}.png;{'validation' if i == 1 else 'Train'}" for i in range(6)]
    return csv(top, "\ufeffImage;Label;Split\r\n" + "\r\n".join(rows) + "\r\n;;\r\n")


def folds(top: Path) -> Path:
    names = [f"case_{i}" for i in range(6)]
    split = [{"train": [n for n in names if n not in val], "val": val} for val in (names[:2], names[2:4], names[4:])]
    (nnunet(top) / "splits_final.json").write_text(json.dumps(split))
    return top


FIFTH, TWO = ["c4"], ("label 1", "label 2")
FORMS = {
    "nnU-Net": (nnunet, ("liver", "tumour"), ["case_4_0000"], ["new_0000"], "nnU-Net's raw.*every fifth"),
    "its splits": (folds, ("liver", "tumour"), ["case_0_0000", "case_1_0000"], ["new_0000"], "splits_final.*fold 0"),
    "its folders": (bare_nnunet, TWO, ["case_4_0000"], ["new_0000"], "imagesTr/ with labelsTr/.*every fifth"),
    "pairs": (pairs, TWO, FIFTH, [], "images/ with labels/.*every fifth.*c4"),
    "volumes": (lambda top: pairs(top, labels="masks", suffix=".nii.gz"), TWO, FIFTH, [], "images/ with masks/"),
    "Decathlon": (lambda top: pairs(top, 3, "imagesTr", "labelsTr"), TWO, ["c2"], [], "imagesTr/.*the last case"),
    "splits": (splits, TWO, ["c4", "c5"], ["c6", "c7"], "train/Images/ with train/Masks/.*the split is stated"),
    "splits within": (splits_within, TWO, ["c4", "c5"], [], "images/train/.*the split is stated"),
    "names with a beginning": (begins_with_mask, TWO, ["c_0004"], [], "images/ with masks/"),
    "names with two beginnings": (image_and_mask, TWO, ["IMG4"], [], "images/ with masks/"),
    "names with an end": (ends_in_mask, TWO, ["c_0004"], [], "images/ with masks/"),
    "masks for each": (masks_for_each, ("a", "b"), FIFTH, [], "images/ with labels/"),
    "DICOM": (series, TWO, FIFTH, [], "images/ with labels/"),
    "TotalSegmentator": (segmentations, ("kidney left", "liver"), ["ct"], [], "a mask for each label.*every fifth"),
    "its table": (with_meta, ("kidney left", "liver"), ["ct"], ["ct"], "the split is stated"),
    "BIDS": (bids, TWO, ["sub-04_T1w"], [], "BIDS.*every fifth"),
    "CSV": (listed, TWO, FIFTH, [], r"list\.csv.*every fifth"),
    "CSV with words": (semicolons, TWO, ["c1"], [], "the split is stated"),
    "CSV with folds": (lambda top: listed(top, "split=1|1|0|0|2|2"), TWO, ["c2", "c3"], [], "fold 0 validates"),
    "datalist": (datalist, TWO, ["c0", "c3"], ["c5"], r"task\.json.*fold 0 validates"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_is_understood_and_one_line_says_how(tmp_path, caplog, form):
    make, labels, validation, tests, said = FORMS[form]
    make(tmp_path)
    with caplog.at_level(logging.INFO):
        dataset = read_dataset(tmp_path)
    (line,) = [message for message in caplog.messages if "labelled images" in message]
    assert re.search(said, line) and ", ".join(labels) in line and "\n" not in line
    assert dataset.labels == labels
    assert stems(dataset.validation) == validation and stems(dataset.test) == tests
    assert not {c["image"] for c in dataset.training} & {c["image"] for c in [*dataset.validation, *dataset.test]}
    assert check_dataset(dataset) == []
    assert read_dataset(tmp_path) == dataset
    if dataset.labels == TWO:
        assert any("S-SAM prompts by name" in message for message in caplog.messages)
    segmented = dataset.test or dataset.validation
    assert [case["image"] for case in images_to_segment(tmp_path)] == [case["image"] for case in segmented]


def test_cases_that_no_split_of_nnunet_lists_are_left_out_and_named(tmp_path, caplog):
    split = [{"train": ["case_0", "case_1"], "val": ["case_2"]}]
    (nnunet(tmp_path) / "splits_final.json").write_text(json.dumps(split))
    dataset = read_dataset(tmp_path)
    assert stems(dataset.training) == ["case_0_0000", "case_1_0000"] and stems(dataset.validation) == ["case_2_0000"]
    assert "splits_final.json: 3 cases in none of its splits left out: case_3, case_4, case_5" in caplog.text


def test_a_table_that_states_no_splits_leaves_them_open(tmp_path):
    csv(segmentations(tmp_path), "image_id;age\ns0000;60", "meta.csv")
    assert len(read_dataset(tmp_path).validation) == 1


def test_cases_with_a_folder_each_are_told_by_it(tmp_path, caplog):
    for file in segmentations(tmp_path).glob("s000[01]/segmentations/*.nii.gz"):
        mask(file, 0, 0)
    with caplog.at_level(logging.INFO):
        dataset = read_dataset(tmp_path)
        check_dataset(dataset)
    assert dataset.reserved == ("s0004/ct.nii.gz",) and "(s0004/ct.nii.gz). Labels" in caplog.text
    assert "nothing but background: s0000/segmentations, s0001/segmentations" in caplog.text
    assert [case[0] for case in contents(dataset.training)][:2] == ["s0000/ct.nii.gz", "s0001/ct.nii.gz"]


def test_the_kind_of_the_images_is_taken_from_names_where_they_tell(tmp_path):
    assert read_dataset(nnunet(tmp_path / "n")).intensity == "ct"
    assert read_dataset(segmentations(tmp_path / "s")).intensity == "ct"
    assert read_dataset(bids(tmp_path / "b")).intensity == "mr"


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("index\tname\n0\tbackground\n1\tliver\n2\ttumour\n", ("liver", "tumour")),
        ("index\tname\tcolor\n1\tliver\t#ff0000\n2\ttumour\t#00ff00\n", ("liver", "tumour")),
        ("index\tname\n1\tliver\n17\thippocampus\n", TWO),  # an atlas, of which the masks hold something else
        ("index\tname\n1\tliver\n2\t\n", TWO),
        ("", TWO),
    ],
)
def test_the_table_of_a_bids_folder_names_its_labels(tmp_path, table, names):
    (bids(tmp_path) / "dseg.tsv").write_text(table)
    assert read_dataset(tmp_path).labels == names


def test_sessions_of_a_subject_are_on_one_side_of_the_split(tmp_path, caplog):
    for subject in range(3):
        for session in ("a", "b", "c"):
            name = f"sub-{subject}_ses-{session}"
            image(tmp_path / f"sub-{subject}/ses-{session}/anat/{name}_T1w.nii.gz")
            label(tmp_path / f"derivatives/sub-{subject}/ses-{session}/anat/{name}_dseg.nii.gz")
    with caplog.at_level(logging.INFO):
        dataset = read_dataset(tmp_path)
    assert {stem[:5] for stem in stems(dataset.validation)} == {"sub-2"} and len(dataset.validation) == 3
    assert {stem[:5] for stem in stems(dataset.training)} == {"sub-0", "sub-1"} and "the last subject" in caplog.text
    assert {stem[:5] for stem in stems(read_dataset(tmp_path, fold=0).validation)} == {"sub-0"}


def test_nnunets_first_version_lists_files_that_have_other_names(tmp_path):
    listed = [{"image": f"./imagesTr/case_{i}.nii.gz", "label": f"./labelsTr/case_{i}.nii.gz"} for i in range(6)]
    named = {"0": "background", "1": "liver", "2": "tumour"}
    nnunet(tmp_path, training=listed, modality={"0": "CT"}, labels=named, channel_names=None, file_ending=None)
    dataset = read_dataset(tmp_path)
    assert check_dataset(dataset) == [] and dataset.intensity == "ct" and len(dataset.training) == 5


def test_what_lies_beside_images_and_may_be_one_is_named(tmp_path, caplog):
    for name in ("c9.gif", "notes.txt", ".c8.png"):
        (pairs(tmp_path) / "images" / name).touch()
    read_dataset(tmp_path)
    (line,) = [message for message in caplog.messages if "left out" in message]
    assert "1 file such as c9.gif" in line


def test_a_decathlon_list_is_read_as_ever_whatever_else_lies_there(tmp_path):
    image(pairs(tmp_path, 3, "imagesTr", "labelsTr") / "imagesTr/c1.jpg")
    cases = [{"image": f"imagesTr/c{i}.png", "label": f"labelsTr/c{i}.png"} for i in range(3)]
    content = {"labels": {"0": "background", "1": "a", "2": "b"}, "numTraining": 2, "training": cases[:2]}
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"validation": cases[2:]}))
    assert stems(read_dataset(tmp_path).training) == ["c0", "c1"]


def test_every_fold_of_a_folder_without_a_split_validates_other_cases(tmp_path):
    pairs(tmp_path, 10)
    held = [stems(read_dataset(tmp_path, fold=fold).validation) for fold in range(5)]
    assert held == [[f"c{i}", f"c{i + 5}"] for i in range(5)]
    assert stems(read_dataset(tmp_path).validation) == held[4]
    assert read_dataset(tmp_path).reserved == ("c4.png", "c9.png")


def test_a_list_may_be_named_by_its_path(tmp_path):
    csv(listed(tmp_path), "image,label\na/c0.png,b/c0.png\na/c1.png,b/c1.png", "second.csv")
    assert len(read_dataset(tmp_path / "list.csv").training) == 5
    assert stems(images_to_segment(tmp_path / "second.csv")) == ["c1"]
    with pytest.raises(InputError, match=r"several lists.*list\.csv, second\.csv"):
        read_dataset(tmp_path)


def test_masks_of_each_label_become_one_label_map_in_the_order_of_the_names(tmp_path):
    segmentations(tmp_path, 1, ("liver", "kidney_left", "spleen"))
    folder = tmp_path / "s0000" / "segmentations"
    merged = load_label(folder, ["Kidney left", "liver"])
    expected = np.zeros((9, 8, 3))
    expected[:3], expected[3:6] = 2, 1
    assert np.array_equal(merged[0], expected)
    mask(folder / "liver.nii.gz", 2, 4)
    with pytest.raises(InputError, match=r"liver\.nii\.gz: overlaps with kidney_left\.nii\.gz in 24 voxels"):
        load_label(folder, ["kidney left", "liver"])
    with pytest.raises(InputError, match="holds no mask of pancreas"):
        load_label(folder, ["liver", "pancreas"])
    mask(folder / "kidney left.nii.gz", 0, 1)
    with pytest.raises(InputError, match="mask of 'kidney left' too"):
        load_label(folder, ["liver"])


def test_a_mask_of_0_and_255_is_one_label(tmp_path):
    for i in range(3):
        image(tmp_path / "images" / f"{i}.png")
        label(tmp_path / "masks" / f"{i}.png", (255,))
    dataset = read_dataset(tmp_path)
    assert dataset.labels == ("label 1",) and check_dataset(dataset) == []


def test_what_is_in_a_folder_of_masks_tells_cases_apart(tmp_path):
    dataset = read_dataset(segmentations(tmp_path))
    before = contents(dataset.training)
    mask(tmp_path / "s0000" / "segmentations" / "liver.nii.gz", 0, 1)
    changed = [a != b for a, b in zip(before, contents(dataset.training), strict=True)]
    assert changed == [True, False, False, False, False]
