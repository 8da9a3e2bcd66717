"""Detail: a small trained path from the encoder's early, fine features to the features that the masks are made of.

SAM decodes masks from the encoder's last features alone, which are four times as coarse as its masks. Two convolutions
bring finer ones in, as the skips of a U-Net (Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597) and the
early features of HQ-SAM (Ke et al., NeurIPS 2023, https://arxiv.org/abs/2306.01567) do. What they add starts at zero,
so an untrained network is unchanged. It travels with the image embedding as further channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

RATE = 0.002  # learning rate at most: with three labels, 0.005 ended far below
MASK_WIDTH = 32  # channels of SAM's upscaled features, from which masks are made
CELL = 4  # of the mask decoder's pixels lie side by side in a cell of the image embedding
CHANNELS = MASK_WIDTH * CELL**2  # by which an image embedding grows


class Detail(nn.Module):
    """Two 3 x 3 convolutions: early features (N, C, 4 h, 4 w) -> (N, 512, h, w), the 4 x 4 pixels of each cell as
    channels: rows and columns from coarse to fine, then the 32 channels of SAM's upscaled features.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = (
            nn.Conv2d(width, MASK_WIDTH, 3, padding=1),
            nn.Conv2d(MASK_WIDTH, MASK_WIDTH, 3, padding=1),
        )
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, early: Tensor) -> Tensor:
        fine = self.last(F.gelu(self.first(early)))  # (N, 32, 4 h, 4 w)
        halves = fine.unflatten(3, (-1, 2, 2)).unflatten(2, (-1, 2, 2))  # (N, 32, h, 2, 2, w, 2, 2)
        return halves.permute(0, 3, 6, 4, 7, 1, 2, 5).flatten(1, 5)


def add_detail(encoder: nn.Module) -> None:
    """Give an image encoder a path for detail, in place."""
    encoder.detail = Detail(encoder.early_width)  # type: ignore[arg-type]
