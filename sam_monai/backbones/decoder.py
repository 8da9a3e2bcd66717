"""SAM's mask decoder for many prompts of many images, with what concerns the image alone computed once an image."""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention
from torch import Tensor

from .frozen import autocast_precision


class SharedAttention(Attention):
    """segment-anything's decoder attention, same parameters and numbers, with any leading axes, which broadcast: image
    tokens (N, 1, P, C) are projected once for the L prompts (N, L, T, C) that they meet."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        leading = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        projected = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        flat = (x.expand(*leading, -1, -1).flatten(0, -3) for x in projected)
        q, k, v = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in flat)
        scores = (q @ k.transpose(2, 3)) / q.shape[3] ** 0.5
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).unflatten(0, leading)


def share_image_tokens(decoder: MaskDecoder) -> None:
    for module in decoder.modules():
        if type(module) is Attention:
            module.__class__ = SharedAttention


def decode_masks(decoder: MaskDecoder, source: Tensor, position: Tensor, tokens: Tensor) -> Tensor:
    """SAM's single-mask output.

    Under autocast image tokens are held in its precision, in which they are multiplied anyway: adding and copying them
    takes most of the decoder's time.

    Args:
        decoder: after :func:`share_image_tokens`.
        source: image embedding (N, 256, h, w), the dense prompt's added.
        position: dense position encoding (1, 256, h, w).
        tokens: sparse prompts (N, L, T, 256).

    Returns:
        float32 logits (N, L, 4 h, 4 w).
    """
    transformer: Any = decoder.transformer
    precision = autocast_precision(source)
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    prompts = torch.cat([output.expand(*tokens.shape[:2], -1, -1), tokens], 2)
    image, place = (x.to(precision).flatten(2).transpose(1, 2)[:, None] for x in (source, position))
    queries = prompts
    for layer in transformer.layers:
        queries, image = layer(queries, image, query_pe=prompts, key_pe=place)
    attended = transformer.final_attn_token_to_image(q=queries + prompts, k=image + place, v=image)
    queries = transformer.norm_final_attn(queries + attended)
    grid = image.flatten(0, 1).transpose(1, 2).unflatten(2, source.shape[2:])
    masks = decoder.output_upscaling(grid)  # (N L, 32, 4 h, 4 w)
    weights = decoder.output_hypernetworks_mlps[0](queries[:, :, 1]).flatten(0, 1)  # (N L, 32)
    return torch.einsum("nc,nchw->nhw", weights.float(), masks.float()).unflatten(0, tokens.shape[:2])
