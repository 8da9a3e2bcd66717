"""PTSAM's prompts: learned tokens for the mask decoder, and deep prompts for every block of the image encoder.

Piater, Barz, Freytag: Prompt-Tuning SAM: From Generalist to Specialist with only 2048 Parameters and 16 Training
Images, CVPR workshops 2025, https://arxiv.org/abs/2504.16739

A block's deep prompts are new tokens beside the patches, whose outputs are dropped before the next block brings its
own. So they only add rows of keys and values, made by the block's own first norm and projections, to which every
patch of every window attends. They need no queries, and no sequence gets longer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..backbones.blocks import attention_blocks


def decoder_prompts(labels: int, tokens: int) -> nn.Parameter:
    """Tokens (L, tokens, 256) that take the place of SAM's sparse prompt, one set a label; from the unit normal
    distribution, the paper does not say."""
    return nn.Parameter(torch.randn(labels, tokens, 256))


def insert_encoder_prompts(encoder: nn.Module, tokens: int) -> None:
    """Give every attention block of an image encoder trained prompts (tokens, C), in place.

    Relative position biases between prompts and patches are 0 (the paper does not say).
    """
    for block in attention_blocks(encoder):
        like: Tensor = next(block.parameters())
        block.prompts = nn.Parameter(0.02 * torch.randn(tokens, block.width, device=like.device))
