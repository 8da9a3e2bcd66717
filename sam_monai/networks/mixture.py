"""Images of any number of channels brought to the three that SAM sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

COLOURS = 3  # of SAM's images


class ChannelMixture(nn.Module):
    """A trained 1 x 1 convolution, (N, C, H, W) -> (N, 3, H, W). Each of the three starts as the mean of all channels,
    so an untrained adapter is SAM on the mean.

    It computes in float32 under autocast too, for in bf16 a picture has fewer grey values than 8 bits.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((COLOURS, channels, 1, 1), 1 / channels))
        self.bias = nn.Parameter(torch.zeros(COLOURS))

    def forward(self, slices: Tensor) -> Tensor:
        with torch.autocast(slices.device.type, enabled=False):
            return nn.functional.conv2d(slices.float(), self.weight, self.bias)
