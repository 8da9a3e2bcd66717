"""Figures that the docs promise, on labelled images that are not part of this repository."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from bundle_runner import run

DATA = os.environ.get("SAM_MONAI_TEST_DATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.outside_data,
    pytest.mark.skipif(DATA is None, reason="SAM_MONAI_TEST_DATA names no folder"),
    pytest.mark.timeout(1800),
]


def mean_dice(folder: Path) -> float:
    rows = list(csv.DictReader((folder / "cases.csv").open()))
    return sum(float(row["dice"]) for row in rows) / len(rows)


def test_sixteen_pictures_make_a_polyp_specialist(tmp_path):
    run("ssam", "train", dataset_dir=f"{DATA}/polyp", image_size=128, epochs=36, train_cases=16,
        ckpt_dir=f"{tmp_path}/m", output_dir=f"{tmp_path}/o")  # fmt: skip
    assert mean_dice(tmp_path / "o") > 0.8


def test_sixteen_pictures_and_2048_numbers_make_a_polyp_specialist(tmp_path):
    run("ptsam", "train", dataset_dir=f"{DATA}/polyp", image_size=128, epochs=40, train_cases=16,
        ckpt_dir=f"{tmp_path}/m", output_dir=f"{tmp_path}/o", embedding_cache=f"{tmp_path}/e")  # fmt: skip
    assert mean_dice(tmp_path / "o") > 0.68


def test_two_labels_in_volumes_train_and_evaluate(tmp_path):
    where = {"dataset_dir": f"{DATA}/hippocampus", "ckpt_dir": f"{tmp_path}/m", "image_size": 64}
    run("ssam", "train", epochs=8, output_dir=f"{tmp_path}/o", **where)
    run("ssam", "train", "evaluate", output_dir=f"{tmp_path}/e", **where)
    assert mean_dice(tmp_path / "e") == pytest.approx(mean_dice(tmp_path / "o")) and mean_dice(tmp_path / "e") > 0.4
