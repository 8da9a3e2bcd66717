"""The losses of all bundles: of labels that exclude each other, and of labels that overlap."""

from __future__ import annotations

import torch
from monai.losses import FocalLoss
from monai.networks.utils import one_hot
from torch import Tensor, nn

from ..data.instances import inside_and_border
from ..data.unlabelled import UNLABELLED
from ..distributed import summed
from ..networks.regions import Regions, masks_of, overlap

SOFTENED = 0.1  # added to Dice under the logarithm
WORDS = "logarithm of Dice, and focal loss"  # by which a resumed training knows that it goes on with the same loss


class SoftmaxDiceFocalLoss(nn.Module):
    """Dice and focal loss over a softmax of background and labels.

    MONAI's ``DiceFocalLoss(softmax=True)`` takes its focal term from each label's own sigmoid. Nothing then separates
    labels with similar prompts. Its Dice covers the batch of one process; here the batch is that of all processes, so
    two of them learn what one with twice the batch learns.

    Args:
        gamma: of the focal loss; 0 is cross-entropy.
        regions: of labels that have several values and do not overlap.
        instances: whether labels number objects, whose inside and border are the two labels.
    """

    words = WORDS

    def __init__(self, gamma: float = 2.0, regions: Regions | None = None, instances: bool = False) -> None:
        super().__init__()
        self.regions, self.instances = regions, instances
        self.focal = FocalLoss(
            include_background=True, to_onehot_y=True, use_softmax=True, gamma=gamma, reduction="none"
        )

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits (B, L + 1, *spatial) and a label map (B, 1, *spatial) to one number.

        The Dice term is taken for each label over the batch, without the background. The focal term is summed over the
        channels, of which only the reference label's is not 0, and averaged over the voxels. Neither counts voxels that
        nobody has annotated; a batch without any other gives 0.
        """
        label = inside_and_border(label) if self.instances else label
        known = label != UNLABELLED
        if self.regions is not None:
            masks = masks_of(label, len(self.regions), self.regions, 1)
            label = (known & masks.any(1, keepdim=True)) * (1 + masks.int().argmax(1, keepdim=True))
        label, share = torch.where(known, label, 0), known.to(logits.dtype)
        found, reference = logits.softmax(1)[:, 1:] * share, one_hot(label, logits.shape[1])[:, 1:] * share
        dice = dice_loss(found, reference)
        focal = summed((self.focal(logits, label) * share).sum()) / summed(share.sum()).clamp(min=1)
        return dice + focal


class SigmoidDiceFocalLoss(nn.Module):
    """Dice and focal loss of labels that overlap, each by its own sigmoid, as S-SAM's paper trains.

    Args:
        regions: of the labels, see :mod:`sam_monai.networks.regions`.
        gamma: of the focal loss; 0 is cross-entropy.
    """

    words = WORDS

    def __init__(self, regions: Regions, gamma: float = 2.0) -> None:
        super().__init__()
        self.regions = regions
        self.focal = FocalLoss(include_background=True, gamma=gamma, reduction="none")

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits (B, L + 1, *spatial), of which the first is not looked at, and a label map (B, 1, *spatial) to one
        number. The focal term is averaged over labels and voxels; voxels that nobody has annotated do not count."""
        share, logits = (label != UNLABELLED).to(logits.dtype), logits[:, 1:]
        reference = masks_of(label, len(self.regions), self.regions, 1).to(logits.dtype)
        dice = dice_loss(logits.sigmoid() * share, reference)
        focal = summed((self.focal(logits, reference).mean(1, keepdim=True) * share).sum())
        return dice + focal / summed(share.sum()).clamp(min=1)


def loss_of(regions: Regions | None, gamma: float = 2.0, instances: bool = False) -> nn.Module:
    """The loss of labels: by their own sigmoids where they overlap, else by one softmax."""
    if regions is not None and overlap(regions):
        return SigmoidDiceFocalLoss(regions, gamma)
    return SoftmaxDiceFocalLoss(gamma, regions, instances)


def dice_loss(found: Tensor, reference: Tensor) -> Tensor:
    """Of each channel of (B, L, *spatial) over the batch of all processes; the mean.

    Of a label that the batch shows it is ``-ln((Dice + 0.1) / 1.1)``, of another ``1 - Dice``. The logarithm (Wong et
    al., 3D Segmentation with Exponential Logarithmic Loss, MICCAI 2018) makes the gradient of a label that is hardly
    found up to ten times that of one that is found, so a small and rare label is not given up for the sake of the
    background. Without the tenth such a label would leave the others too little (docs/tried.md).
    """
    dims = (0, *range(2, found.ndim))
    common, sizes = summed((found * reference).sum(dims)), summed((found + reference).sum(dims))
    dice, shown = (2 * common + 1e-5) / (sizes + 1e-5), summed(reference.sum(dims)) > 0
    return torch.where(shown, -((dice + SOFTENED) / (1 + SOFTENED)).log(), 1 - dice).mean()
