"""SD-Trans: attention over the depth of one place, with the weights that attend within a slice.

Wu et al.: Medical SAM Adapter: Adapting Segment Anything Model for Medical Image Segmentation, Medical Image Analysis
102, 2025, https://arxiv.org/abs/2304.12620, section 3.2

Beside each block's attention over the tokens of a slice, the same norm, projections and heads attend over the slices of
a volume at one and the same place. An adapter of its own, without a skip and with a zero up projection, brings the
result in, so an untrained network is unchanged.

The paper does not say how slices know their distance. SAM's tables of relative positions are those of rows and columns;
here every head adds to its scores a sum of cosines of the distance between two slices, of 4, 8, 16 and 32 slices'
wavelength, whose amplitudes are trained and start at 0. A cosine of a difference is a dot product, so it enters as a
few more columns of the queries and keys, and no table of depth x depth is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.blocks import attention_blocks
from .adapters import Adapter

WAVELENGTHS = (4.0, 8.0, 16.0, 32.0)  # slices
PLAIN = 64  # slices up to which plain attention is faster than fused, which has a slow backward pass on small sequences


class DepthAttention(nn.Module):
    """Attention over slices for one block.

    Args:
        width: C of the block's tokens.
        heads: of the block's attention.
        ratio: bottleneck of the adapter over C.
    """

    def __init__(self, width: int, heads: int, ratio: float = 0.25) -> None:
        super().__init__()
        self.adapter = Adapter(width, ratio)
        self.amplitudes = nn.Parameter(torch.zeros(heads, len(WAVELENGTHS)))
        self.depth = 0  # slices of a volume, says :func:`slices_of_a_volume`; 0: pictures, which have no depth

    def forward(self, attention: nn.Module, tokens: Tensor) -> Tensor:
        """What the other slices add to each token.

        Args:
            attention: the block's own, whose ``heads`` gives queries, keys and values (N, heads, T, head width) of
                tokens (N, T, C), and whose ``proj`` the output.
            tokens: (B * depth, *places, C), a volume's slices one after the other.

        Returns:
            the same shape.
        """
        if self.depth == 0:
            return torch.zeros_like(tokens)
        places = tokens.shape[1:-1]
        columns = tokens.flatten(1, -2).unflatten(0, (-1, self.depth)).transpose(1, 2).flatten(0, 1)  # (B P, depth, C)
        out = attention.proj(self.attend(*attention.heads(columns)).transpose(1, 2).flatten(2))
        out = self.adapter(out).unflatten(0, (-1, places.numel())).transpose(1, 2)  # (B, depth, P, C)
        return out.flatten(0, 1).unflatten(1, places)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        depth, width, scale = q.shape[2], v.shape[3], q.shape[3] ** -0.5
        turns = torch.arange(depth, device=q.device)[:, None] / torch.tensor(WAVELENGTHS, device=q.device)
        angle = 2 * torch.pi * turns
        waves = torch.cat([angle.cos(), angle.sin()], 1)  # (depth, 8)
        heights = torch.cat([self.amplitudes, self.amplitudes], 1)[:, None]  # (heads, 1, 8)
        q = torch.cat([q * scale, (heights * waves).to(q.dtype).expand(len(q), -1, -1, -1)], 3)
        k = torch.cat([k, waves.to(k.dtype).expand(*k.shape[:2], -1, -1)], 3)
        if depth <= PLAIN:
            return (q @ k.transpose(2, 3)).softmax(-1).to(v.dtype) @ v
        return F.scaled_dot_product_attention(q, k, F.pad(v, (0, q.shape[3] - width)), scale=1.0)[..., :width]


def add_depth_attention(encoder: nn.Module, ratio: float = 0.25) -> None:
    """Give every attention block of an image encoder depth attention, in place."""
    for block in attention_blocks(encoder):
        block.depth_attention = DepthAttention(block.width, block.attn.num_heads, ratio)


@contextmanager
def slices_of_a_volume(encoder: nn.Module, depth: int) -> Iterator[None]:
    """Within it every ``depth`` consecutive slices that enter the encoder are one volume; 0: they are pictures."""
    layers = [block.depth_attention for block in attention_blocks(encoder) if block.depth_attention is not None]
    try:
        for layer in layers:
            layer.depth = depth
        yield
    finally:
        for layer in layers:
            layer.depth = 0
