"""Losses, samples, prompts and metrics count no voxel that nobody has annotated."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from bundle_runner import SMALL, run
from folder_maker import nnunet
from monai.data import MetaTensor

from sam_monai.data.unlabelled import UNLABELLED, LeaveOutUnlabelled
from sam_monai.prompts.prompted_training import PromptedLoss, PromptedTraining
from sam_monai.results.metrics import case_metrics
from sam_monai.training.losses import SoftmaxDiceFocalLoss
from sam_monai.training.samples import CropAroundLabelsd


def test_the_loss_is_that_computed_by_hand_over_annotated_voxels():
    logits = torch.tensor([[0.0, 0, 0, 0], [1.0, -1, 2, 5], [-2.0, 1, 0, 5]]).view(1, 3, 1, 4).requires_grad_()
    label = torch.tensor([[[[1.0, 0, 2, UNLABELLED]]]])
    loss = SoftmaxDiceFocalLoss(gamma=2.0)(logits, label)
    voxels = [((0.0, 1.0, -2.0), 1), ((0.0, -1.0, 1.0), 0), ((0.0, 2.0, 0.0), 2)]
    chances = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row, _ in voxels]
    focal = sum(-((1 - p[v]) ** 2) * math.log(p[v]) for p, (_, v) in zip(chances, voxels, strict=True)) / 3
    dice = [
        (2 * sum(p[i] for p, (_, v) in zip(chances, voxels, strict=True) if v == i) + 1e-5)
        / (sum(p[i] for p in chances) + 1 + 1e-5)
        for i in (1, 2)
    ]
    assert loss.item() == pytest.approx(focal - sum(math.log((d + 0.1) / 1.1) for d in dice) / 2, rel=1e-5)
    loss.backward()
    assert logits.grad is not None and not logits.grad[..., 3].any() and logits.grad[..., :3].all()


def test_the_loss_of_what_is_annotated_is_that_of_a_batch_without_the_rest():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 8, 8, 6, generator=generator)
    label = torch.randint(0, 4, (2, 1, 8, 8, 6), generator=generator).float()
    sparse = label.clone()
    sparse[..., 3:] = UNLABELLED
    loss = SoftmaxDiceFocalLoss()
    torch.testing.assert_close(loss(logits, sparse), loss(logits[..., :3], label[..., :3]))


def test_a_batch_without_an_annotated_voxel_teaches_nothing():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = SoftmaxDiceFocalLoss()(logits, torch.full((1, 1, 4, 4), float(UNLABELLED)))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_samples_lie_around_annotated_voxels():
    label = torch.full((1, 40, 40, 9), float(UNLABELLED))
    label[..., 4] = 0
    label[:, 10:12, 10:12, 4] = 1
    crop = CropAroundLabelsd(("image", "label"), "label", (8, 8, 1), pos=1, neg=1, num_samples=20)
    crop.set_random_state(0)
    for sample in crop({"image": torch.zeros(1, 40, 40, 9), "label": label}):
        assert not (sample["label"] == UNLABELLED).any()


class Everywhere(torch.nn.Module):
    """Answers that every voxel is the object; notes the clicks."""

    mask_prompts, prompted = False, True

    def __init__(self):
        super().__init__()
        self.clicks = []

    def encode(self, image):
        return image

    def forward(self, image, embedding, automatic=None, point_coords=None, point_labels=None, boxes=None):
        if automatic is not None and point_coords is not None:
            self.clicks += point_coords[point_labels == 0].tolist()
        return torch.cat([torch.zeros_like(image), torch.ones_like(image, requires_grad=True)], 1)


def test_corrective_clicks_and_the_loss_of_prompts_leave_unlabelled_voxels_out():
    label = torch.full((1, 1, 16, 16), float(UNLABELLED))
    label[..., :8] = 0
    label[..., 4:8, 2:6] = 1
    network = Everywhere()
    torch.manual_seed(0)
    answers = PromptedTraining(1, corrections=3, draws=8)(torch.zeros(1, 1, 16, 16), network, label=label)
    assert network.clicks and all(j < 8 for _, j in network.clicks)
    assert (answers["objects"][..., 8:] == UNLABELLED).all() and answers["objects"][..., :8].unique().tolist() == [0, 1]
    cut = {key: value[..., :8] for key, value in answers.items()}
    loss = PromptedLoss(SoftmaxDiceFocalLoss())
    torch.testing.assert_close(loss(answers, label), loss(cut, label[..., :8]))


def test_metrics_compare_annotated_voxels_alone():
    rng = np.random.default_rng(0)
    pred, label = (torch.tensor(rng.integers(0, 3, (1, 12, 12, 8))).float() for _ in range(2))
    label[..., 4:] = UNLABELLED
    kept = label.clone()
    out = LeaveOutUnlabelled()({"pred": MetaTensor(pred), "label": MetaTensor(label)})
    whole = case_metrics(out["pred"], out["label"], 2, [1.0, 1.0, 1.0], 1.0)
    part = case_metrics(pred[..., :4], label[..., :4], 2, [1.0, 1.0, 1.0], 1.0)
    assert [row["dice"] for row in whole] == pytest.approx([row["dice"] for row in part])
    assert torch.equal(label, kept)  # which a cache may hold
    assert LeaveOutUnlabelled()({"pred": pred, "label": None})["pred"] is pred  # as at inference
    label[label == 2] = 1
    out = LeaveOutUnlabelled()({"pred": MetaTensor(pred), "label": MetaTensor(label)})
    (_, row) = case_metrics(out["pred"], out["label"], 2, [1.0, 1.0, 1.0], 1.0)
    assert row["false_positive"] == (pred[..., :4] == 2).sum()


@pytest.mark.parametrize("bundle", ["ptsam", pytest.param("medsa", marks=pytest.mark.slow)])
def test_sparse_annotations_train_and_are_evaluated(tmp_path, bundle):
    nnunet(tmp_path / "data", labels={"background": 0, "liver": 1, "ignore": 2})
    where = {"dataset_dir": f"{tmp_path}/data", "ckpt_dir": f"{tmp_path}/models", "output_dir": f"{tmp_path}/out"}
    run(bundle, "train", **where, **(SMALL | {"epochs": 1}))
    run(bundle, "train", "evaluate", **where)
    with (tmp_path / "out/cases.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["label"] == "liver" and 0 <= float(row["dice"]) <= 1
    assert float(row["ml"]) <= 9 * 8 * 3 * 0.75 / 1000 * 2 / 3  # a third of the rows is unlabelled
