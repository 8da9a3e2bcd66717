"""Overlapping labels learn by their own sigmoids, labels that exclude each other by one softmax as ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sam_monai.data.unlabelled import UNLABELLED
from sam_monai.training.losses import SigmoidDiceFocalLoss, SoftmaxDiceFocalLoss, loss_of

NESTED = [[1, 2], [2]]


def batch(values: int = 3, labels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    label = torch.randint(0, values + 1, (2, 1, 8, 7), generator=rng).float()
    return torch.randn(2, labels + 1, 8, 7, generator=rng).requires_grad_(), label


def test_labels_that_exclude_each_other_are_trained_bit_for_bit_as_before():
    logits, label = batch(values=2)
    # Label 1 has the values 1 and 3 here, label 2 the value 2.
    split = torch.where((label == 1) & (torch.arange(7) < 3), 3.0, label)
    split[0, 0, 0, 0] = label[0, 0, 0, 0] = UNLABELLED
    plain = SoftmaxDiceFocalLoss(2.0)(logits, label)
    (before,) = torch.autograd.grad(plain, logits)
    for loss, values in ((loss_of(None), label), (loss_of([[3, 1], [2]]), split)):
        assert isinstance(loss, SoftmaxDiceFocalLoss)
        found = loss(logits, values)
        assert torch.equal(found, plain) and torch.equal(torch.autograd.grad(found, logits)[0], before)


def test_the_loss_of_overlapping_labels_is_that_of_each_alone():
    logits, label = batch(values=2)
    both = SigmoidDiceFocalLoss(NESTED)(logits, label)
    alone = []
    for channel, values in ((1, [1, 2]), (2, [2])):
        reference = torch.as_tensor(np.isin(label, values)).float()
        alone.append(SigmoidDiceFocalLoss([[1]])(logits[:, [0, channel]], reference))
    assert torch.allclose(both, sum(alone) / 2, rtol=1e-5)
    (gradient,) = torch.autograd.grad(both, logits)
    assert not gradient[:, 0].any() and gradient[:, 1:].any()


def test_unlabelled_voxels_count_in_no_region():
    logits, label = batch(values=2)
    label[:, :, :4] = UNLABELLED
    (gradient,) = torch.autograd.grad(SigmoidDiceFocalLoss(NESTED)(logits, label), logits)
    assert not gradient[:, :, :4].any() and gradient[:, 1:, 4:].any()
    rest = SigmoidDiceFocalLoss(NESTED)(logits[:, :, 4:], label[:, :, 4:])
    assert torch.allclose(SigmoidDiceFocalLoss(NESTED)(logits, label), rest, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_few_steps_teach_two_overlapping_labels_where_both_are(seed):
    torch.manual_seed(seed)
    label = torch.zeros(1, 1, 16, 16)
    label[..., 3:13, 3:13], label[..., 6:10, 6:10] = 1, 2
    image = label + 0.1 * torch.randn(label.shape)
    layer = nn.Sequential(nn.Conv2d(1, 16, 1), nn.ReLU(), nn.Conv2d(16, 3, 1))
    optimizer, loss = torch.optim.Adam(layer.parameters(), 0.05), loss_of(NESTED)
    for _ in range(150):
        optimizer.zero_grad()
        loss(layer(image), label).backward()
        optimizer.step()
    whole, core = (layer(image)[0, 1:] > 0).unbind()
    for found, held in ((whole, label[0, 0] > 0), (core, label[0, 0] == 2)):
        assert 2 * (found & held).sum() / (found.sum() + held.sum()) > 0.95
    assert (whole & core).any()  # which no softmax gives
