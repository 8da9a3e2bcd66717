"""SAM's mask decoder for many prompts of many images, with what concerns the image alone computed once an image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn

from .frozen import autocast_precision
from .onednn import linear


class SharedAttention(Attention):
    """segment-anything's decoder attention, with the same parameters and numbers. Leading axes broadcast: image tokens
    (N, 1, P, C) are projected once for the L prompts (N, L, T, C) that they meet."""

    few_keys = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, counted: Tensor | None = None) -> Tensor:
        """Keys that are not ``counted``, a bool of (N, L, T), take no part."""
        leading = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        projected = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        flat = (x.expand(*leading, -1, -1).flatten(0, -3) for x in projected)
        q, k, v = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in flat)
        left_out = None if counted is None else ~counted.flatten(0, 1)[:, None, None]
        if self.few_keys:  # a softmax over a short last axis is not vectorised
            scores = (k @ q.transpose(2, 3)) / q.shape[3] ** 0.5
            scores = scores if left_out is None else scores.masked_fill(left_out.mT, -torch.inf)
            attention = scores.softmax(2).transpose(2, 3)
        else:
            scores = (q @ k.transpose(2, 3)) / q.shape[3] ** 0.5
            scores = scores if left_out is None else scores.masked_fill(left_out, -torch.inf)
            attention = scores.softmax(3)
        return self.out_proj((attention @ v).transpose(1, 2).flatten(2)).unflatten(0, leading)


class PromptedBlock(TwoWayAttentionBlock):
    """segment-anything's block of the decoder, with the same parameters and numbers, which hands on to its attention
    what belongs to one request. Kept in the modules, it would reach other requests to the same network."""

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        query_pe: Tensor,
        key_pe: Tensor,
        counted: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Prompt tokens (N, L, T, C) and image tokens (N, 1 or L, P, C), each with its positions, to the same.

        Args:
            counted: bool (N, L, T); the other prompt tokens are seen by none.
            condition: (N, L, 256), what an adapter after the prompt's attention to the image makes its weights from.
        """
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries, counted)
        else:
            placed = queries + query_pe
            queries = queries + self.self_attn(placed, placed, queries, counted)
        queries, image = self.norm1(queries), keys + key_pe
        conditioned = () if condition is None else (condition,)
        queries = queries + self.cross_attn_token_to_image(queries + query_pe, image, keys, None, *conditioned)
        queries = self.norm2(queries)
        queries = self.norm3(queries + self.mlp(queries))
        keys = keys + self.cross_attn_image_to_token(image, queries + query_pe, queries, counted)
        return queries, self.norm4(keys)


def share_image_tokens(decoder: MaskDecoder) -> None:
    """Make a decoder, in place, one for :func:`decode_masks`."""
    for name, module in decoder.named_modules():
        if type(module) is TwoWayAttentionBlock:
            module.__class__ = PromptedBlock
        if type(module) is Attention:
            module.__class__ = SharedAttention
            module.few_keys = name.endswith("cross_attn_image_to_token")


def decode_masks(
    decoder: MaskDecoder,
    source: Tensor,
    position: Tensor,
    tokens: Tensor,
    counted: Tensor | None = None,
    condition: Tensor | None = None,
) -> Tensor:
    """SAM's single-mask output.

    Under autocast image tokens are held in its precision, in which they are multiplied anyway: adding and copying them
    takes most of the decoder's time.

    Args:
        decoder: after :func:`share_image_tokens`.
        source: image embedding with the dense prompt added, (N, 1, 256, h, w), or (N, L, 256, h, w) where each prompt
            has a dense one of its own.
        position: dense position encoding (1, 256, h, w).
        tokens: sparse prompts (N, L, T, 256).
        counted: bool (N, L, T), which of these tokens the others see; ``None``: all.
        condition: (N, L, 256), what adapters of the decoder make their weights from.

    Returns:
        float32 logits (N, L, 4 h, 4 w).
    """
    transformer: Any = decoder.transformer
    precision = autocast_precision(source)
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    prompts = torch.cat([output.expand(*tokens.shape[:2], -1, -1), tokens], 2)
    if counted is not None:
        counted = torch.cat([counted.new_ones(*counted.shape[:2], len(output)), counted], 2)
    image, place = (x.to(precision).flatten(3).transpose(2, 3).contiguous() for x in (source, position[:, None]))
    queries = prompts
    for layer in transformer.layers:
        queries, image = layer(queries, image, prompts, place, counted, condition)
    attended = transformer.final_attn_token_to_image(q=queries + prompts, k=image + place, v=image)
    queries = transformer.norm_final_attn(queries + attended)
    masks = upscaled(decoder, image.flatten(0, 1))
    weights = decoder.output_hypernetworks_mlps[0](queries[:, :, 1]).flatten(0, 1)  # (N L, 32)
    with torch.autocast(masks.device.type, enabled=False):
        logits = (weights.float()[:, None] @ masks.flatten(1, -2).float().transpose(1, 2))[:, 0]
    rows, columns = source.shape[3:]
    places = logits.unflatten(1, (rows, columns, 2, 2, 2, 2)).permute(0, 1, 3, 5, 2, 4, 6)
    return places.reshape(*tokens.shape[:2], 4 * rows, 4 * columns)


def upscaled(decoder: MaskDecoder, tokens: Tensor) -> Tensor:
    """Image tokens (M, P, 256) to the features of their 4 x 4 pixels (M, P, 2, 2, 2, 2, 32), the axes rows, columns,
    rows and columns from coarse to fine.

    segment-anything's ``output_upscaling``, same parameters and numbers. Its transposed convolutions do not overlap,
    so each is a product by token, and channels stay together in memory.
    """
    first, norm, gelu, second, _ = decoder.output_upscaling
    x = doubled(first, tokens)
    with torch.autocast(x.device.type, enabled=False):
        scale = [parameter.to(x.dtype) for parameter in (norm.weight, norm.bias)]
        x = F.layer_norm(x, scale[0].shape, *scale, eps=norm.eps)  # type: ignore[arg-type]
    return gelu(doubled(second, gelu(x)))


def doubled(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of kernel and stride 2 on tokens (..., C) -> (..., 2, 2, C')."""
    assert layer.bias is not None
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2).to(autocast_precision(x))
    return linear(x, weight, layer.bias.repeat(4).to(weight.dtype)).unflatten(-1, (2, 2, -1))
