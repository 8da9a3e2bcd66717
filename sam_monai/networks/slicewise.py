"""Images and volumes through a backbone, slice by slice, to logits on their own grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.backbone import WIDTH, Backbone
from ..backbones.onednn import multiplies_bfloat16_faster
from ..errors import InputError
from .mixture import ChannelMixture
from .slices import as_slices, check_embedding, check_values, from_slices, of_image, passes, pieces, slices_of, together


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 there: processors without instructions for it emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and multiplies_bfloat16_faster()


class SliceNetwork(nn.Module):
    """What every network computes of what :class:`sam_monai.networks.base.AdaptedSAM`, its one subclass, sets up."""

    backbone: Backbone
    labels: tuple[str, ...]
    amp: bool
    slices_per_batch: int
    depth_attention: bool
    channel_names: tuple[str, ...] | None
    mixture: ChannelMixture

    @property
    def resize(self) -> str:
        """How the base weights want an image brought to the encoder's square: ``"pad"`` or ``"stretch"``."""
        return self.backbone.weights.resize

    @property
    def image_size(self) -> int:
        """Side of the encoder's square in pixels."""
        return self.backbone.image_size

    def prompt_tokens(self) -> Tensor:
        """Sparse prompts (L, T, 256), one set per label."""
        raise NotImplementedError

    def encode_slices(self, slices: Tensor, depth: int = 0) -> Tensor:
        """Image embedding (N, 256, h, w) of slices (N, 3, H, W), of which every ``depth`` are one volume, for depth
        attention; 0: they are pictures."""
        return self.backbone.encode(slices, depth)

    def encode(self, image: Tensor) -> Tensor:
        """Image embedding of (B, C, H, W) -> (B, 256, h, w), or of (B, C, H, W, D) -> (B, 256, h, w, D)."""
        with self.autocast(image.device):
            return from_slices(torch.cat([features for features, _ in self.features(image)]), image)

    def features(self, image: Tensor, embedding: Tensor | None = None) -> Iterator[tuple[Tensor, int]]:
        """Embeddings of the image's slices, a part of them at a time, each with its first slice's number."""
        exporting = torch.compiler.is_exporting()  # a program for any number of slices has no parts
        if embedding is not None:
            if exporting:
                yield slices_of(embedding), 0
                return
            check_embedding(embedding, image, WIDTH)
            first = 0
            for part in slices_of(embedding).split(self.slices_per_batch):
                yield part, first
                first += len(part)
            return
        if (kind := self.backbone.pixel_mean.dtype) != torch.float32:
            raise InputError(
                f"the network was converted to {str(kind)[6:]}: leave it in float32; with amp it computes in bfloat16 "
                "where the processor can"
            )
        slices = as_slices(image, self.channel_names)
        check_values(image)
        if self.channel_names is not None:
            slices = self.mixture(slices)
        volume = image.ndim == 5 and self.depth_attention
        depth = image.shape[4] if volume else 1
        if exporting:
            yield self.encode_slices(slices, depth if volume else 0), 0
            return
        most = self.slices_per_batch
        if not volume:
            encoder: Any = self.backbone.image_encoder
            most = together(most, encoder.largest_array * (2 if self.in_bfloat16(image.device) else 4), image.device)
        for start, stop, first, last in passes(len(slices), depth, most):
            part = self.encode_slices(slices[start:stop], min(depth, stop - start) if volume else 0)
            yield part[first - start : last - start], first

    def forward(
        self,
        image: Tensor,
        embedding: Tensor | None = None,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> Tensor:
        """Segment images or volumes.

        Args:
            image: (B, C, H, W) or (B, C, H, W, D), values in [0, 1], any size. C is 1 or 3, or the number of
                ``channel_names``. Rows are what a person sees as rows; depth is the last axis.
            embedding: what :meth:`encode` gave for this image, to save the encoder.
            point_coords, point_labels, boxes: prompts, which this method does not take.

        Returns:
            float32 logits (B, L + 1, *spatial of the image). Channel 0, the background, is 0; channel l is SAM's mask
            logit for label l.

        Raises:
            InputError: the image is not 2D or 3D, is empty, has another number of channels, values that are not finite
                or far beyond [0, 1]; the embedding is of another image; or a prompt was given.
        """
        if point_coords is not None or point_labels is not None or boxes is not None:
            raise InputError(f"{type(self).__name__} segments without clicks and boxes: leave them out")
        tokens = self.prompt_tokens()
        logits = self.segment(
            image, embedding, lambda features, first, shape: self.backbone.decode(features, tokens, shape)
        )
        return of_image(logits, image)

    def segment(
        self, image: Tensor, embedding: Tensor | None, decode: Callable[[Tensor, int, tuple[int, int]], Tensor]
    ) -> Tensor:
        """Logits, the background's included, where ``decode`` makes those of a part from its embeddings, the number of
        its first slice, and (H, W)."""
        as_slices(image, self.channel_names)
        shape = (image.shape[2], image.shape[3])
        with self.autocast(image.device):
            masks = [
                decode(piece, first + start, shape)
                for part, first in self.features(image, embedding)
                for piece, start in pieces(part, len(self.labels))
            ]
        logits = from_slices(torch.cat(masks), image).float()
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1)

    def in_bfloat16(self, device: torch.device) -> bool:
        """Whether the network computes in bf16 there."""
        return self.amp and fast_bfloat16(device)

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.in_bfloat16(device))
