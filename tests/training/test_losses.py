"""No label is given up for the sake of the others, however small and rare it is."""

from __future__ import annotations

import pytest
import torch

from sam_monai import distributed
from sam_monai.training.losses import SoftmaxDiceFocalLoss, dice_loss


def test_a_label_that_is_hardly_found_pulls_ten_times_as_much_as_by_dice_and_one_that_is_found_as_much():
    reference = torch.zeros(1, 2, 100, 100)
    reference[:, 0, 50:52, 50:52] = reference[:, 1, :40] = 1
    found = torch.stack([torch.full((100, 100), 0.001), 0.9 * reference[0, 1]])[None].requires_grad_()
    (gradient,) = torch.autograd.grad(dice_loss(found, reference), found)
    dice = 2 * (found * reference).sum((0, 2, 3)) / (found + reference).sum((0, 2, 3))
    (plain,) = torch.autograd.grad((1 - dice).mean(), found)
    rare, large = ((gradient / plain)[:, i][reference[:, i] > 0].mean().item() for i in (0, 1))
    assert rare == pytest.approx(10, rel=0.1) and large == pytest.approx(1, rel=0.1)


def test_a_label_that_the_batch_does_not_show_is_only_kept_from_being_marked():
    found, none = torch.full((2, 1, 8, 8), 1e-6, requires_grad=True), torch.zeros(2, 1, 8, 8)
    assert 0.9 < dice_loss(found, none).item() < 1
    assert dice_loss(torch.zeros(2, 1, 8, 8), none).item() == 0


def test_a_process_that_is_alone_for_a_while_waits_for_no_other(monkeypatch):
    """When a training is planned, the first process alone takes steps."""
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda _: pytest.fail("waits"))
    logits, label = torch.randn(1, 2, 8, 8), torch.ones(1, 1, 8, 8)
    with distributed.alone():
        SoftmaxDiceFocalLoss()(logits, label)
    with pytest.raises(pytest.fail.Exception):
        SoftmaxDiceFocalLoss()(logits, label)
