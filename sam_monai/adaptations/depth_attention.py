"""SD-Trans: attention over the depth of one place, with the weights that attend within a slice.

Wu et al.: Medical SAM Adapter: Adapting Segment Anything Model for Medical Image Segmentation, Medical Image Analysis
102, 2025, https://arxiv.org/abs/2304.12620, section 3.2

Beside each block's attention over the tokens of a slice, the same norm, projections and heads attend over the slices of
a volume at one and the same place. An adapter of its own, without a skip and with a zero up projection, brings the
result in, so an untrained network is unchanged.

The paper does not say how it encodes depth. SAM's tables of relative positions are those of rows and columns;
here every head adds to its scores a sum of cosines of the distance between two slices, of 4, 8, 16 and 32 slices'
wavelength, whose amplitudes are trained and start at 0. A cosine of a difference is a dot product, so it enters as a
few more columns of the queries and keys, and no table of depth x depth is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.blocks import attention_blocks, attention_with_columns
from .medsa_adapters import Adapter

WAVELENGTHS = (4.0, 8.0, 16.0, 32.0)  # slices


class DepthAttention(nn.Module):
    """Attention over slices for one block.

    Args:
        width: C of the block's tokens.
        heads: of the block's attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.adapter = Adapter(width)
        self.amplitudes = nn.Parameter(torch.zeros(heads, len(WAVELENGTHS)))

    def forward(self, attention: Any, projected: Tensor, depth: int) -> Tensor:
        """What the other slices add to each token.

        Args:
            attention: the block's own, a :class:`~sam_monai.backbones.blocks.WindowAttention`.
            projected: what it projected the tokens to, (B * depth, h, w, F), a volume's slices one after the other.
            depth: slices of each volume.

        Returns:
            (B * depth, h, w, C).
        """
        columns = projected.unflatten(0, (-1, depth)).permute(0, 2, 3, 1, 4)  # (B, h, w, depth, F)
        out = self.attend(*attention.heads(columns.flatten(0, 2))).transpose(1, 2).flatten(2)
        out = self.adapter(attention.proj(out)).unflatten(0, columns.shape[:3])
        return out.permute(0, 3, 1, 2, 4).flatten(0, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        depth = q.shape[2]
        turns = torch.arange(depth, device=q.device)[:, None] / torch.tensor(WAVELENGTHS, device=q.device)
        angle = 2 * torch.pi * turns
        waves = torch.cat([angle.cos(), angle.sin()], 1)  # (depth, 8)
        heights = torch.cat([self.amplitudes, self.amplitudes], 1)[:, None]  # (heads, 1, 8)
        q = torch.cat([q * q.shape[3] ** -0.5, (heights * waves).to(q.dtype).expand(len(q), -1, -1, -1)], 3)
        k = torch.cat([k, waves.to(k.dtype).expand(*k.shape[:2], -1, -1)], 3)
        return attention_with_columns(q, k, v)


def add_depth_attention(encoder: nn.Module) -> None:
    """Give every attention block of an image encoder depth attention, in place."""
    for block in attention_blocks(encoder):
        block.depth_attention = DepthAttention(block.width, block.attn.num_heads)
