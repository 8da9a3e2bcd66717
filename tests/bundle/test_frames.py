"""Cine volumes with the key frames: trained on, evaluated and segmented, each frame as a volume of its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from bundle_runner import SMALL, oblique, run

from sam_monai import InputError
from sam_monai.inference.records import read_record
from sam_monai.networks.adapter_files import read_adapter
from sam_monai.networks.identity import from_tensor

TIMES, SHAPE = 3, (32, 30, 4)


def folder_of(top: Path, number: int = 4) -> Path:
    """Cine volumes of a bright ball that grows; of one the last frame is not annotated."""
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (top / part).mkdir(parents=True)
    for i in range(number + 1):
        label = np.zeros((*SHAPE, TIMES), np.uint8)
        middle = rng.uniform(12, 18, 2)
        far = np.hypot(*(np.indices(SHAPE)[axis] - middle[axis] for axis in (0, 1)))
        for t in range(TIMES):
            label[..., t][far < 5 + 2 * t] = 1
        image = np.where(label, 180.0, 60.0) + rng.normal(0, 6, label.shape)
        if i == 0:
            label[..., -1] = 2
        for where, array in (("images", image.astype(np.float32)), ("labels", label)):
            made: Any = nib.Nifti1Image(array, oblique())
            made.header.set_zooms((*made.header.get_zooms()[:3], 0.04))
            made.header.set_xyzt_units("mm", "sec")
            made.header["toffset"] = 0.5
            if i < number or where == "images":
                nib.save(made, top / f"{where}{'Tr' if i < number else 'Ts'}/c{i}.nii.gz")
    items = [{"image": f"imagesTr/c{i}.nii.gz", "label": f"labelsTr/c{i}.nii.gz"} for i in range(number)]
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ball", "2": "ignore"},
               "training": items[:-1], "validation": items[-1:], "test": ["imagesTs/c4.nii.gz"]}  # fmt: skip
    (top / "dataset.json").write_text(json.dumps(content))
    return top


@pytest.mark.parametrize("bundle", ["ptsam", pytest.param("medsa", marks=pytest.mark.slow)])
def test_a_bundle_trains_on_frames_and_segments_each_as_a_volume_of_its_own(tmp_path, bundle):
    folder = folder_of(tmp_path / "data")
    where = {"dataset_dir": str(folder), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    few = SMALL | {"epochs": 1, "scale": "whole", "mirror": "turns"}
    with pytest.raises(InputError, match=r"c0\.nii\.gz: has 3 time points.*key frames"):
        run(bundle, "train", **where, **few)
    run(bundle, "train", **where, **few, frames=True)
    (row,) = csv.DictReader((tmp_path / "out/cases.csv").open())
    adapter, held = {"adapter": str(tmp_path / "model.pt")}, nib.load(folder / "labelsTr/c3.nii.gz")
    volume = np.prod(held.header.get_zooms()[:3]) / 1000
    assert float(row["reference_ml"]) == pytest.approx((np.asarray(held.dataobj) == 1).sum() * volume / 3)

    keys = {**adapter, "fill_holes": True, "probabilities": True, "amp": False}
    with pytest.raises(InputError, match=r"c4\.nii\.gz: has 3 time points.*key frames"):
        run(bundle, "inference", dataset_dir=str(folder), output_dir=str(tmp_path / "none"), **keys)
    run(bundle, "inference", dataset_dir=str(folder), output_dir=str(tmp_path / "masks"), **keys, frames=True)
    image, mask = (nib.load(path) for path in (folder / "imagesTs/c4.nii.gz", tmp_path / "masks/c4_seg.nii.gz"))
    assert mask.shape == image.shape and np.allclose(mask.affine, image.affine)
    for key in ("pixdim", "xyzt_units", "toffset", "sform_code", "qform_code"):
        assert np.array_equal(mask.header[key], image.header[key]), key
    record = read_record(tmp_path / "masks/manifest/c4.json")
    assert record is not None and record["voxels"].get("1", 0) == pytest.approx(
        (np.asarray(mask.dataobj) == 1).sum() / 3
    )
    assert record["millilitres"].get("1", 0) == pytest.approx(record["voxels"].get("1", 0) * volume)

    (tmp_path / "alone").mkdir()
    for t in range(TIMES):
        one = nib.Nifti1Image(np.asarray(image.dataobj)[..., t], image.affine)
        nib.save(one, tmp_path / f"alone/t{t}.nii.gz")
    run(bundle, "inference", dataset_dir=str(tmp_path / "alone"), output_dir=str(tmp_path / "each"), **keys)
    likely = np.asarray(nib.load(tmp_path / "masks/c4_prob.nii.gz").dataobj)
    assert likely.shape == (*SHAPE, TIMES, 1)
    for t in range(TIMES):
        same = np.asarray(nib.load(tmp_path / f"each/t{t}_seg.nii.gz").dataobj) == np.asarray(mask.dataobj)[..., t]
        assert same.mean() > 0.999
        alone = np.asarray(nib.load(tmp_path / f"each/t{t}_prob.nii.gz").dataobj)
        assert np.allclose(likely[..., t, :], alone, atol=0.02)
    if bundle == "ptsam":  # the prompts of Med-SA take their time
        with pytest.raises(InputError, match=r"has 3 time points"):
            run(bundle, "train", "evaluate", **where)
        run(bundle, "train", "evaluate", **where, frames=True)
        assert len(list(csv.DictReader((tmp_path / "out/cases.csv").open()))) == 1


def test_an_adapter_whose_frames_are_together_is_used_that_way(tmp_path):
    folder = folder_of(tmp_path / "data")
    where = {"dataset_dir": str(folder), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    few = SMALL | {"epochs": 1, "scale": "whole", "mirror": "turns", "slices_per_batch": 2}
    with pytest.raises(InputError, match="frames_together .* depth_attention is False"):
        run("ssam", "train", **where, **few, frames=True, frames_together=True)
    run("ssam", "train", **where, **few, frames=True, frames_together=True, depth_attention=True)
    adapter = {"adapter": str(tmp_path / "model.pt"), "dataset_dir": str(folder / "imagesTs")}
    assert from_tensor(read_adapter(adapter["adapter"])["identity"])["preprocessing"]["frames_together"] is True
    with pytest.raises(InputError, match=r"frames_together, given or the adapter's, .* --frames True"):
        run("ssam", "inference", **adapter, output_dir=str(tmp_path / "none"))
    with pytest.raises(InputError, match="frames_together True, and here frames_together is False"):
        run("ssam", "inference", **adapter, output_dir=str(tmp_path / "none"), frames=True, frames_together=False)
    run("ssam", "inference", **adapter, output_dir=str(tmp_path / "masks"), frames=True)
    assert nib.load(tmp_path / "masks/c4_seg.nii.gz").shape == (*SHAPE, TIMES)
    run("ssam", "train", "evaluate", **where, frames=True)
    assert len(list(csv.DictReader((tmp_path / "out/cases.csv").open()))) == 1
