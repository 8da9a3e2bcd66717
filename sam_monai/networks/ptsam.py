"""PTSAM: a specialist with 2,048 trained parameters per label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adaptations import ptsam_prompts as prompts
from ..backbones.backbone import ENCODER, Backbone
from .base import AdaptedSAM
from .embeddings import EmbeddingCache
from .fields import whole


class PTSAM(AdaptedSAM):
    """PTSAM (Piater et al., CVPR workshops 2025, https://arxiv.org/abs/2504.16739).

    Trained: for each label the tokens that take the place of SAM's sparse prompt, and, if wanted, deep prompts in every
    block of the image encoder. Frozen: all of SAM. The prompt encoder is not run; its dense embedding for "no mask" is
    kept.

    Without encoder prompts an image's embedding never changes, so it may be computed once and kept.

    Args:
        tokens: decoder prompts of a label, each of width 256. The paper's 8 make 2,048 numbers.
        encoder_prompts: deep prompts of every encoder block; the paper's 8 make 73,728 numbers on ViT-B. 0: none.
        embedding_cache: folder (or cache) where embeddings are kept across runs; ``None``: nowhere. Not used with
            encoder prompts, depth attention or channel names, which change them, nor for gradients of the encoder or
            the image. Change no weights of the encoder: what was kept does not notice.
        others: see :class:`AdaptedSAM`.

    Example:
        >>> network = PTSAM("lite_medsam", labels=["liver"], image_size=64)
        >>> sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        2048
    """

    method = "ptsam"
    title = "PTSAM"
    own = {"tokens": whole(1, 1024), "encoder_prompts": whole(0, 1024)}
    decayed = ("prompts",)

    def __init__(
        self,
        backbone: str | Backbone = "lite_medsam",
        checkpoint: str | Path | None = None,
        labels: Sequence[str] | None = None,
        image_size: int | None = None,
        tokens: int = 8,
        encoder_prompts: int = 0,
        embedding_cache: str | Path | EmbeddingCache | None = None,
        **others: Any,
    ) -> None:
        self.tokens, self.encoder_prompts = tokens, encoder_prompts
        if isinstance(embedding_cache, str | Path):
            embedding_cache = EmbeddingCache(embedding_cache)
        changes = encoder_prompts or any(map(others.get, ("depth_attention", "channel_names")))
        self.embedding_cache = None if changes else embedding_cache or None  # False from a command line
        super().__init__(backbone, checkpoint, labels, image_size, **others)

    def adapt(self) -> None:
        if self.encoder_prompts:
            prompts.insert_encoder_prompts(self.backbone.image_encoder, self.encoder_prompts)

    def adapt_to_labels(self) -> None:
        self.prompts = prompts.decoder_prompts(len(self.labels), self.tokens)

    def prompt_tokens(self) -> Tensor:
        return self.prompts

    def encode_slices(self, slices: Tensor, depth: int = 0) -> Tensor:
        backbone = self.backbone
        followed = torch.is_grad_enabled() and (
            slices.requires_grad or any(p.requires_grad for p in backbone.image_encoder.parameters())
        )
        if self.embedding_cache is None or backbone.base == "random" or followed:  # what is kept has no gradient
            return super().encode_slices(slices, depth)
        base = (ENCODER, backbone.base, backbone.image_size, backbone.weights.resize, self.in_bfloat16(slices.device))
        return self.embedding_cache.encode(slices, base, super().encode_slices)
