"""The frozen SAM: image encoder, prompt encoder and mask decoder under SAM's own keys."""

from __future__ import annotations

import dataclasses
import numbers
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from .checkpoint_files import load_into, read_state
from .decoder import decode_masks, share_image_tokens
from .frozen import FrozenLinear
from .parts import require
from .resize import from_square, to_square
from .weights import KNOWN_WEIGHTS, Weights, content_hash, locate

ENCODER = "1"  # of what the image encoders compute; raise it where that changes, and kept embeddings are made anew
LARGEST = 4096  # side in pixels of an encoder's square
WIDTH = 256  # of the image embedding and of the prompt tokens, in every SAM
PROMPT_PARTS = ("pe_layer.forward_with_coords", "get_dense_pe", "input_image_size", "point_embeddings",
                "not_a_point_embed.weight", "no_mask_embed.weight", "mask_downscaling")  # fmt: skip
DECODER_PARTS = ("iou_token.weight", "mask_tokens.weight", "output_upscaling", "output_hypernetworks_mlps",
                 "transformer.layers", "transformer.norm_final_attn")  # fmt: skip


class Backbone(nn.Module):
    """A SAM with known weights, frozen and in eval mode.

    Args:
        image_encoder: (N, 3, S, S) -> (N, 256, S / stride, S / stride); ``largest_array``, how many numbers the
            largest array holds that it makes of one image.
        weights: what the numbers are: architecture, resize rule, pixel statistics.
        image_size: S, the side in pixels of the square that the encoder takes.
        base: hash of the weights' content, the identity of the base.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, image_encoder: nn.Module, weights: Weights, image_size: int, base: str = "random") -> None:
        super().__init__()
        from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

        cells = image_size // weights.stride
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(WIDTH, (cells, cells), (image_size, image_size), mask_in_chans=16)
        self.mask_decoder = MaskDecoder(
            transformer_dim=WIDTH,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=8, mlp_dim=2048),
        )
        self.register_buffer("pixel_mean", torch.tensor(weights.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(weights.pixel_std).view(3, 1, 1), persistent=False)
        require("segment-anything", self.prompt_encoder, *PROMPT_PARTS)
        require("segment-anything", self.mask_decoder, *DECODER_PARTS)
        self.weights, self.image_size, self.base = weights, image_size, base
        self.adapted = False  # whether it belongs to a network
        share_image_tokens(self.mask_decoder)
        for module in self.modules():
            if type(module) is nn.Linear:
                module.__class__ = FrozenLinear
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stays in eval mode: frozen batch norms keep their statistics."""
        return super().train(False)

    def encode(self, images: Tensor, depth: int = 0) -> Tensor:
        """(N, 3, H, W) values in [0, 1], any size -> image embedding (N, 256, h, w).

        ``depth``: every so many consecutive images are the slices of one volume, for depth attention; 0: pictures.
        """
        square = to_square((images - self.pixel_mean) / self.pixel_std, self.image_size, self.weights.resize)
        # Tokens lie channel by channel in memory, and so do convolutions of this layout: nothing is rearranged.
        square = square.contiguous(memory_format=torch.channels_last)
        return self.image_encoder(square, depth) if depth else self.image_encoder(square)

    def decode(
        self,
        embedding: Tensor,
        tokens: Tensor,
        shape: tuple[int, int],
        counted: Tensor | None = None,
        condition: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Mask logits of every image under every prompt, in one pass.

        segment-anything's mask decoder takes one image and many prompts; here it is N images and L prompts each.
        SAM's single-mask output is used.

        Args:
            embedding: (N, 256, h, w).
            tokens: sparse prompts (L, T, 256), the same for all images, or (N, L, T, 256).
            shape: (H, W) of the image's own grid.
            counted: bool (N, L, T), which tokens take part; ``None``: all.
            condition: (N, L, 256) for the adapters that make their weights from the prompt.
            masks: (N, L, 4 h, 4 w) mask prompts as logits over the square. NaN: none, which has SAM's own embedding;
                ``None``: none at all.

        Returns:
            float32 logits (N, L, H, W).
        """
        dense = self.prompt_encoder.no_mask_embed.weight.view(1, 1, -1, 1, 1)
        if masks is not None:
            given = self.prompt_encoder.mask_downscaling(masks.nan_to_num().flatten(0, 1)[:, None])
            none = masks.isnan().any(3).any(2)[..., None, None, None]
            dense = torch.where(none, dense, given.unflatten(0, masks.shape[:2]))
        source = embedding[:, None] + dense
        with torch.autocast(embedding.device.type, enabled=False):
            # In bf16 the position encoding of a cell is off by up to 0.14.
            position = self.prompt_encoder.get_dense_pe()
        tokens = tokens.expand(embedding.shape[0], *tokens.shape[-3:])
        logits = decode_masks(self.mask_decoder, source, position, tokens, counted, condition)
        return from_square(logits, self.image_size, self.weights.resize, shape)


def build_backbone(
    name: str = "lite_medsam", checkpoint: str | Path | None = None, image_size: int | None = None
) -> Backbone:
    """A frozen SAM with its weights.

    Args:
        name: known weights (``sam-monai weights`` lists them), whose hash is checked where it is known; or an
            architecture, ``vit_b``, ``vit_l``, ``vit_h``, for weights of your own.
        checkpoint: ``.pth``, ``.pt`` or ``.safetensors`` with SAM's keys. Needed for an architecture; for known
            weights, where the file is if not in the cache folder.
        image_size: side of the encoder's square in pixels; the weights' own if not given. Position tables are
            interpolated.

    Raises:
        InputError: unknown name, size that the patches do not divide, or a file that is missing, damaged, holds more
            than tensors, or is of another architecture.
    """
    weights = KNOWN_WEIGHTS.get(name)
    if weights is None and name in ("vit_b", "vit_l", "vit_h"):
        if checkpoint is None:
            raise InputError(f"backbone '{name}' is an architecture: give its weights by the key `checkpoint`")
        weights = dataclasses.replace(KNOWN_WEIGHTS[f"sam_{name}"], name=name, sha256=None, url=None)
    if weights is None:
        raise InputError(
            f"unknown backbone '{name}': known are {', '.join([*KNOWN_WEIGHTS, 'vit_b', 'vit_l', 'vit_h'])}"
        )
    path = locate(weights, checkpoint)
    state = read_state(path, weights.sha256)
    backbone = random_backbone(weights, weights.image_size if image_size is None else image_size)
    backbone.base = content_hash(state)
    if weights.architecture != "vit_t":
        from .vit import fit_position_tables

        state = fit_position_tables(state, backbone.image_encoder)  # type: ignore[arg-type]
    classifier = ("image_encoder.norm_head.", "image_encoder.head.")
    load_into(backbone, {k: v for k, v in state.items() if not k.startswith(classifier)}, path)
    return backbone


def random_backbone(weights: Weights, image_size: int) -> Backbone:
    """The backbone of these weights before they are loaded."""
    whole = isinstance(image_size, numbers.Integral) and not isinstance(image_size, bool)
    if not whole or not 32 <= image_size <= LARGEST or image_size % weights.stride:
        raise InputError(
            f"image_size {image_size!r} does not fit {weights.name}: it is a multiple of {weights.stride} from 32 to "
            f"{LARGEST}"
        )
    image_size = int(image_size)  # numpy's too
    if weights.architecture == "vit_t":
        from .tiny_vit import build_tiny_vit

        return Backbone(build_tiny_vit(image_size, weights.stride), weights, image_size)
    from .vit import SIZES, build_vit

    return Backbone(build_vit(*SIZES[weights.architecture], image_size), weights, image_size)
