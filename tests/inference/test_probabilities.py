"""Probabilities beside the masks: on the file's own grid, in agreement with the mask, and never over another file."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import SMALL, oblique, run, volumes
from dicom_maker import AFFINE, SETTINGS
from monai.data import MetaTensor

from sam_monai import InputError
from sam_monai.data import preparing
from sam_monai.inference import pipeline
from sam_monai.inference.probabilities import KEY, ToProbabilities
from sam_monai.networks.regions import masks_of

REGIONS = [[1, 2], [2]]


@pytest.mark.parametrize("spacing", [None, (0.9, 0.9, 2.0)])
@pytest.mark.parametrize("regions", [None, REGIONS])
def test_the_mask_has_the_labels_that_are_probable(spacing, regions):
    steps = pipeline.Compose(preparing.preparing(SETTINGS | {"spacing": spacing}))
    image = MetaTensor(torch.rand(1, 20, 18, 6, generator=torch.Generator().manual_seed(0)) * 400 - 160, AFFINE)
    prepared: Any = steps({"image": image})
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(3, *prepared["image"].shape[1:], generator=rng)
    logits[0] = 0
    case: Any = pipeline.postprocessing(steps, regions=regions, probabilities=True)({**prepared, "pred": logits})
    each, mask = torch.as_tensor(case[KEY]), torch.as_tensor(case["pred"])
    assert each.shape == (2, 20, 18, 6) and 0 <= each.min() and each.max() <= 1
    if regions is None:
        assert torch.equal(torch.cat([1 - each.sum(0, keepdim=True), each]).argmax(0), mask[0].long())
    else:
        painted = torch.where(each[1] > 0.5, 2, torch.where(each[0] > 0.5, 1, 0))
        assert torch.equal(painted, mask[0].long())
        assert torch.equal(masks_of(mask, 2, regions)[1], each[1] > 0.5)


def test_labels_alone_have_no_probabilities():
    steps = pipeline.Compose(preparing.preparing(SETTINGS))
    with pytest.raises(InputError, match="leave the key probabilities out"):
        ToProbabilities(steps)({"pred": torch.zeros(1, 4, 4, 4)})


def test_they_are_written_beside_the_mask_once_and_never_over_another_file(tmp_path):
    folder, where = volumes(tmp_path / "data"), {"ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    run("ptsam", "train", dataset_dir=str(folder), **where, scale="whole", mirror="none", **SMALL)
    where = {"dataset_dir": str(folder), "adapter": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "masks")}
    run("ptsam", "inference", **where)
    assert not list((tmp_path / "masks").rglob("*_prob*"))
    (tmp_path / "masks/d_prob.nii.gz").write_text("mine")
    with pytest.raises(InputError, match=r"d_prob\.nii\.gz: is there already and was not written by this package"):
        run("ptsam", "inference", **where, probabilities=True)
    path = tmp_path / "masks/d_prob.nii.gz"
    assert path.read_text() == "mine"
    path.unlink()
    run("ptsam", "inference", **where, probabilities=True)
    image, mask = nib.load(path), nib.load(tmp_path / "masks/d_seg.nii.gz")
    each, values = image.get_fdata(), np.asarray(mask.dataobj)
    assert (
        each.shape == (*values.shape, 2) and np.allclose(image.affine, mask.affine) and image.get_data_dtype() == "u2"
    )
    assert np.allclose(image.affine, oblique(), atol=1e-4) and 0 <= each.min() and each.max() <= 1
    best = np.concatenate([1 - each.sum(-1, keepdims=True), each], -1)
    picked = np.take_along_axis(best, values[..., None].astype(int), -1)[..., 0]
    assert (picked >= best.max(-1) - 1e-4).all()
    written = path.stat().st_mtime_ns
    run("ptsam", "inference", **where, probabilities=True)
    assert path.stat().st_mtime_ns == written
    path.unlink()
    run("ptsam", "inference", **where, probabilities=True)
    assert path.is_file()
