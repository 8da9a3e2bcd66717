"""The one loss of all bundles."""

from __future__ import annotations

from monai.losses import DiceLoss, FocalLoss
from torch import Tensor, nn


class SoftmaxDiceFocalLoss(nn.Module):
    """Dice and focal loss over a softmax of background and labels.

    MONAI's ``DiceFocalLoss(softmax=True)`` takes its focal term from each label's own sigmoid, which leaves labels with
    similar prompts together: nothing tells one from the other.

    Args:
        gamma: of the focal loss; 0 is cross-entropy.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
        self.focal = FocalLoss(include_background=True, to_onehot_y=True, use_softmax=True, gamma=gamma)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits (B, L + 1, *spatial) and label map (B, 1, *spatial) to a number.

        Dice of each label over the batch, background left out; focal loss summed over the channels, of which only the
        true one is not 0, averaged over the voxels.
        """
        return self.dice(logits, label) + logits.shape[1] * self.focal(logits, label)
