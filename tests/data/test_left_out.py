"""What lies beside the cases of a folder, or contradicts them, is told or refused, and never passed over."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_maker import AFFINE as DICOM_AFFINE
from dicom_maker import blob, write_series
from folder_maker import bids, image, label, mask, nnunet, pairs, refused_in_one_line, segmentations
from image_files import AFFINE, volume

from sam_monai.data import check_dataset, images_to_segment, read_dataset
from sam_monai.data.folders import understand
from sam_monai.errors import InputError


def scan(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(exist_ok=True)
    volume(path, array, affine)


def table(top: Path, *rows: str, name: str = "list.csv") -> Path:
    (pairs(top) / name).write_text("\n".join(rows))
    return top / name


def listing(top: Path, **changes) -> Path:
    """A Decathlon list of the cases of two folders."""
    pairs(top, images="imagesTr", labels="labelsTr")
    cases = [{"image": f"imagesTr/c{i}.png", "label": f"labelsTr/c{i}.png"} for i in range(6)]
    labels = {"0": "background", "1": "a", "2": "b"}
    (top / "dataset.json").write_text(json.dumps({"labels": labels, "training": cases, **changes}))
    return top


def rows_of(part: str) -> list[str]:
    return [f"images/c{i}.png,labels/c{i}.png,{part if i > 3 else 'train'}" for i in range(6)]


REFUSED = {
    "a list beside pairs": (lambda t: table(t, "image,label,split", *rows_of("test")), "list.csv beside them is not"),
    "tables beside pairs": (lambda t: [(pairs(t) / f"{name}.csv").write_text("image,label\n")
                                       for name in ("train", "test")], "test.csv beside them is not"),
    "words beside pairs": (lambda t: (pairs(t) / "test.txt").write_text("c4\nc5"), "test.txt beside them is not read"),
    "nnU-Net's splits beside pairs": (lambda t: (pairs(t) / "splits_final.json").write_text("[]"), "splits_final.json"),
    "a folder of pictures": (lambda t: [image(t / f"images/p{i}/{k}.png") and label(t / f"masks/p{i}/{k}.png")
                                        for i in range(3) for k in range(4)],
                             r"images/p0: is a folder of 4 images.*column.*patient|images/p0: is a folder of 4 images"),
    "labels of another program": (lambda t: [image(t / f"images/{i}.png") for i in range(3)]
                                  and [(t / "labels").mkdir(), (t / "labels/0.txt").touch()],
                                  r"labels: holds no mask but 0\.txt"),
    "two images beside masks": (lambda t: [image(at / "second.nii.gz") for at in segmentations(t).iterdir()
                                           if at.is_dir()], "one image is needed beside segmentations/"),
    "a lesion mask among BIDS": (lambda t: [image(f.with_name(f.name.replace("_T1w", "_lesion")))
                                            for f in bids(t).rglob("*_T1w.nii.gz")], "lesion is taken for an image"),
    "BIDS without labels": (lambda t: [f.rename(f.with_name(f.name.replace("_dseg", "_msk")))
                                       for f in bids(t).rglob("*_dseg.nii.gz")], "labels of BIDS end in _dseg"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_mean_another_split_or_label_is_refused(tmp_path, name):
    refused_in_one_line(tmp_path, *REFUSED[name])


@pytest.mark.parametrize("word, column", [("holdout", "subset"), ("external", "part")])
def test_a_column_of_a_split_with_an_unknown_word_is_refused(tmp_path, word, column):
    pairs(tmp_path, images="a", labels="b")
    rows = [row.replace("images/", "a/").replace("labels/", "b/") for row in rows_of(word)]
    (tmp_path / "list.csv").write_text("\n".join([f"image,label,{column}", *rows]))
    with pytest.raises(InputError, match=rf"column {column} seems.*'{word}'"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("column", ["is_test", "kfold", "Test set"])
def test_a_column_that_seems_to_name_a_split_is_not_passed_over(tmp_path, column):
    refused_in_one_line(
        tmp_path,
        lambda t: [
            pairs(t, images="a", labels="b"),
            (t / "l.csv").write_text(
                "\n".join([f"image,label,{column}", "a/c0.png,b/c0.png,1", "a/c1.png,b/c1.png,0"])
            ),
        ],
        rf"column {column.lower()} is not read",
    )


def test_a_column_named_mask_is_the_label(tmp_path):
    file = table(tmp_path, "image,mask", *[f"images/c{i}.png,labels/c{i}.png" for i in range(6)])
    assert len(read_dataset(file).training) == 5


TOLD: dict[str, tuple[Callable[[Path], Path | None], str]] = {
    "another folder": (lambda t: [image(pairs(t) / f"1st_manual/c{i}.png") for i in range(6)] and None,
                       "1st_manual: is not read"),
    "another split": (lambda t: [image(pairs(t) / f"imagesVa/c{i}.png") for i in range(2)] and None,
                      "imagesVa: is not read"),
    "a number of cases": (lambda t: listing(t, numTraining=60), '"numTraining" is 60, and there are 6'),
    "nnU-Net's number of cases": (lambda t: nnunet(t, numTraining=60), '"numTraining" is 60, and there are 6'),
    "an unlisted image": (lambda t: image(listing(t) / "imagesTr/other.png") and None, "1 image beside those that it"),
    "a test image that is trained on": (lambda t: listing(t, test=["imagesTr/c0.png"]), "c0.png for testing, too"),
    "a patient on both sides": (lambda t: table(t.joinpath("x"), "image,label,split,patient",
                                                *[f"{row},p{i % 3}" for i, row in enumerate(rows_of("val"))]),
                                "2 patients are on both sides of the split, such as p"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_what_is_left_out_or_leaks_is_told(tmp_path, caplog, name):
    (tmp_path / "x").mkdir()
    make, said = TOLD[name]
    read_dataset(make(tmp_path / "x") or tmp_path / "x") if name != "a patient on both sides" else read_dataset(
        make(tmp_path)
    )
    assert re.search(said, caplog.text), caplog.text


def test_plain_folders_are_read_without_a_warning_of_what_is_left_out(tmp_path, caplog):
    for number, make in enumerate((pairs, listing, nnunet, bids, segmentations)):
        (tmp_path / str(number)).mkdir()
        read_dataset(make(tmp_path / str(number)))
    assert not re.search("is not read|beside those|numTraining|both sides", caplog.text)


def test_paths_as_windows_writes_them_are_found(tmp_path):
    listing(tmp_path)
    file = tmp_path / "dataset.json"
    file.write_text(file.read_text().replace("Tr/", "Tr\\\\"))
    assert all(Path(case["image"]).is_file() for case in read_dataset(tmp_path).training)


def test_names_that_differ_in_unicode_s_form_and_slicer_s_suffix_are_pairs(tmp_path):
    for i in range(3):
        image(tmp_path / "images" / f"{unicodedata.normalize('NFC', 'Müller')} {i}.png")
        label(tmp_path / "labels" / f"{unicodedata.normalize('NFD', 'Müller')} {i}.png")
    assert len(read_dataset(tmp_path).training) == 2
    for i in range(3):
        image(tmp_path / "s/images" / f"c{i}.nii.gz")
        label(tmp_path / "s/labels" / f"c{i}.seg.nii.gz")
    assert len(read_dataset(tmp_path / "s").training) == 2


def test_the_split_of_participants_is_that_of_a_bids_folder(tmp_path):
    bids(tmp_path)
    names = sorted(at.name for at in tmp_path.iterdir() if at.name.startswith("sub-"))
    rows = [f"{name}\t{'val' if name == names[0] else 'train'}" for name in names]
    (tmp_path / "participants.tsv").write_text("\n".join(["participant_id\tsplit", *rows]))
    dataset = read_dataset(tmp_path)
    assert dataset.validation and all(names[0] in case["image"] for case in dataset.validation)
    assert not any(names[0] in case["image"] for case in dataset.training)


def test_the_folds_of_nnunet_s_splits_are_those_of_a_decathlon_list_beside_them(tmp_path):
    listing(tmp_path)
    splits = [
        {"train": [f"c{i}" for i in range(6) if i % 3 != k], "val": [f"c{i}" for i in (k, k + 3)]} for k in range(3)
    ]
    (tmp_path / "splits_final.json").write_text(json.dumps(splits))
    dataset = read_dataset(tmp_path, fold=1)
    assert sorted(Path(case["image"]).stem for case in dataset.validation) == ["c1", "c4"]


def test_a_folder_is_segmented_again_wherever_its_masks_went(tmp_path):
    """They are no labels of another program, nor BIDS' own."""
    for i in range(2):
        image(tmp_path / f"images/a{i}.nii.gz")
        label(tmp_path / f"masks/a{i}_seg.nii.gz")
        image(tmp_path / f"bids/sub-0{i}/anat/sub-0{i}_T1w.nii.gz")
        label(tmp_path / f"bids/out/sub-0{i}_T1w_seg.nii.gz")
    assert len(images_to_segment(tmp_path / "images")) == 2
    understand(tmp_path), understand(tmp_path / "bids")


def test_splits_of_other_names_leave_a_decathlon_list_as_it_is(tmp_path, caplog):
    listing(tmp_path)
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["x", "y"], "val": ["z"]}]))
    dataset = read_dataset(tmp_path)
    assert len(dataset.training) + len(dataset.validation) == 6 and "is not read" in caplog.text


def test_channels_in_another_order_or_of_another_patient_are_refused(tmp_path):
    for i in range(4):
        for name in ("T1", "T2"):
            image(tmp_path / f"r{i}_{name}.nii.gz")
        label(tmp_path / f"l{i}.nii.gz")

    def problems(**changed) -> str:
        cases = [{"image": [f"r{i}_T1.nii.gz", f"r{i}_T2.nii.gz"], "label": f"l{i}.nii.gz"} for i in range(4)]
        cases[2] |= changed
        content = {"labels": {"0": "background", "1": "a", "2": "b"}, "training": cases[1:], "validation": cases[:1]}
        content |= {"channel_names": {"0": "T1", "1": "T2"}}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        try:
            return "; ".join(check_dataset(read_dataset(tmp_path)))
        except InputError as error:
            return str(error)

    assert not problems()
    image(tmp_path / "r2_ax_T1.nii.gz"), image(tmp_path / "r2_T2_to_T1.nii.gz")
    assert not problems(image=["r2_ax_T1.nii.gz", "r2_T2_to_T1.nii.gz"])
    assert "r2_T2.nii.gz: is listed as the channel t1" in problems(image=["r2_T2.nii.gz", "r2_T1.nii.gz"])
    assert "files of several images" in problems(image=["r2_T1.nii.gz", "r3_T2.nii.gz"])


def test_labels_with_the_number_of_another_image_are_named(tmp_path):
    for i in (1, 2, 10, 11):
        image(tmp_path / f"volume-{i}.nii.gz")
        label(tmp_path / f"segmentation-{i}.nii.gz")

    def notes(order: list[int]) -> list[str]:
        cases = [{"image": f"volume-{i}.nii.gz", "label": f"segmentation-{k}.nii.gz"} for i, k in
                 zip((1, 2, 10, 11), order, strict=True)]  # fmt: skip
        content = {"labels": {"0": "background", "1": "a", "2": "b"}, "training": cases[1:], "validation": cases[:1]}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        return check_dataset(read_dataset(tmp_path))

    assert not notes([1, 2, 10, 11])
    assert sum("by whose number it is another's" in note for note in notes([1, 10, 11, 2])) == 3


def test_dicom_of_one_patient_stays_on_one_side_and_a_ct_is_one(tmp_path):
    for i in range(6):
        write_series(tmp_path / f"images/c{i}", blob((8, 9, 4), i), DICOM_AFFINE, PatientID=f"p{i // 2}")
        scan(tmp_path / f"labels/c{i}.nii.gz", np.ones((8, 9, 4), np.uint8), DICOM_AFFINE)
    dataset = read_dataset(tmp_path)
    assert [Path(case["image"]).name for case in dataset.validation] == ["c4", "c5"] and dataset.intensity == "ct"


@pytest.mark.parametrize(
    "rows, said",
    [
        (lambda i: f"images/c{i}.png,labels/c{i}.png,p{i // 2}", "names patients; give the path of that list"),
        (lambda i: f"images/c{min(i, 4)}.png,labels/c{i}.png," if i != 4 else "", "lists other cases"),
        (lambda i: f"images/c{i}.png,labels/c{i}.png,", None),
    ],
)
def test_a_list_beside_the_folders_that_says_more_is_refused_and_not_passed_over(tmp_path, rows, said):
    lines = [line for i in range(6) if (line := rows(i))]
    (pairs(tmp_path) / "list.csv").write_text("\n".join(["image,label,patient", *lines, ""]))
    if said is None:
        assert len(read_dataset(tmp_path).training) == 5
    else:
        with pytest.raises(InputError, match=said):
            read_dataset(tmp_path)


@pytest.mark.parametrize(
    "header, row",
    [("image,label", "{i}.png,benign"), ("image,label,patient_id", "images/c{i}.png,labels/c{i}.png,p{i}"),
     ("image,label,patient", "/elsewhere/c{i}.png,/elsewhere/l{i}.png,p0")],
)  # fmt: skip
def test_a_table_beside_the_folders_that_changes_nothing_is_passed_over(tmp_path, header, row):
    (pairs(tmp_path) / "findings.csv").write_text("\n".join([header, *(row.format(i=i) for i in range(6)), ""]))
    assert len(read_dataset(tmp_path).training) == 5


def test_one_patient_id_in_all_headers_is_no_patient(tmp_path, caplog):
    for part, number in (("train", 3), ("val", 2)):
        for i in range(number):
            write_series(tmp_path / f"{part}/images/c{i}", blob((8, 9, 4), i), DICOM_AFFINE, PatientID="ANON")
            (tmp_path / part / "labels").mkdir(exist_ok=True)
            volume(tmp_path / f"{part}/labels/c{i}.nii.gz", np.ones((8, 9, 4), np.uint8), DICOM_AFFINE)
    read_dataset(tmp_path)
    assert "both sides" not in caplog.text


def test_a_list_beside_the_folders_that_seems_to_state_a_split_is_refused(tmp_path):
    rows = [f"images/c{i}.png,labels/c{i}.png,{i % 2}" for i in range(6)]
    (pairs(tmp_path) / "list.csv").write_text("\n".join(["image,label,is_test", *rows, ""]))
    with pytest.raises(InputError, match="the column is_test is not read"):
        read_dataset(tmp_path)


def test_two_masks_whose_names_differ_in_letter_case_alone_are_refused(tmp_path):
    mask(segmentations(tmp_path, 2, ("liver",)) / "s0000/segmentations/Liver.nii.gz", 5, 9)
    with pytest.raises(InputError, match=r"liver\.nii\.gz: Liver\.nii\.gz is a mask of 'liver' too"):
        read_dataset(tmp_path)


def test_a_patient_of_dicom_images_on_both_sides_of_a_stated_split_is_named(tmp_path, caplog):
    for part, number in (("train", 3), ("val", 2)):
        for i in range(number):
            write_series(tmp_path / f"{part}/images/c{i}", blob((8, 9, 4), i), DICOM_AFFINE, PatientID=f"p{i}")
            (tmp_path / part / "labels").mkdir(exist_ok=True)
            volume(tmp_path / f"{part}/labels/c{i}.nii.gz", np.ones((8, 9, 4), np.uint8), DICOM_AFFINE)
    read_dataset(tmp_path)
    assert "2 patients are on both sides of the split, such as p0 in training and validation" in caplog.text
