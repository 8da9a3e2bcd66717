"""The one loss of all bundles."""

from __future__ import annotations

import torch
from monai.losses import FocalLoss
from monai.networks.utils import one_hot
from torch import Tensor, nn

from ..data.unlabelled import UNLABELLED
from ..distributed import summed


class SoftmaxDiceFocalLoss(nn.Module):
    """Dice and focal loss over a softmax of background and labels.

    MONAI's ``DiceFocalLoss(softmax=True)`` takes its focal term from each label's own sigmoid. Nothing then separates
    labels with similar prompts. Its Dice covers the batch of one process; here the batch is that of all processes, so
    two of them learn what one with twice the batch learns.

    Args:
        gamma: of the focal loss; 0 is cross-entropy.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.focal = FocalLoss(
            include_background=True, to_onehot_y=True, use_softmax=True, gamma=gamma, reduction="none"
        )

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits (B, L + 1, *spatial) and a label map (B, 1, *spatial) to one number.

        The Dice term is taken for each label over the batch, without the background. The focal term is summed over the
        channels, of which only the reference label's is not 0, and averaged over the voxels. Neither counts voxels that
        nobody has annotated; a batch without any other gives 0.
        """
        known = label != UNLABELLED
        label, share = torch.where(known, label, 0), known.to(logits.dtype)
        found, reference = logits.softmax(1)[:, 1:] * share, one_hot(label, logits.shape[1])[:, 1:] * share
        dims = (0, *range(2, logits.ndim))
        common, sizes = summed((found * reference).sum(dims)), summed((found + reference).sum(dims))
        dice = (2 * common + 1e-5) / (sizes + 1e-5)
        focal = summed((self.focal(logits, label) * share).sum()) / summed(share.sum()).clamp(min=1)
        return (1 - dice).mean() + focal
