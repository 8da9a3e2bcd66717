"""Med-SA's adapters, and HyP-Adpt, whose weights are made from the prompt.

Wu et al.: Medical SAM Adapter: Adapting Segment Anything Model for Medical Image Segmentation, Medical Image Analysis
102, 2025, https://arxiv.org/abs/2304.12620, section 3

Encoder block: an adapter with a skip after the attention, one beside the MLP. Decoder block: HyP-Adpt after the
attention of the prompt to the image, an adapter beside the MLP, one after the attention of the image to the prompt.
Every up projection starts at zero, so an untrained network is SAM exactly. In TinyViT the adapters of a block have the
width of its stage; its first stage, of convolutions, has none.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

from ..backbones.backbone import WIDTH
from ..backbones.blocks import attention_blocks
from ..backbones.decoder import SharedAttention

MLP_SCALE = 0.5  # of the adapters beside an MLP, the paper's


class Adapter(nn.Module):
    """Down, GELU, up: (..., C) -> (..., C). Zero before training.

    Args:
        width: C.
        ratio: of the bottleneck to C.
        scale: of the output.
        skip: add the input.
    """

    def __init__(self, width: int, ratio: float = 0.25, scale: float = 1.0, skip: bool = False) -> None:
        super().__init__()
        bottleneck = max(1, round(width * ratio))
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.scale, self.skip = scale, skip

    def forward(self, x: Tensor) -> Tensor:
        change = self.up(F.gelu(self.down(x)))
        if self.scale != 1:
            change = self.scale * change
        return x + change if self.skip else change


class HypAdapter(nn.Module):
    """HyP-Adpt (section 3.3): e <- ReLU(Norm(e W_k)) in a reduced dimension, with W_k made from the prompt.

    W_k = Reshape(M_k(e_prompt)). The paper publishes neither the number of steps nor the sizes: two steps, 64 numbers
    wide, M_k of one hidden layer as wide. W_k starts as a random matrix, the same for every prompt, to which the prompt
    adds.

    Args:
        width: C.
        reduced: dimension in which the steps run.
        steps: number of matrices.
    """

    def __init__(self, width: int, reduced: int = 64, steps: int = 2) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, reduced), nn.Linear(reduced, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.makers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, reduced), nn.ReLU(), nn.Linear(reduced, reduced * reduced))
            for _ in range(steps)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(reduced) for _ in range(steps))
        for maker in self.makers:
            last: Any = maker[-1]  # type: ignore[index]
            nn.init.normal_(last.weight, std=0.1 * reduced**-1)
            nn.init.normal_(last.bias, std=reduced**-0.5)
        self.reduced = reduced

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, L, T, C) and e_prompt (N, L, 256) -> (N, L, T, C), with a skip."""
        e = self.down(x)
        for maker, norm in zip(self.makers, self.norms, strict=True):
            matrix = maker(condition).unflatten(-1, (self.reduced, self.reduced))
            e = F.relu(norm(e @ matrix.to(e.dtype)))
        return x + self.up(e)


class AdaptedAttention(SharedAttention):
    """The decoder's attention with an adapter after it."""

    adapter: nn.Module

    def forward(self, q: Tensor, k: Tensor, v: Tensor, counted: Tensor | None = None, *condition: Tensor) -> Tensor:
        return self.adapter(super().forward(q, k, v, counted), *condition)


class AdaptedMLP(MLPBlock):
    """segment-anything's MLP with an adapter beside it."""

    adapter: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.adapter(x)


def adapt_image_encoder(encoder: nn.Module, ratio: float = 0.25, scale: float = MLP_SCALE) -> None:
    """Give every attention block its two adapters, in place."""
    for block in attention_blocks(encoder):
        block.space_adapter = Adapter(block.width, ratio, skip=True)
        block.mlp_adapter = Adapter(block.width, ratio, scale)


def adapt_mask_decoder(
    decoder: nn.Module, ratio: float = 0.25, scale: float = MLP_SCALE, reduced: int = 64, steps: int = 2
) -> None:
    """Give every block of SAM's mask decoder its three adapters, in place."""
    for layer in decoder.transformer.layers:  # type: ignore[union-attr]
        after_prompt, mlp, after_image = layer.cross_attn_token_to_image, layer.mlp, layer.cross_attn_image_to_token
        after_prompt.__class__ = after_image.__class__ = AdaptedAttention
        mlp.__class__ = AdaptedMLP
        after_prompt.adapter = HypAdapter(WIDTH, reduced, steps)
        mlp.adapter = Adapter(WIDTH, ratio, scale)
        after_image.adapter = Adapter(WIDTH, ratio, skip=True)
