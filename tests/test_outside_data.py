"""Figures that the docs promise, on labelled images that are not part of this repository."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import run
from dicom_maker import SETTINGS as CT_SETTINGS
from dicom_maker import write_segmentation
from monai.data import MetaTensor

from sam_monai.data import LoadCased, preparing
from sam_monai.inference import pipeline

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


@pytest.mark.parametrize(
    "spacing, soft", [(None, False), ((0.8, 0.8, 1.5), False), ((0.8, 0.8, 1.5), True), ((1.5, 1.5, 3.0), True)]
)
def test_labels_of_an_awkward_dicom_series_survive_the_pipeline(spacing, soft):
    """Compressed, without UIDs, with a wrong thickness tag. The label map goes to the network's grid and back, or
    the answer of a network that knows where each label is, as far as the resampled image can say."""
    case = LoadCased(labels=6)({"image": f"{DATA}/abdomen_ct/dicom", "label": f"{DATA}/abdomen_ct/dicom_label.nii.gz"})
    image, truth = case["image"], case["label"][0].numpy()
    np.testing.assert_allclose(image.pixdim, [0.9765625, 0.9765625, 2.0])
    assert 60 < image[0].numpy()[truth == 4].mean() < 120 and image.min() == -1024  # liver with contrast, air
    preparation = pipeline.Compose(preparing.preparing(CT_SETTINGS | {"spacing": spacing}, ("image", "label")))
    prepared = preparation(dict(case))
    answer = prepared["label"].as_tensor()
    if soft:
        shares = []
        for value in range(7):
            there = MetaTensor((case["label"].as_tensor() == value) * 400.0 - 160, image.affine, image.meta)
            seen = bool((truth == value).any())  # an image that shows nothing is refused
            shares.append(preparation({**case, "image": there})["image"].as_tensor() if seen else 0 * shares[0])
        answer = torch.cat(shares)
    found = np.asarray(pipeline.postprocessing(preparation)({**prepared, "pred": answer})["pred"][0])
    for value in (1, 4, 5):
        a, b = found == value, truth == value
        assert np.array_equal(a, b) or spacing is not None
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= 0.97
        np.testing.assert_allclose(np.argwhere(a).mean(0), np.argwhere(b).mean(0), atol=0.1)


def test_a_real_segmentation_is_read_and_written_again_alike(tmp_path):
    folder = Path(f"{DATA}/liver_dicom_seg")
    case = LoadCased(labels=["liver"])({"image": folder / "ct", "label": folder / "liver_seg.dcm"})
    mask, affine = case["label"][0].numpy().astype(int), np.asarray(case["image"].affine)
    assert mask.any() and 20 < case["image"][0].numpy()[mask == 1].mean() < 80
    write_segmentation(mask, affine, folder / "ct", ["liver"], tmp_path / "ours.dcm")
    read = {}
    for name, file in (("ours", tmp_path / "ours.dcm"), ("theirs", folder / "liver_seg.dcm")):
        (tmp_path / name).mkdir()
        tool = shutil.which("segimage2itkimage")
        subprocess.run([tool, "--inputDICOM", file, "--outputDirectory", tmp_path / name, "-t", "nii"], check=True)
        read[name] = nib.load(tmp_path / name / "1.nii.gz")
    assert np.array_equal(*(np.asarray(volume.dataobj) for volume in read.values()))
    np.testing.assert_allclose(read["ours"].affine, read["theirs"].affine)
