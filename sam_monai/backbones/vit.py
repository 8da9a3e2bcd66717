"""SAM's ViT image encoders, built from segment-anything's modules, with an attention that never holds the full bias."""

from __future__ import annotations

from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention, Block, ImageEncoderViT, get_rel_pos
from torch import Tensor, nn

from .blocks import PLAIN, Seam, WindowAttention, attention_with_columns
from .frozen import gelu_of, kept
from .onednn import has_amx
from .parts import require

# architecture: width, blocks, heads, blocks with global attention
SIZES = {
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
}
PATCH = 16
PARTS = ("norm1", "norm2", "mlp.lin1", "mlp.lin2", "window_size", "attn.qkv", "attn.proj", "attn.num_heads",
         "attn.scale", "attn.rel_pos_h", "attn.rel_pos_w")  # fmt: skip
WINDOW = 14


class RelPosAttention(WindowAttention, Attention):
    """segment-anything's attention, same parameters and numbers, without its (tokens x tokens) tables of all heads.

    The decomposed relative bias ``h[q, i] + w[q, j]`` is a dot product: with ``[h, w]`` appended to the query and the
    one-hot rows ``[e_i, e_j]`` to the key it is part of the scores.
    """

    def project(self, x: Tensor) -> Tensor:
        return self.qkv(x)

    def projected_zeros(self) -> Tensor:
        return self.qkv.bias

    def heads(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = projected.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def attend(self, tokens: Tensor, window: tuple[int, int], others: Tensor | None, padded: bool) -> Tensor:
        n, h, w, _ = tokens.shape
        q, k, v = self.heads(tokens.flatten(1, 2))
        grid = q.unflatten(2, (h, w))
        rows = positions(self.rel_pos_h, window[0], q.dtype)[:h]
        columns = positions(self.rel_pos_w, window[1], q.dtype)[:w]
        bias_h = torch.einsum("bnhwc,hkc->bnhwk", grid, rows).flatten(2, 3)
        bias_w = torch.einsum("bnhwc,wkc->bnhwk", grid, columns).flatten(2, 3)
        q = q * self.scale
        if others is not None:
            _, other_k, other_v = (part.expand(n, -1, -1, -1) for part in self.heads(others[None]))
            k, v = torch.cat([k, other_k], 2), torch.cat([v, other_v], 2)
        if not padded and tables_are_faster(q, k):
            return attention_with_tables(q, k, v, bias_h, bias_w).transpose(1, 2).reshape(n, h, w, -1)
        q_parts = [q, bias_h[..., :h], bias_w[..., :w]]
        if padded:
            q_parts.append(padding_bias(bias_h, bias_w, h, w).to(q.dtype))
        further = k.shape[2] - h * w
        name = ("places", h, w, further, padded, q.dtype)
        where = kept(name, lambda: places(h, w, further, padded).to(k), self.rel_pos_h)
        k = torch.cat([k, where.expand(n, self.num_heads, -1, -1)], 3)
        return attention_with_columns(torch.cat(q_parts, 3), k, v).transpose(1, 2).reshape(n, h, w, -1)


def positions(table: Tensor, size: int, precision: torch.dtype) -> Tensor:
    """A table of relative positions (2 * size - 1, C) as (size, size, C), by the query's place and the key's."""
    return kept((size, precision), lambda: get_rel_pos(size, size, table).to(precision), table)


def places(h: int, w: int, further: int, padded: bool) -> Tensor:
    """Which row and which column keys are in: (h * w + further, h + w + padded) of zeros and ones. Further keys are in
    none, but the last of them, if it stands for the padding, in a column of its own."""
    rows, columns = torch.eye(h).repeat_interleave(w, 0), torch.eye(w).repeat(h, 1)
    where = F.pad(torch.cat([rows, columns], 1), (0, int(padded), 0, further))
    if padded:
        where[-1, -1] = 1
    return where


def tables_are_faster(q: Tensor, k: Tensor) -> bool:
    """On a CPU without gradients, for long sequences: further columns treble the width of fused attention. AMX makes
    more of that width in bf16 than of a table."""
    columns = torch.is_grad_enabled() or torch.compiler.is_compiling() or (q.dtype == torch.bfloat16 and has_amx())
    return not columns and q.device.type == "cpu" and k.shape[2] > PLAIN


def attention_with_tables(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """Attention with the decomposed bias as a table, made for a part of the queries of one head at a time.

    Args:
        q: scaled queries (N, heads, h * w, head width).
        k: keys (N, heads, S, head width), the first h * w of the grid's places, the rest without a position.
        v: values, like the keys.
        bias_h: (N, heads, h * w, h).
        bias_w: (N, heads, h * w, w).
    """
    n, heads, queries, width = q.shape
    h, w = bias_h.shape[3], bias_w.shape[3]
    attended = q.new_empty(n, queries, heads, width).transpose(1, 2)
    whole = q.new_empty(min(PLAIN, queries), k.shape[2])
    for i, j, first in product(range(n), range(heads), range(0, queries, PLAIN)):
        part = (i, j, slice(first, first + PLAIN))
        table = whole[: queries - first]
        torch.add(bias_h[part][:, :, None], bias_w[part][:, None], out=table[:, : h * w].unflatten(1, (h, w)))
        table[:, h * w :] = 0
        attended[part] = attention_of_a_head(q[part], k[i, j], v[i, j], table)
    return attended


def attention_of_a_head(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Scaled queries (T, E), keys and values (S, E), and a bias (T, S), which is not kept, to (T, E)."""
    if q.dtype == torch.bfloat16:  # whose fused attention takes longer than its products and softmax
        with torch.autocast(q.device.type, enabled=False):
            return bias.addmm_(q, k.T).softmax(1) @ v
    one = [part[None, None] for part in (q, k, v, bias)]
    return F.scaled_dot_product_attention(*one, scale=1.0)[0, 0]


def padding_bias(bias_h: Tensor, bias_w: Tensor, h: int, w: int) -> Tensor:
    """log of the sum of exp(bias_h[i] + bias_w[j]) over a window's places beyond its first h rows and w columns.

    Args:
        bias_h: (..., rows of a window).
        bias_w: (..., columns of a window).

    Returns:
        (..., 1).
    """
    below = bias_h[..., h:].logsumexp(-1, keepdim=True) + bias_w.logsumexp(-1, keepdim=True)
    beside = bias_h[..., :h].logsumexp(-1, keepdim=True) + bias_w[..., w:].logsumexp(-1, keepdim=True)
    return torch.logaddexp(below, beside)


class SeamedBlock(Seam, Block):
    """segment-anything's block, same parameters and numbers, with a seam."""

    def transform(self, x: Tensor, depth: int) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        prompts = None if self.prompts is None else self.norm1(self.prompts)
        x = self.after_attention(x, self.norm1(x), prompts, self.window_size, depth)
        normed = self.norm2(x)
        return self.beside_mlp(x + self.mlp.lin2(gelu_of(self.mlp.lin1, normed)), normed)


class SeamedViT(ImageEncoderViT):
    """segment-anything's, with the same parameters and numbers, whose blocks are told a volume's depth."""

    def forward(self, x: Tensor, depth: int = 0) -> Tensor:
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for block in self.blocks:
            x = block(x, depth)
        return self.neck(x.permute(0, 3, 1, 2))


def build_vit(
    width: int, blocks: int, heads: int, global_blocks: tuple[int, ...], image_size: int, window: int = WINDOW
) -> ImageEncoderViT:
    """A ViT image encoder with random weights: (N, 3, image_size, image_size) -> (N, 256, image_size / 16, same)."""
    encoder = SeamedViT(
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
    require("segment-anything", encoder, "patch_embed", "pos_embed", "neck", "blocks")
    for block in encoder.blocks:
        require("segment-anything", block, *PARTS)
        block.__class__, block.attn.__class__ = SeamedBlock, RelPosAttention
        block.open_seam(width)
    encoder.largest_array = (image_size // PATCH) ** 2 * 4 * width  # an MLP's
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
                table.float().permute(0, 3, 1, 2), size, mode="bicubic", align_corners=False, antialias=True
            )
            state[key] = resized.permute(0, 2, 3, 1).contiguous()
        elif "rel_pos" in name and table.ndim == 2:
            state[key] = F.interpolate(table.float().T[None], target.shape[0], mode="linear")[0].T.contiguous()
    return state
