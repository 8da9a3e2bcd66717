"""Masks of regions: the same by slabs, as labels alone and on another grid, and measured as binary masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from dicom_maker import AFFINE, SETTINGS
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from network_tester import image, tiny_backbone

from sam_monai import PTSAM, InputError
from sam_monai.data import preparing
from sam_monai.inference import pipeline
from sam_monai.inference.file_grid import ToFileGridd
from sam_monai.inference.records import voxels
from sam_monai.inference.slabs import SlabInferer
from sam_monai.networks.regions import label_map_of, masks_of
from sam_monai.results.metrics import case_metrics, overlap

REGIONS = [[2, 1], [1]]  # a whole and its core


def test_a_large_volume_is_kept_as_the_label_map_that_its_logits_give():
    torch.manual_seed(0)
    network = PTSAM(tiny_backbone(), labels=["a", "b"], amp=False, preprocessing={"regions": REGIONS}).eval()
    x = image(1, 1, 40, 40, 23)
    with torch.no_grad():
        labels = SlabInferer(SimpleInferer(), slices=5, most_bytes=1000)(x, network)
        logits = network(x)
    assert torch.equal(labels, label_map_of(logits, REGIONS, 1))
    assert {*labels.unique().tolist()} > {0} and not torch.equal(labels, logits.argmax(1, keepdim=True))


@pytest.mark.parametrize("regions", [REGIONS, [[3, 1], [2]]])
@pytest.mark.parametrize("spacing", [None, (0.7, 0.7, 2.0)])
@pytest.mark.parametrize("kept", ["logits", "labels"])
def test_regions_return_to_the_files_grid(regions, spacing, kept):
    """Whether as logits or as labels, resampled or not: where each region is, it is found again."""
    file = torch.zeros(1, 40, 36, 12)
    file[:, 10:30, 8:28, 3:9] = 1
    file[:, 14:22, 12:20, 5:8] = 2
    truth = torch.stack([file[0] > 0 if regions is REGIONS else file[0] == 1, file[0] == 2])
    steps = pipeline.Compose(preparing.preparing(SETTINGS | {"spacing": spacing}))
    prepared: Any = steps({"image": MetaTensor(100 * file, AFFINE)})
    level = (prepared["image"] * 400 - 160) / 100  # of the window
    shares = [level[0] - 0.5, level[0] - 1.5] if regions is REGIONS else [0.5 - (level[0] - 1).abs(), level[0] - 1.5]
    logits = torch.stack([torch.zeros_like(level[0]), *shares])
    pred = logits if kept == "logits" else label_map_of(logits, regions)
    mask = ToFileGridd(steps, regions)({**prepared, "pred": pred.as_tensor()})["pred"]
    assert mask.shape == file.shape and {*mask.unique().tolist()} <= {0, *(region[0] for region in regions)}
    for found, held in zip(masks_of(mask.as_tensor(), 2, regions), truth, strict=True):
        dice = 2 * (found & held).sum() / (found.sum() + held.sum())
        assert dice == 1 if spacing is None else dice > 0.9


def test_each_region_is_measured_as_a_binary_mask_of_its_own():
    rng = np.random.default_rng(0)
    pred, label = (torch.as_tensor(rng.integers(0, 3, (1, 9, 8, 4))) for _ in range(2))
    rows = case_metrics(pred, label, 2, [1.0, 1.0, 1.0], 1.0, REGIONS)
    for row, quick, values in zip(rows, overlap(pred, label, 2, REGIONS), REGIONS, strict=True):
        alone = case_metrics(torch.isin(pred, torch.tensor(values)), torch.isin(label, torch.tensor(values)), 1,
                             [1.0, 1.0, 1.0], 1.0)  # fmt: skip
        assert row["dice"] == pytest.approx(quick["dice"]) == pytest.approx(alone[0]["dice"])
        assert row["hd95"] == alone[0]["hd95"] and row["surface_dice"] == alone[0]["surface_dice"]
    assert math.isnan(case_metrics(pred, 2 * (label > 0), 2, [1.0] * 3, 1.0, REGIONS)[1]["dice"])
    assert voxels(pred, REGIONS) == {"1": int((pred > 0).sum()), "2": int((pred == 1).sum())}
    held = pipeline.to_compare(REGIONS)([{"pred": pred, "label": label}])
    assert torch.equal(held[0][0].sum(0) >= 1, torch.ones(9, 8, 4).bool()) and held[1][0].shape == (3, 9, 8, 4)


@pytest.mark.parametrize("key", ["largest_component", "fill_holes"])
def test_components_and_holes_of_regions_are_refused(key):
    steps = pipeline.Compose(preparing.preparing(SETTINGS))
    with pytest.raises(InputError, match=f"the key {key} is not for labels that are regions"):
        pipeline.postprocessing(steps, regions=REGIONS, **{key: True})
