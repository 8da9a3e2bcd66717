"""No label is given up for the sake of the background, however small and rare it is."""

from __future__ import annotations

import pytest
import torch

from sam_monai.training.losses import SigmoidDiceFocalLoss, SoftmaxDiceFocalLoss


@pytest.mark.parametrize("loss", [SoftmaxDiceFocalLoss(), SigmoidDiceFocalLoss([[1], [1, 2]])])
def test_a_label_of_few_voxels_that_is_hardly_found_pulls_as_much_as_others(loss):
    label = torch.zeros(1, 1, 100, 100)
    label[..., 50:52, 50:52] = 1
    label[..., :40, :] = 2
    logits = torch.zeros(1, 3, 100, 100)
    logits[:, 1] = -6.0
    (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), label), logits)
    pulled, large = (-gradient[:, v][label[:, 0] == v].sum().item() for v in (1, 2))
    assert pulled > 0.3 and pulled > large / 3
