"""The seam of the attention blocks of both kinds of image encoder, where adaptations enter."""

from __future__ import annotations

from typing import Any

from torch import nn


class Seam:
    """What an attention block may be given. ``None``: the block is SAM's own.

    prompts: deep prompts (n, C), further keys and values of the block's attention.
    """

    width: int
    prompts: nn.Parameter | None

    def open_seam(self: Any, width: int) -> None:
        self.width = width
        self.register_parameter("prompts", None)


def attention_blocks(encoder: nn.Module) -> list[Any]:
    """An image encoder's attention blocks in order."""
    return [block for block in encoder.modules() if isinstance(block, Seam)]
