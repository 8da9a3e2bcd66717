"""A folder of a known form with a mistake in it is refused in one line that names the file and the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folder_maker import SHAPE, bids, image, label, mask, nnunet, pairs, refused_in_one_line, segmentations
from image_files import volume

from sam_monai.data import check_dataset, images_to_segment, read_dataset
from sam_monai.errors import InputError
from sam_monai.inference.outputs import Outputs


def csv(top: Path, *rows: str) -> None:
    pairs(top, images="a", labels="b")
    (top / "list.csv").write_text("\n".join(rows))


def split_file(top: Path, content) -> None:
    (nnunet(top) / "splits_final.json").write_text(json.dumps(content))


def meta(top: Path, *rows: str) -> None:
    (segmentations(top) / "meta.csv").write_text("\n".join(rows))


def without(top: Path, *names: str) -> None:
    for name in names:
        (top / name).unlink()


BAD = {
    "label missing": (lambda t: without(pairs(t), "labels/c2.png"), r"images/c2\.png: has no label;.*testing"),
    "labels missing": (lambda t: without(pairs(t), "labels/c2.png", "labels/c3.png"), "nor have 1 more"),
    "image missing": (lambda t: without(pairs(t), "images/c2.png"), r"labels/c2\.png: no image in .*has this name"),
    "two images": (lambda t: image(pairs(t) / "images" / "c1.jpg"), r"c1\.png: c1\.jpg has the same name"),
    "two labels": (lambda t: label(pairs(t, suffix=".nii.gz") / "labels" / "c1.nii"), r"c1\.nii.gz: c1\.nii has the"),
    "two folders": (lambda t: (pairs(t) / "masks").mkdir(), "masks: lies beside labels/"),
    "other names": (lambda t: pairs(t) and [f.rename(f.with_name(f"x{f.name}")) for f in (t / "labels").iterdir()],
                    r"xc0\.png: no image in .*there is c0.*CSV"),
    "labels of one image": (lambda t: [image(t / "images/a.png"), label(t / "masks/a_seg.png"),
                                       label(t / "masks/a_mask.png")], "same image; list the pairs in a CSV"),
    "beside splits": (lambda t: [image(t / "images/train/a.png"), image(t / "images/b.png"),
                                 label(t / "labels/train/a.png")], r"b\.png: lies beside the folder train"),
    "a split twice": (lambda t: [image(t / f"images/{at}/a.png") and label(t / f"labels/{at}/a.png")
                                 for at in ("train", "val", "dev")], r"images/val: means the same split as dev/"),
    "a split above twice": (lambda t: [image(t / f"{at}/images/a.png") and label(t / f"{at}/masks/a.png")
                                       for at in ("train", "val", "dev")], r"/val: means the same split as dev/"),
    "labels of a split twice": (lambda t: [image(t / "images/train/a.png"), label(t / "labels/train/a.png"),
                                           label(t / "labels/Training/b.png")], "/train: means the same.* Training/"),
    "a split without images": (lambda t: [image(t / "train/images/a.png"), label(t / "train/masks/a.png"),
                                          image(t / "val/imgs/b.png"), label(t / "val/masks/b.png")],
                               r"/val: holds no folder images, as train does"),
    "one case": (lambda t: pairs(t, 1), "add a second case"),
    "unknown suffixes": (lambda t: [(t / d).mkdir() or (t / d / "a.npy").touch() for d in ("images", "labels")],
                         r"no image; known ones end in \.png"),
    "a gap": (lambda t: label(pairs(t) / "labels" / "c3.png", (1, 4)), r"c3\.png: the labels hold the values 1, 2, 4"),
    "a number for each object": (lambda t: pairs(t, 3) and [
                                     label(t / f"labels/c{i}.png", tuple(range(9 * i + 1, 9 * i + 10)), 1)
                                     for i in range(3)],
                                 r"c2\.png: the labels hold 27 values, as masks do that number their objects"),
    "a grey scale": (lambda t: label(pairs(t, 2) / "labels" / "c1.png", (85, 170, 255)), "hold the values 1, 2, 85"),
    "nothing": (lambda t: pairs(t, 2) and [label(t / f"labels/c{i}.png", (0,)) for i in range(2)], "but background"),
    "files and folders": (lambda t: [pairs(t, 2, suffix=".nii.gz"), image(t / "images/d.nii.gz"),
                                     mask(t / "labels/d/liver.nii.gz", 0, 2)], "some labels are files"),
    "nnU-Net: regions": (lambda t: nnunet(t, labels={"background": 0, "whole tumour": [1, 2], "core": 2}),
                         r'dataset\.json.*"regions_class_order" is missing.*write "labels"'),
    "nnU-Net: label missing": (lambda t: without(nnunet(t), "labelsTr/case_1.nii.gz"), "case_1_0000.*: has no label"),
    "nnU-Net: image missing": (lambda t: without(nnunet(t), "imagesTr/case_1_0000.nii.gz"), "no image case_1_0000"),
    "nnU-Net: no number": (lambda t: image(nnunet(t) / "imagesTr" / "case.nii.gz"), "case.nii.gz: its name.*CASE_0000"),
    "nnU-Net: a channel missing": (lambda t: without(nnunet(t, channels=3), "imagesTr/case_2_0001.nii.gz"),
                                   r"case_2 has no file case_2_0001 \(T2\).*--channel 0 --output NEW_FOLDER"),
    "nnU-Net: a test channel": (lambda t: without(nnunet(t, channels=3), "imagesTs/new_0002.nii.gz"), "new_0002"),
    "nnU-Net: channels named": (lambda t: nnunet(t, channel_names={"0": "T1", "1": "T2"}), r"_0001 \(T2\)"),
    "nnU-Net: fewer names": (lambda t: nnunet(t, channels=3, channel_names={"0": "T1", "1": "T2"}),
                             "names the 2 channels T1, T2, and an image has 3 files"),
    "nnU-Net: a name that runs": (lambda t: nnunet(t, channels=2, channel_names={"0": "T1", "1": "$x"}),
                                  r"channel '\$x'"),
    "nnU-Net: split of others": (lambda t: split_file(t, [{"train": [], "val": ["case_9"]}]), "split 0 names 'case_9'"),
    "nnU-Net: split twice": (lambda t: split_file(t, [{"train": [], "val": ["case_1"]}] * 2), "case_1 .* in two"),
    "nnU-Net: split without training": (lambda t: split_file(t, [{"val": ["case_1"]}]), "split 0 is no object"),
    "nnU-Net: split of fewer": (lambda t: split_file(t, [{"train": ["case_0"], "val": ["case_1"]},
                                                         {"train": ["case_1"], "val": ["case_2"]}]),
                                "split 0 lists case_2 neither for training nor for validation, and another"),
    "nnU-Net: split of nothing": (lambda t: split_file(t, [["case_1"]]), "split 0 is no object"),
    "nnU-Net: no splits": (lambda t: split_file(t, {"train": []}), "splits_final.json: must hold one JSON list"),
    "two volumes": (lambda t: image(segmentations(t) / "s0002" / "mr.nii.gz"), r"s0002: one image.*ct\.nii\.gz, mr"),
    "no volume": (lambda t: without(segmentations(t), "s0002/ct.nii.gz"), "s0002: one image is needed.*there is none"),
    "no masks": (lambda t: shutil.rmtree(segmentations(t) / "s0002/segmentations"), r"s0002/ct\.nii\.gz: has no label"),
    "a split of another word": (lambda t: meta(t, "image_id;split", "s0000;train", "s0001;held out"),
                                r"meta\.csv: s0001 has the split 'held out'; known are train, val, test or"),
    "a split of nothing": (lambda t: meta(t, "image_id;split", "s0000;train", "s0001;"), "states no split of s0001"),
    "a case without a split": (lambda t: meta(t, "image_id;split", *(f"s{i:04d};train" for i in range(5))),
                               r"meta\.csv: states no split of s0005"),
    "BIDS: another image": (lambda t: image(bids(t) / "sub-01/anat/sub-01_T2w.nii.gz"),
                            "sub-01 has the images T1w, T2w, and sub-00 has T1w; add.*--channel T1w"),
    "BIDS: two labels": (lambda t: label(bids(t) / "sub-01/anat/sub-01_label-x_mask.nii.gz"), "sub-01 needs one label"),
    "BIDS: no image": (lambda t: without(bids(t), "sub-01/anat/sub-01_T1w.nii.gz"), "one image, and has none"),
    "CSV: split": (lambda t: csv(t, "image,label,split", "a/c0.png,b/c0.png,later"), r"list\.csv: row 2 .*'later'"),
    "CSV: cells": (lambda t: csv(t, "image,label", "a/c0.png,b/c0.png", "a/c1.png"), "row 3 does not fill the columns"),
    "CSV: twice": (lambda t: csv(t, "image,label", *["a/c0.png,b/c0.png"] * 2), r"c0\.png is listed twice"),
    "CSV: no label": (lambda t: csv(t, "image,label", "a/c0.png,b/c0.png", "a/c1.png,"), r"c1\.png: has no label"),
    "CSV: columns": (lambda t: csv(t, "img,mask", "a/c0.png,b/c0.png"), "did you mean image"),
    "datalist: no path": (lambda t: (t / "d.json").write_text('{"training": [{"image": 1}]}'), "entry 0"),
    "datalist: fold": (lambda t: (t / "d.json").write_text('{"training": [{"image": "a", "label": "b", "fold": "x"}]}'),
                       "\"fold\" is 'x'"),
    "nothing known": (lambda t: image(t / "a.png"), r"holds no dataset\.json and has no other known form: images/"),
}  # fmt: skip


@pytest.mark.parametrize("form", BAD)
def test_a_mistake_is_named_in_one_line(tmp_path, form):
    refused_in_one_line(tmp_path, *BAD[form])


@pytest.mark.parametrize("name", ["list.csv", "list.json"])
def test_a_file_that_lists_no_cases_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="known form"):
        read_dataset(tmp_path / name)


def test_masks_that_do_not_fit_are_found_before_training(tmp_path):
    mask(segmentations(tmp_path) / "s0001/segmentations/liver.nii.gz", 2, 5)
    (tmp_path / "s0003/segmentations/kidney_left.nii.gz").unlink()
    volume(tmp_path / "s0004/segmentations/liver.nii.gz", np.ones((4, 4, 2), np.uint8))
    volume(tmp_path / "s0000/segmentations/liver.nii.gz", np.full(SHAPE, 3, np.uint8))
    with pytest.raises(InputError) as error:
        check_dataset(read_dataset(tmp_path))
    lines = str(error.value).splitlines()
    said = ("holds the values 3", "no mask of kidney left", "is 4 x 4 x 2")
    assert len(lines) == 3 and all(any(what in line for line in lines) for what in said)


def test_images_without_a_label_are_those_to_segment(tmp_path):
    without(pairs(tmp_path), "labels/c2.png", "labels/c3.png")
    assert [Path(case["image"]).name for case in images_to_segment(tmp_path)] == ["c2.png", "c3.png"]


def test_results_beside_images_are_no_images_and_no_labels_unless_somebody_corrected_them(tmp_path):
    pairs(tmp_path, 4)
    for i in (2, 3):
        (tmp_path / f"labels/c{i}.png").rename(tmp_path / f"masks{i}.png")
    for folder in ("images", "labels"):
        for i in (2, 3):
            with Outputs(tmp_path / folder).writing(tmp_path / folder / f"c{i}_seg.png", f"c{i}.png") as part:
                label(part)
    assert [Path(case["image"]).name for case in images_to_segment(tmp_path)] == ["c2.png", "c3.png"]
    with pytest.raises(InputError, match=r"c2\.png: has no label, nor have 1 more"):
        read_dataset(tmp_path)
    (tmp_path / "labels/c0.png").rename(tmp_path / "labels/c0_seg.png")
    (tmp_path / "labels/c1.png").rename(tmp_path / "labels/c1_seg.png")
    for i in (2, 3):
        label(tmp_path / f"labels/c{i}_seg.png", (1,))
    assert len(read_dataset(tmp_path).training) == 3


def test_other_files_of_a_folder_of_images_make_it_no_dataset(tmp_path):
    image(tmp_path / "a.png")
    for name, text in {"p.json": '["a"]', "broken.json": "{", "t.csv": "a,b\n1,2", "e.csv": "", "q.json": "{}"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe\0")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nothing")
    assert [Path(case["image"]).name for case in images_to_segment(tmp_path)] == ["a.png"]


def test_a_table_of_splits_that_is_none_is_named(tmp_path):
    (segmentations(tmp_path) / "meta.csv").write_text(f'image_id;split\n"{"x" * 200_000}";train\n')
    with pytest.raises(InputError, match=r"meta\.csv: cannot be read as CSV \(field larger"):
        read_dataset(tmp_path)


def test_a_mask_that_is_a_link_to_nothing_is_no_mask_that_is_missing(tmp_path):
    """As in a DataLad folder whose content was not fetched: to save an empty one would be wrong."""
    file = segmentations(tmp_path) / "s0002/segmentations/liver.nii.gz"
    file.unlink()
    file.symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"s0002/segmentations/liver\.nii\.gz: no such file"):
        check_dataset(read_dataset(tmp_path))
