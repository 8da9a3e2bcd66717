"""SAM's ViT image encoders, built from segment-anything's modules, with an attention that never holds the full bias."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    ImageEncoderViT,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn

from .blocks import Seam

# architecture: width, blocks, heads, blocks with global attention
SIZES = {
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
}
PATCH = 16
WINDOW = 14


class RelPosAttention(Attention):
    """segment-anything's attention, same parameters and numbers, through ``scaled_dot_product_attention``.

    The decomposed relative bias ``h[q, i] + w[q, j]`` is a dot product: with ``[h, w]`` appended to the query and the
    one-hot rows ``[e_i, e_j]`` to the key it enters the attention without a (tokens x tokens) table. Over a window,
    where that table is small, it is given as a mask instead, which is faster.
    """

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (N, T, C) to queries, keys and values (N, heads, T, head width)."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]

    def forward(self, x: Tensor, prompts: Tensor | None = None) -> Tensor:
        """(N, h, w, C), and deep prompts (n, C) if any -> (N, h, w, C)."""
        n, h, w, c = x.shape
        q, k, v = self.heads(x.flatten(1, 2))
        extra = 0 if prompts is None else len(prompts)
        rows = get_rel_pos(h, h, self.rel_pos_h).to(q.dtype)
        columns = get_rel_pos(w, w, self.rel_pos_w).to(q.dtype)
        grid = q.unflatten(2, (h, w))
        bias_h = torch.einsum("bnhwc,hkc->bnhwk", grid, rows)
        bias_w = torch.einsum("bnhwc,wkc->bnhwk", grid, columns)
        if h * w <= WINDOW * WINDOW:
            bias = (bias_h[..., :, None] + bias_w[..., None, :]).reshape(n, self.num_heads, h * w, h * w)
            if prompts is not None:
                k, v = self.with_prompts(k, v, prompts)
                bias = F.pad(bias, (0, extra))
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            q = torch.cat([q * self.scale, bias_h.flatten(2, 3), bias_w.flatten(2, 3)], -1)
            where_h = torch.eye(h, dtype=k.dtype, device=k.device).repeat_interleave(w, 0)
            where_w = torch.eye(w, dtype=k.dtype, device=k.device).repeat(h, 1)
            where = torch.cat([where_h, where_w], -1)
            if prompts is not None:
                k, v = self.with_prompts(k, v, prompts)
                where = F.pad(where, (0, 0, 0, extra))
            k = torch.cat([k, where.expand(n, self.num_heads, -1, -1)], -1)
            out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, h + w)), scale=1.0)[..., : c // self.num_heads]
        return self.proj(out.transpose(1, 2).reshape(n, h, w, c))

    def with_prompts(self, k: Tensor, v: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of prompts behind those of the patches."""
        _, extra_k, extra_v = (part.expand(len(k), -1, -1, -1) for part in self.heads(prompts[None]))
        return torch.cat([k, extra_k], 2), torch.cat([v, extra_v], 2)


class SeamedBlock(Seam, Block):
    """segment-anything's block, same parameters and numbers, with a seam."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        size = x.shape[1:3]
        normed = self.norm1(x)
        prompts = None if self.prompts is None else self.norm1(self.prompts)
        if self.window_size > 0:
            windows, padded = window_partition(normed, self.window_size)
            attended = window_unpartition(self.attn(windows, prompts), self.window_size, padded, size)
        else:
            attended = self.attn(normed, prompts)
        x = self.after_attention(x, attended, self.attn, normed)
        normed = self.norm2(x)
        return self.beside_mlp(x + self.mlp(normed), normed)


def build_vit(
    width: int, blocks: int, heads: int, global_blocks: tuple[int, ...], image_size: int, window: int = WINDOW
) -> ImageEncoderViT:
    """A ViT image encoder with random weights: (N, 3, image_size, image_size) -> (N, 256, image_size / 16, same)."""
    encoder = ImageEncoderViT(
        img_size=image_size,
        patch_size=PATCH,
        embed_dim=width,
        depth=blocks,
        num_heads=heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),  # type: ignore[arg-type]
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=global_blocks,
    )
    for block in encoder.blocks:
        block.__class__, block.attn.__class__ = SeamedBlock, RelPosAttention
        block.open_seam(width)
    return encoder


def fit_position_tables(state: dict[str, Tensor], encoder: ImageEncoderViT) -> dict[str, Tensor]:
    """SAM's weights with the position tables interpolated to the encoder's image size; windows stay as they are.

    The absolute table (1, h, w, C) is resized bicubically with antialiasing, the relative ones of the global blocks
    (2 h - 1, head width) linearly, as segment-anything's own ``get_rel_pos`` does on the fly.
    """
    state = dict(state)
    for name, target in encoder.state_dict().items():
        key = f"image_encoder.{name}"
        table = state.get(key)
        if table is None or table.shape == target.shape:
            continue
        if name == "pos_embed" and table.ndim == 4:
            size = target.shape[1:3]
            resized = F.interpolate(
                table.permute(0, 3, 1, 2), size, mode="bicubic", align_corners=False, antialias=True
            )
            state[key] = resized.permute(0, 2, 3, 1).contiguous()
        elif "rel_pos" in name and table.ndim == 2:
            state[key] = F.interpolate(table.T[None], target.shape[0], mode="linear")[0].T.contiguous()
    return state
