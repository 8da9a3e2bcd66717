"""S-SAM: singular-value tuning, with the label's name as the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adaptations import ssam_singular_values as svd
from ..backbones.backbone import WIDTH, Backbone
from ..errors import InputError, warn_once
from .base import AdaptedSAM
from .fields import NAMES, one_of, optional
from .identity import checked
from .text import TEXT_WIDTH, encode_labels


class SSAM(AdaptedSAM):
    """S-SAM (Paranjape et al., MICCAI 2024, https://arxiv.org/abs/2408.06447).

    Trained: two numbers for each singular value of the image encoder, the blocks' layer norms, the position embedding,
    and the text affine layer, which turns the text vector of each label's name into its one prompt token. Frozen:
    everything else, mask decoder and text encoder included.

    Where it departs from the paper: the text affine layer ends in LayerNorm(256) instead of BatchNorm1d(256). It has
    as many parameters, works for one label, and does not depend on which labels a batch held.

    Args:
        text_encoder: ``"minilm"`` (384 wide) or ``"clip"`` (512 wide, the paper's). Runs once, here, and only where
            ``labels`` are given, not for ``default_labels``: an adapter brings its vectors along.
        text_checkpoint: file of the text encoder's weights, for ``"clip"``.
        others: see :class:`AdaptedSAM`.

    Example:
        >>> network = SSAM("lite_medsam", labels=["liver", "spleen"], image_size=64)
        >>> tuple(network(torch.rand(1, 1, 90, 100)).shape)  # background, liver, spleen
        (1, 3, 90, 100)
    """

    method = "ssam"
    title = "S-SAM"
    own = {"text_encoder": one_of(*TEXT_WIDTH)}
    decayed = ("text_affine.0.weight",)

    def __init__(
        self,
        backbone: str | Backbone = "lite_medsam",
        checkpoint: str | Path | None = None,
        labels: Sequence[str] | None = None,
        image_size: int | None = None,
        text_encoder: str = "minilm",
        text_checkpoint: str | Path | None = None,
        **others: Any,
    ) -> None:
        checked({"text_encoder": text_encoder, "labels": labels}, {**self.own, "labels": optional(NAMES)}, "SSAM")
        self.text_encoder = text_encoder
        self.label_vectors: Tensor
        vectors = None if labels is None else encode_labels(labels, text_encoder, text_checkpoint)
        if vectors is not None:
            refuse_alike(vectors, labels or (), text_encoder)
        super().__init__(backbone, checkpoint, labels, image_size, **others)
        self.told["text_encoder"] = labels is not None
        if vectors is not None:
            self.label_vectors.copy_(vectors)

    def adapt(self) -> None:
        svd.tune_image_encoder(self.backbone.image_encoder, self.backbone.base)

    def adapt_to_labels(self) -> None:
        width = TEXT_WIDTH[self.text_encoder]
        self.text_affine = nn.Sequential(nn.Linear(width, WIDTH), nn.ReLU(), nn.LayerNorm(WIDTH))
        self.register_buffer("label_vectors", torch.zeros(len(self.labels), width))

    def prompt_tokens(self) -> Tensor:
        if self.training and not torch.compiler.is_compiling() and not self.label_vectors.any():
            warn_once("S-SAM is trained without names, so all labels are answered alike: build it with labels=[...]")
        return self.text_affine(self.label_vectors)[:, None]  # (L, 1, 256)

    def merged(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A plain SAM with the adaptation inside, at no cost over SAM.

        Returns:
            a state dict that segment-anything loads (at 1024 px by its own builder, else by its ``Sam`` class built for
            this image size), and for each label the sparse prompt (1, 256) to give to its mask decoder.

        Raises:
            InputError: the image encoder is not one of segment-anything's.
        """
        if self.backbone.weights.architecture == "vit_t":
            raise InputError("only a ViT merges into a plain SAM: segment-anything has no TinyViT")
        if self.depth_attention:
            raise InputError("a network with depth attention does not merge into a plain SAM, which has none")
        if self.channel_names:
            raise InputError("a network with channels of its own does not merge into a plain SAM, which takes colours")
        with torch.no_grad():
            tokens = self.prompt_tokens()
        return svd.merged_state(self.backbone), dict(zip(self.labels, tokens, strict=True))


def refuse_alike(vectors: Tensor, names: Sequence[str], text_encoder: str) -> None:
    """Refuse names of the same vector, whose labels would be answered alike for ever: MiniLM knows few characters but
    those of English, and no letter case."""
    for second, name in enumerate(names):
        for first in range(second):
            if torch.allclose(vectors[first], vectors[second], atol=1e-4):
                raise InputError(
                    f"the text encoder {text_encoder} does not tell the labels {names[first]} and {name} apart: give "
                    "them English names, take --text_encoder clip, or train by --bundle ptsam or medsa"
                )
