"""Pictures of touching discs with the key instances: trained on, evaluated and segmented, each disc by its number."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from bundle_runner import ROOT, SMALL, run, write_json
from PIL import Image

from sam_monai import InputError
from sam_monai.bundle import package
from sam_monai.inference.records import read_record
from sam_monai.networks.adapter_files import describe, read_adapter
from sam_monai.networks.identity import from_tensor
from sam_monai.results.report import read_rows

SIDE = 48


def folder_of(top: Path, number: int = 4) -> Path:
    """Pictures with a pair of touching discs and one alone, numbered from 1, or by thousands in the last."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((SIDE, SIDE))
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (top / part).mkdir(parents=True)
    for i in range(number):
        label = np.zeros((SIDE, SIDE), np.uint16)
        y, x = rng.integers(10, 16, 2)
        for value, (a, b) in enumerate([(y, x), (y, x + 16), (y + 22, x + 6)], 1):
            label[np.hypot(rows - a, columns - b) < 8] = value * (1 if i < number - 1 else 9000)
        image = np.where(label, 180.0, 60.0) + rng.normal(0, 6, label.shape)
        Image.fromarray(image.astype(np.uint8)).save(top / f"imagesTr/c{i}.png")
        Image.fromarray(label).save(top / f"labelsTr/c{i}.png")
    Image.fromarray(image.astype(np.uint8)[::-1].copy()).save(top / "imagesTs/t.png")
    items = [{"image": f"imagesTr/c{i}.png", "label": f"labelsTr/c{i}.png"} for i in range(number)]
    write_json(top, modality={"0": "RGB"}, labels={"0": "background", "1": "disc"}, training=items[:-1],
               validation=items[-1:], test=["imagesTs/t.png"])  # fmt: skip
    return top


@pytest.mark.parametrize("bundle", ["ptsam", pytest.param("medsa", marks=pytest.mark.slow)])
def test_a_bundle_trains_on_numbered_objects_and_masks_number_them(tmp_path, bundle):
    folder = folder_of(tmp_path / "data")
    where = {"dataset_dir": str(folder), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    few = SMALL | {"epochs": 2, "image_size": 64, "scale": "whole", "mirror": "turns"}
    with pytest.raises(InputError, match=r"c0\.png: .*known are 0 to 1.*key instances"):
        run(bundle, "train", **where, **few)
    run(bundle, "train", **where, **few, instances=True)
    (row,) = read_rows(tmp_path / "out/cases.csv")
    assert row["label"] == "disc" and 0 < row["dice"] <= 1
    assert row["objects_found"] + row["objects_missed"] == 3 and 0 <= row["ap50"] <= 1
    assert row["reference_pixels"] == (np.asarray(Image.open(folder / "labelsTr/c3.png")) > 0).sum()
    assert "average precision at IoU 0.5" in (tmp_path / "out/report.html").read_text()
    record = from_tensor(read_adapter(tmp_path / "model.pt")["identity"])
    assert record["labels"] == ["disc", "disc border"] and record["preprocessing"]["instances"] is True

    assert "1, 2, 3, ... disc" in describe(tmp_path / "model.pt")
    mine = package.package(ROOT / "bundles" / bundle, tmp_path / "mine", tmp_path / "model.pt")
    train = json.loads((mine / "configs/train.json").read_text())
    assert train["labels"] == ["disc"] and train["instances"] is True
    assert json.loads((mine / "configs/metadata.json").read_text())["label_classes"].endswith("1, 2, 3, ... disc")

    adapter = {"adapter": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "masks")}
    run(bundle, "inference", dataset_dir=str(folder), **adapter, probabilities=True)
    mask = np.asarray(Image.open(tmp_path / "masks/t_seg.png"))
    done = read_record(tmp_path / "masks/manifest/t.json")
    assert done is not None and done["objects"] == mask.max() == len(np.unique(mask)) - 1 > 0
    assert done["voxels"] == {"1": (mask > 0).sum()}
    (study,) = csv.DictReader((tmp_path / "masks/studies.csv").open())
    assert (study["label"], study["objects"]) == ("disc", str(mask.max()))
    with pytest.raises(InputError, match="instances True, and here instances is False"):
        run(bundle, "inference", dataset_dir=str(folder), **adapter, instances=False)

    before = row["ap50"]
    root = {"bundle_root": str(mine)}
    run(str(mine), "train", "evaluate", **where, **root)
    (row,) = read_rows(tmp_path / "out/cases.csv")
    assert row["ap50"] == before
    if bundle == "medsa":  # two objects of prompts, which are not the inside and the border of others
        objects = [{"points": [[13, 13]], "labels": [1]}, {"points": [[13, 29]], "labels": [1]}]
        (folder / "imagesTs/t.png.prompts.json").write_text(json.dumps({"objects": objects}))
        run(bundle, "inference", dataset_dir=str(folder), **adapter)
        done = read_record(tmp_path / "masks/manifest/t.json")
        assert done is not None and "objects" not in done and done["voxels"].keys() <= {"1", "2"}


def test_volumes_and_several_labels_are_refused_in_a_line(tmp_path):
    folder = folder_of(tmp_path / "data")
    write_json(folder, labels={"0": "background", "1": "disc", "2": "crumb"})
    where = {"dataset_dir": str(folder), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    with pytest.raises(InputError, match="key instances is for objects of one label, and dataset.json has disc, crumb"):
        run("ptsam", "train", **where, **SMALL, instances=True)
    with pytest.raises(InputError, match="key instances is for 2D pictures"):
        run("ptsam", "train", ckpt_dir=str(tmp_path), output_dir=str(tmp_path / "o"), **SMALL, instances=True)
