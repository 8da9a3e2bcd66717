"""Found, missed and invented objects are those of MONAI's panoptic matching, and average precision is of these."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.data import MetaTensor
from monai.metrics.panoptic_quality import compute_panoptic_quality

from sam_monai.data.matching import OBJECTS, matched, matched_in_all


def test_objects_are_matched_as_monai_matches_them():
    rng = np.random.default_rng(0)
    label = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((6, 6), int))[None]
    for shift in (0, 1, 2, 3):
        pred = np.roll(label, shift, 2) * (rng.random(label.shape) > 0.1)
        pred, held = torch.as_tensor(pred % 23), torch.as_tensor(label % 20)
        found, invented, missed, _ = compute_panoptic_quality(pred[0], held[0], output_confusion_matrix=True).tolist()
        mine = matched(MetaTensor(pred.float()), MetaTensor(held.float()))
        precision = found / (found + missed + invented)
        assert [mine[key] for key in OBJECTS] == [precision, found, missed, invented], shift


def test_what_is_not_there_has_no_precision():
    nothing, one = torch.zeros(1, 8, 8), torch.eye(8)[None]
    rows = [matched(nothing, nothing), matched(nothing, one), matched(one, nothing), matched(one, one)]
    assert math.isnan(rows[0]["ap50"]) and [row["ap50"] for row in rows[1:]] == [0, 0, 1]
    assert "0.3333 in the mean of cases; in all, 1 were found, 1 missed and 1 invented" in matched_in_all(rows)
    assert "none" in matched_in_all(rows[:1])
