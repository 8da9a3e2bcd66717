"""Metrics in millimetres, and a label that a case lacks is left out of the means and counted."""

from __future__ import annotations

import math

import torch

from sam_monai.results.metrics import METRICS, CaseTable, case_metrics


def ball(centre, shape=(20, 20, 20), radius=5.0):
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")).float()
    return ((grid - torch.tensor(centre).view(3, 1, 1, 1)).norm(dim=0) < radius).long()[None]


def test_distances_are_in_millimetres():
    truth, moved = ball((10.0, 10, 10)), ball((10.0, 10, 12))
    near = case_metrics(moved, truth, 1, [1.0, 1.0, 1.0], tolerance=2.0)[0]
    far = case_metrics(moved, truth, 1, [1.0, 1.0, 3.0], tolerance=2.0)[0]
    assert near["dice"] == far["dice"] < 1
    assert abs(near["hd95"] - 2) < 0.5 and far["hd95"] > 2 * near["hd95"]
    assert far["surface_dice"] < near["surface_dice"]


def test_a_perfect_mask_is_perfect_and_a_missed_label_is_not():
    truth = ball((10.0, 10, 10))
    perfect = case_metrics(truth, truth, 1, [1.0] * 3, tolerance=1.0)[0]
    assert {key: perfect[key] for key in METRICS} == {"dice": 1.0, "hd95": 0.0, "surface_dice": 1.0}
    missed = case_metrics(torch.zeros_like(truth), truth, 1, [1.0] * 3, tolerance=1.0)[0]
    assert {key: missed[key] for key in METRICS} == {"dice": 0.0, "hd95": math.inf, "surface_dice": 0.0}


def test_a_label_that_the_truth_lacks_is_left_out_and_counted():
    truth = ball((10.0, 10, 10))
    table = CaseTable(("a", "b"))
    for pred in (truth, 2 * truth):
        metrics = case_metrics(pred, truth, 2, [1.0] * 3, tolerance=1.0)
        assert all(math.isnan(metrics[1][key]) for key in METRICS)
        table.rows += [{"case": "x", "label": n, **m} for n, m in zip("ab", metrics, strict=True)]
    lines = table.table().splitlines()
    assert "0.5000" in lines[1] and "2 of 2" in lines[1] and "0 of 2" in lines[2]
