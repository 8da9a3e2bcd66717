"""The seam of the attention blocks of both kinds of image encoder, where adaptations enter."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Seam:
    """What an attention block may be given. ``None``: the block is SAM's own there.

    prompts: deep prompts (n, C), further keys and values of the block's attention.
    space_adapter: takes what the attention gives.
    depth_attention: takes the attention and its normalised input; the result is added.
    mlp_adapter: takes the MLP's normalised input; the result is added.
    """

    width: int
    prompts: nn.Parameter | None
    space_adapter: nn.Module | None
    depth_attention: nn.Module | None
    mlp_adapter: nn.Module | None

    def open_seam(self: Any, width: int) -> None:
        self.width = width
        self.register_parameter("prompts", None)
        for slot in ("space_adapter", "depth_attention", "mlp_adapter"):
            self.register_module(slot, None)

    def after_attention(self, x: Tensor, attended: Tensor, attention: nn.Module, attention_input: Tensor) -> Tensor:
        """The block's first half: its input, what its attention gave, and what else looked at the same."""
        if self.space_adapter is not None:
            attended = self.space_adapter(attended)
        x = x + attended
        if self.depth_attention is not None:
            x = x + self.depth_attention(attention, attention_input)
        return x

    def beside_mlp(self, x: Tensor, mlp_input: Tensor) -> Tensor:
        return x if self.mlp_adapter is None else x + self.mlp_adapter(mlp_input)


def attention_blocks(encoder: nn.Module) -> list[Any]:
    """An image encoder's attention blocks in order."""
    return [block for block in encoder.modules() if isinstance(block, Seam)]
