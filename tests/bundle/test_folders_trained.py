"""A folder in another form goes through training, evaluation and inference without being rewritten."""

from __future__ import annotations

import csv
import json

import numpy as np
from bundle_runner import SMALL, run
from dicom_maker import AFFINE, blob, write_segmentation, write_series
from folder_maker import segmentations

from sam_monai.data import LoadCased


def test_a_folder_of_masks_is_trained_on_evaluated_and_segmented(tmp_path):
    data = segmentations(tmp_path / "data")
    before = sorted(data.rglob("*"))
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/models"}
    run("ptsam", "train", output_dir=f"{tmp_path}/trained", **where, **(SMALL | {"epochs": 1}))
    run("ptsam", "train", "evaluate", output_dir=f"{tmp_path}/evaluated", **where)
    with (tmp_path / "evaluated/cases.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["kidney left", "liver"] and all(row["dice"] for row in rows)
    out = tmp_path / "masks"
    run("ptsam", "inference", dataset_dir=str(data), adapter=f"{tmp_path}/models/model.pt", output_dir=str(out))
    (record,) = [json.loads(file.read_text()) for file in (out / "manifest").rglob("*.json")]
    assert record["image"] == f"{data}/s0004/ct.nii.gz" and record["mask"] == "s0004/ct_seg.nii.gz"
    assert sorted(data.rglob("*")) == before


def test_dicom_series_with_dicom_segs_as_labels_are_trained_on_and_evaluated(tmp_path):
    data, cases = tmp_path / "data", []
    for i in range(3):
        array = blob((16, 16, 6), seed=i)
        files = write_series(data / f"s{i}", array, AFFINE)
        image = LoadCased("image")({"image": str(data / f"s{i}")})["image"]
        mask = (np.asarray(image[0]) > np.median(image)).astype(np.uint8)
        write_segmentation(mask, np.asarray(image.affine), files[0], ["bright"], data / f"seg{i}.dcm")
        cases.append({"image": f"s{i}", "label": f"seg{i}.dcm"})
    content = {"labels": {"0": "background", "1": "bright"}, "modality": {"0": "CT"}, "training": cases[:2]}
    (data / "dataset.json").write_text(json.dumps({**content, "validation": cases[2:]}))
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/models"}
    run("ptsam", "train", output_dir=f"{tmp_path}/trained", **where, **(SMALL | {"epochs": 1}))
    run("ptsam", "train", "evaluate", output_dir=f"{tmp_path}/evaluated", **where)
    assert (tmp_path / "models/model.pt").is_file() and (tmp_path / "evaluated/report.html").is_file()
