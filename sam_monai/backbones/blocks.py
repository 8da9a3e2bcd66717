"""The attention blocks of both kinds of image encoder, and their seam, where adaptations enter."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .onednn import has_amx

PLAIN = 512  # keys up to which plain attention may be faster than fused on a CPU


class WindowAttention:
    """Attention over windows of a grid, where SAM's pads the grid with zeros until windows fit.

    All padded tokens have one key and one value, so a window cut off by the grid's edge sees them as a single key, with
    the logarithm of their summed exponential biases as its bias: the same numbers, and nothing computed for the
    padding. Subclasses say how tokens are projected and what the bias is.
    """

    num_heads: int
    proj: nn.Module

    def project(self, x: Tensor) -> Tensor:
        """Tokens (..., C) to queries, keys and values, as one tensor (..., F)."""
        raise NotImplementedError

    def projected_zeros(self) -> Tensor:
        """What a token of zeros, as which the padding enters, is projected to: (F,)."""
        raise NotImplementedError

    def heads(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projected tokens (N, T, F) to queries, keys and values (N, heads, T, head width)."""
        raise NotImplementedError

    def attend(self, tokens: Tensor, window: tuple[int, int], others: Tensor | None, padded: bool) -> Tensor:
        """Attention within windows, as far as they lie on the grid.

        Args:
            tokens: projected (N, h, w, F), the upper left part of a window each.
            window: rows and columns of a whole window.
            others: further projected tokens (n, F) that are keys and values alone.
            padded: the last of these stands for the rest of the window, the others have no position.

        Returns:
            (N, h, w, heads * head width), before the output's projection.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, prompts: Tensor | None = None, window: int = 0) -> Tensor:
        """(N, h, w, C), and deep prompts (n, C) if any -> (N, h, w, C). Window 0: the whole grid."""
        others = None if prompts is None else self.project(prompts)
        return self.proj(self.over_windows(self.project(x), window, others))

    def over_windows(self, projected: Tensor, window: int, prompts: Tensor | None = None) -> Tensor:
        """Projected tokens (N, h, w, F), and prompts (n, F) -> (N, h, w, heads * head width)."""
        rows, columns = projected.shape[1:3]
        size = (window, window) if window else (rows, columns)
        zeros = self.projected_zeros()[None].to(projected.dtype) if rows % size[0] or columns % size[1] else None
        if zeros is not None and padding_is_faster(projected):
            projected = to_whole_windows(projected, window, zeros)
        bands = []
        for band in projected.split(parts(projected.shape[1], size[0]), 1):
            attended = []
            for region in band.split(parts(projected.shape[2], size[1]), 2):
                h, w = min(region.shape[1], size[0]), min(region.shape[2], size[1])
                padded = (h, w) != size
                others = torch.cat([part for part in (prompts, zeros) if part is not None]) if padded else prompts
                grid = region.unflatten(1, (-1, h)).unflatten(3, (-1, w)).transpose(2, 3)  # (N, rows, columns, h, w, F)
                out = self.attend(grid.flatten(0, 2), size, others, padded).unflatten(0, grid.shape[:3])
                attended.append(out.transpose(2, 3).flatten(3, 4).flatten(1, 2))
            bands.append(torch.cat(attended, 2))
        return torch.cat(bands, 1)[:, :rows, :columns]


def padding_is_faster(x: Tensor) -> bool:
    """A GPU takes longer to be told of the many operations on windows that the grid's edges cut off, and they make an
    exported program three times as long."""
    return x.device.type != "cpu" or torch.compiler.is_exporting()


def to_whole_windows(projected: Tensor, window: int, zeros: Tensor) -> Tensor:
    """Projected tokens (N, h, w, F) with projected zeros (1, F) beyond the last row and column, as SAM pads."""
    for axis in (1, 2):
        shape = list(projected.shape)
        shape[axis] = -shape[axis] % window
        if shape[axis]:
            projected = torch.cat([projected, zeros.expand(shape)], axis)
    return projected


def parts(length: int, window: int) -> list[int]:
    """Lengths of the whole windows along an axis together, and of the one cut off by its end."""
    return [part for part in (length // window * window, length % window) if part]


def plain_is_faster(q: Tensor, k: Tensor) -> bool:
    """On a CPU, for short sequences: the fused attention's backward pass takes several times as long as the plain one,
    and in bf16 its forward pass twice as long, save for AMX where there are few columns."""
    few = q.shape[3] <= 32 and has_amx()
    gains = torch.is_grad_enabled() or (q.dtype == torch.bfloat16 and not few)
    return gains and q.device.type == "cpu" and k.shape[2] <= PLAIN


def plain_attention(scores: Tensor, v: Tensor) -> Tensor:
    """Scores (N, heads, T, S) and values (N, heads, S, head width) to (N, heads, T, head width), softmax as precise as
    the scores."""
    with torch.autocast(scores.device.type, enabled=False):
        return scores.to(v.dtype).softmax(-1) @ v


def attention_with_columns(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention whose bias is part of the scaled queries (N, heads, T, E) and the keys (N, heads, S, E), in further
    columns beyond the width of the values (N, heads, S, head width)."""
    if plain_is_faster(q, k):
        return plain_attention(q @ k.transpose(2, 3), v)
    width = v.shape[3]
    return F.scaled_dot_product_attention(q, k, F.pad(v, (0, q.shape[3] - width)), scale=1.0)[..., :width]


class Seam:
    """What an attention block may be given. ``None``: the block is SAM's own there.

    prompts: deep prompts (n, C), further keys and values of the block's attention.
    space_adapter: takes what the attention gives.
    depth_attention: takes the attention, its projected input and the volumes' depth; the result is added.
    mlp_adapter: takes the MLP's normalised input; the result is added.
    checkpointing: keep nothing of the block for the backward pass, which computes it again.
    """

    width: int
    prompts: nn.Parameter | None
    space_adapter: nn.Module | None
    depth_attention: nn.Module | None
    mlp_adapter: nn.Module | None
    checkpointing = False

    def transform(self, x: Tensor, depth: int) -> Tensor:
        """The block itself, tokens to tokens. Every ``depth`` consecutive images are one volume; 0: pictures."""
        raise NotImplementedError

    def forward(self: Any, x: Tensor, depth: int = 0) -> Tensor:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return self.transform(x, depth)
        return checkpoint(self.transform, x, depth, use_reentrant=False)

    def open_seam(self: Any, width: int) -> None:
        self.width = width
        self.register_parameter("prompts", None)
        for slot in ("space_adapter", "depth_attention", "mlp_adapter"):
            self.register_module(slot, None)

    def after_attention(
        self: Any, x: Tensor, normed: Tensor, prompts: Tensor | None, window: int, depth: int
    ) -> Tensor:
        """The block's first half: tokens (N, h, w, C), the same and the prompts (n, C) as the attention takes them."""
        projected = self.attn.project(normed)
        others = None if prompts is None else self.attn.project(prompts)
        attended = self.attn.proj(self.attn.over_windows(projected, window, others))
        if self.space_adapter is not None:
            attended = self.space_adapter(attended)
        x = x + attended
        if self.depth_attention is not None and depth:
            x = x + self.depth_attention(self.attn, projected, depth)
        return x

    def beside_mlp(self, x: Tensor, mlp_input: Tensor) -> Tensor:
        return x if self.mlp_adapter is None else x + self.mlp_adapter(mlp_input)


def attention_blocks(encoder: nn.Module) -> list[Any]:
    """An image encoder's attention blocks in order."""
    return [block for block in encoder.modules() if isinstance(block, Seam)]
