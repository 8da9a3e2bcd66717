"""A folder in another form goes through training, evaluation and inference without being rewritten."""

from __future__ import annotations

import csv
import json

from bundle_runner import SMALL, run
from folder_maker import segmentations


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
