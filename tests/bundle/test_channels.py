"""Four channels of one picture: a bundle trains their mixture, segments with it and says by name what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runner import SMALL, oblique, run

from sam_monai import InputError
from sam_monai.networks import identity
from sam_monai.networks.adapter_files import read_adapter

NAMES = ["T1", "T1 inverted", "edges", "noisy"]


def folder_of(top: Path, number: int = 6, shape: tuple[int, int, int] = (32, 32, 4)) -> Path:
    """nnU-Net's raw data of four channels, in which one disc is bright and one is dark."""
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (top / part).mkdir(parents=True)
    for i in range(number + 1):
        image, label = np.full(shape, 100.0), np.zeros(shape, np.uint8)
        for value, grey in ((1, 180.0), (2, 30.0)):
            middle = np.array([rng.uniform(0.25, 0.75) * n for n in shape[:2]])
            far = np.hypot(*(np.indices(shape)[axis] - middle[axis] for axis in (0, 1)))
            image[far < 6], label[far < 6] = grey, value
        where = ("imagesTs", "new") if i == number else ("imagesTr", f"case_{i}")
        for k, channel in enumerate((image, 255 - image, np.abs(image - 100), np.maximum(image, 100))):
            noisy = (channel + rng.normal(0, 6, shape)).astype(np.float32)
            nib.save(nib.Nifti1Image(noisy, oblique()), top / where[0] / f"{where[1]}_{k:04d}.nii.gz")
        if i < number:
            nib.save(nib.Nifti1Image(label, oblique()), top / f"labelsTr/case_{i}.nii.gz")
    content = {"labels": {"background": 0, "bright": 1, "dark": 2}, "numTraining": number, "file_ending": ".nii.gz"}
    names = {"channel_names": {str(i): name for i, name in enumerate(NAMES)}}
    (top / "dataset.json").write_text(json.dumps(content | names))
    return top


def test_a_bundle_trains_on_four_channels_and_segments_and_names_what_is_missing(tmp_path):
    folder, where = folder_of(tmp_path / "data", 4), {"ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    run("ptsam", "train", dataset_dir=str(folder), **where, **SMALL | {"epochs": 1})
    adapter = read_adapter(tmp_path / "model.pt")
    record = identity.from_tensor(adapter["identity"])
    assert record["channel_names"] == record["preprocessing"]["channel_names"] == NAMES
    assert adapter["mixture.weight"].shape == (3, 4, 1, 1) and (adapter["mixture.weight"] != 0.25).any()
    where = {"adapter": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "masks")}
    run("ptsam", "inference", dataset_dir=str(folder), **where)
    assert nib.load(tmp_path / "masks/new_0000_seg.nii.gz").shape == (32, 32, 4)
    loose = shutil.copytree(folder / "imagesTs", tmp_path / "loose")
    (loose / "new_0002.nii.gz").unlink()
    with pytest.raises(InputError, match=r"new_0002\.nii\.gz: no such file, and it would hold the channel edges"):
        run("ptsam", "inference", dataset_dir=str(loose), **where)
    content = json.loads((folder / "dataset.json").read_text())
    content["channel_names"] = {str(i): name for i, name in enumerate(NAMES[::-1])}
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="channels noisy, edges, T1 inverted, T1, and the adapter takes T1, T1 inv"):
        run("ptsam", "inference", dataset_dir=str(folder), **where)


def test_one_of_several_channel_files_is_trained_on_shown_and_segmented(tmp_path):
    folder, where = folder_of(tmp_path / "data", 4), {"ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    one = {"dataset_dir": str(folder), "channels": [2]}
    run("ptsam", "train", **one, **where, **SMALL | {"epochs": 1})
    record = identity.from_tensor(read_adapter(tmp_path / "model.pt")["identity"])
    assert record["channel_names"] is None and record["preprocessing"]["channels"] == [2]
    assert (tmp_path / "out/report.html").is_file() and list((tmp_path / "out").rglob("case_*.png"))
    where = {"adapter": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "masks")}
    run("ptsam", "inference", dataset_dir=str(folder), **where)
    assert nib.load(tmp_path / "masks/new_0000_seg.nii.gz").shape == (32, 32, 4)
