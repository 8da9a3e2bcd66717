"""Regions that overlap, as in nnU-Net's `dataset.json`: trained by a sigmoid each, measured and written as there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runner import ROOT, SMALL, run

from sam_monai import InputError
from sam_monai.bundle.folder import metadata_labels, read_metadata
from sam_monai.bundle.package import described
from sam_monai.data import read_dataset
from sam_monai.data.load import LoadCased
from sam_monai.inference.records import read_record
from sam_monai.networks import identity
from sam_monai.networks.adapter_files import read_adapter

LABELS = {"background": 0, "whole ball": [1, 2], "core": 1}
REGIONS = [[2, 1], [1]]  # the shell alone is 2, so a mask's values are not the labels' numbers


def folder_of(top: Path, number: int = 4) -> Path:
    """nnU-Net's raw data: a grey ball, value 2, with a bright core, value 1, and one such image to segment."""
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (top / name).mkdir(parents=True)
    for i in range(number + 1):
        shape = (32, 32, 4)
        middle = rng.uniform(12, 20, 2)
        far = np.hypot(*(np.indices(shape)[axis] - middle[axis] for axis in (0, 1)))
        label = np.where(far < 5, 1, np.where(far < 10, 2, 0)).astype(np.uint8)
        image = np.array([40.0, 220.0, 130.0])[label] + rng.normal(0, 6, shape)
        where = "imagesTr" if i < number else "imagesTs"
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.diag([1, 1, 3, 1])), top / where / f"c{i}_0000.nii.gz")
        if i < number:
            nib.save(nib.Nifti1Image(label, np.diag([1, 1, 3, 1])), top / f"labelsTr/c{i}.nii.gz")
    content = {"channel_names": {"0": "MR"}, "numTraining": number, "file_ending": ".nii.gz", "labels": LABELS}
    (top / "dataset.json").write_text(json.dumps(content | {"regions_class_order": [2, 1]}))
    return top


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    top = tmp_path_factory.mktemp("regions")
    folder = folder_of(top / "data")
    keys = {"dataset_dir": str(folder), "ckpt_dir": str(top), "output_dir": str(top / "out"), "mirror": "turns"}
    workflow = run("ptsam", "train", **keys, scale="whole", **SMALL | {"epochs": 40, "val_interval": 20})
    return folder, top, workflow


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_overlapping_regions_are_learnt_and_measured_as_nnunet_counts_them(trained):
    folder, top, workflow = trained
    assert type(workflow.parser.get_parsed_content("loss")).__name__ == "SigmoidDiceFocalLoss"
    record = identity.from_tensor(read_adapter(top / "model.pt")["identity"])
    assert record["labels"] == ["whole ball", "core"] and record["preprocessing"]["regions"] == REGIONS
    rows = list(csv.DictReader((top / "out/cases.csv").open()))
    assert {row["label"]: float(row["dice"]) > 0.5 for row in rows} == {"whole ball": True, "core": True}
    run("ptsam", "inference", dataset_dir=str(folder / "imagesTr"), adapter=str(top / "model.pt"),
        output_dir=str(top / "of_training"))  # fmt: skip
    for row in rows:
        case = row["case"].removesuffix("_0000")
        values = [1, 2] if row["label"] == "whole ball" else [1]
        found, held = (
            np.isin(values_of(path), values)
            for path in (top / f"of_training/{case}_0000_seg.nii.gz", folder / f"labelsTr/{case}.nii.gz")
        )
        assert float(row["dice"]) == pytest.approx(2 * (found & held).sum() / (found.sum() + held.sum()), abs=1e-3)
        assert float(row["reference_ml"]) == pytest.approx(held.sum() * 3 / 1000)


def test_a_mask_is_read_back_by_the_same_dataset_json_and_counted_by_region(trained):
    folder, top, _ = trained
    where = {"adapter": str(top / "model.pt"), "output_dir": str(top / "masks")}
    run("ptsam", "inference", dataset_dir=str(folder), **where)
    mask = values_of(top / "masks/c4_0000_seg.nii.gz")
    assert {*np.unique(mask)} == {0, 1, 2}
    dataset = read_dataset(folder)
    back = LoadCased("label", labels=dataset.labels, regions=dataset.regions)(
        {"label": top / "masks/c4_0000_seg.nii.gz"}
    )
    assert np.array_equal(np.asarray(back["label"][0]), mask)
    record = read_record(top / "masks/manifest/c4_0000.json")
    assert record is not None
    assert record["voxels"] == {"1": int((mask > 0).sum()), "2": int((mask == 1).sum())}
    with pytest.raises(InputError, match=r"model\.pt: its labels have the values \[\[2, 1\], \[1\]\]"):
        run("ptsam", "inference", dataset_dir=str(folder), **where, regions=[[1, 2], [2]])
    with pytest.raises(InputError, match="largest_component is not for labels that are regions"):
        run("ptsam", "inference", dataset_dir=str(folder), **where, largest_component=True)


def test_an_adapter_of_regions_is_not_evaluated_on_labels_of_one_value_each(trained):
    folder, top, _ = trained
    other = folder_of(top / "other")
    content = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(content | {"labels": {"background": 0, "whole ball": 1, "core": 2}}))
    where = {"ckpt_dir": str(top), "output_dir": str(top / "other_out")}
    with pytest.raises(InputError, match="labels with the values .*here they have one value each"):
        run("ptsam", "train", "evaluate", dataset_dir=str(other), **where)


def test_a_bundle_of_regions_names_the_values_of_its_masks(trained):
    metadata = read_metadata(ROOT / "bundles/ptsam")
    record = identity.from_tensor(read_adapter(trained[1] / "model.pt")["identity"])
    made = described(metadata, record)
    names = made["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert names == {"0": "background", "2": "whole ball", "1": "core"}  # MONAI Label's values of masks
    assert metadata_labels(made) == record["labels"]


def test_med_sa_refuses_regions_before_anything_is_planned(trained, tmp_path):
    with pytest.raises(InputError, match="Med-SA answers prompts for labels of one value each.*--draws 0"):
        run("medsa", "train", dataset_dir=str(trained[0]), ckpt_dir=str(tmp_path), output_dir=str(tmp_path))


@pytest.mark.parametrize(("bundle", "more"), [("ptsam", {}), ("medsa", {"draws": 0})])
def test_masks_that_overlap_in_part_are_learnt_each_as_a_whole(tmp_path, bundle, more):
    rng = np.random.default_rng(0)
    for i in range(4):
        (tmp_path / f"data/s{i}/segmentations").mkdir(parents=True)
        image = rng.normal(40, 6, (32, 32, 4))
        for name, rows in (("left", slice(6, 20)), ("right", slice(14, 28))):
            held = np.zeros((32, 32, 4), np.uint8)
            held[rows, 8:24] = 1
            image += 90 * held
            nib.save(
                nib.Nifti1Image(held, np.diag([1, 1, 3, 1])), tmp_path / f"data/s{i}/segmentations/{name}ish.nii.gz"
            )
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.diag([1, 1, 3, 1])), tmp_path / f"data/s{i}/mri.nii.gz")
    where = {"dataset_dir": str(tmp_path / "data"), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    few = SMALL | {"epochs": 25, "val_interval": 25, "mirror": "none", "scale": "whole"} | more
    workflow = run(bundle, "train", **where, **few)
    loss = workflow.parser.get_parsed_content("loss")
    assert type(getattr(loss, "loss", loss)).__name__ == "SigmoidDiceFocalLoss"
    run(bundle, "train", "evaluate", **where)
    rows = list(csv.DictReader((tmp_path / "out/cases.csv").open()))
    assert {row["label"] for row in rows if float(row["dice"]) > 0.5} == {"leftish", "rightish"}
    run(bundle, "inference", dataset_dir=str(tmp_path / "data/s0/mri.nii.gz"), adapter=str(tmp_path / "model.pt"),
        output_dir=str(tmp_path / "masks"))  # fmt: skip
    assert 3 in values_of(tmp_path / "masks/mri_seg.nii.gz")  # both
