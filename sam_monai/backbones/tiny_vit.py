"""TinyViT, the image encoder of MobileSAM and LiteMedSAM, from kornia; its attention computes nothing for padding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from kornia.models.tiny_vit import Attention, ConvBN, TinyViT, TinyViTBlock
from torch import Tensor, nn

from .blocks import Seam, WindowAttention, plain_attention, plain_is_faster
from .frozen import autocast_precision, gelu_of, kept
from .onednn import convolution_gelu, convolved
from .parts import require

ATTENTION_PARTS = ("norm", "qkv", "proj", "num_heads", "key_dim", "d", "dh", "scale", "attention_biases",
                   "attention_bias_idxs")  # fmt: skip
BLOCK_PARTS = ("attn", "local_conv", "mlp.norm", "mlp.fc1", "mlp.fc2", "window_size", "input_resolution")


class FoldedConvBN(ConvBN):
    """kornia's convolution and frozen batch norm as one convolution: one pass over memory instead of two."""

    def forward(self, input: Tensor) -> Tensor:
        input = channels_together(input)
        norm, precision = self.bn, autocast_precision(input)
        assert norm.running_mean is not None and norm.running_var is not None
        statistics = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        bias = self.known_bias(precision)
        if hasattr(self.c, "tuned_weight"):
            learning = self.c.learning(input.to(precision), self.known_factor(), bias)
            if learning is not None:
                return self.act(learning)
            weight = (self.c.tuned_weight() * self.factor()).to(precision)
        else:
            weight = kept(
                ("folded", precision), lambda: (self.c.weight * self.factor()).to(precision), self.c.weight, *statistics
            )
        if isinstance(self.act, nn.GELU):
            return convolution_gelu(self.c, input.to(precision), weight, bias)
        return self.act(convolved(self.c, input.to(precision), weight, bias))

    def factor(self) -> Tensor:
        return (self.bn.weight * torch.rsqrt(self.bn.running_var + self.bn.eps)).view(-1, 1, 1, 1)  # type: ignore[operator]

    def folded_bias(self) -> Tensor:
        return self.bn.bias - self.bn.running_mean * self.factor().flatten()  # type: ignore[operator]

    def known_factor(self) -> Tensor:
        """The factor of each output channel (out, 1), made once."""
        return kept("factor", self.factor, self.bn.weight, self.bn.running_var).flatten(1)  # type: ignore[arg-type]

    def known_bias(self, precision: torch.dtype) -> Tensor:
        norm: Any = self.bn
        statistics = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        return kept(("bias", precision), lambda: self.folded_bias().to(precision), *statistics)


class PreciseConvBN(FoldedConvBN):
    """In its input's precision, fp32, under autocast too. The first layers' features are close to the picture's own
    values: half of what bf16 loses of the embedding (in squares) it loses by rounding these."""

    def forward(self, input: Tensor) -> Tensor:
        layer: Any = self.c
        precision, learns = autocast_precision(input), torch.is_grad_enabled() and hasattr(layer, "rounded_gelu")
        here = input.device.type == "cpu" and not torch.compiler.is_compiling()
        with torch.autocast(input.device.type, enabled=False):
            if learns and here and not input.requires_grad and precision != input.dtype:
                factor, bias = self.known_factor(), self.known_bias(input.dtype)
                return layer.rounded_gelu(channels_together(input), factor, bias, precision)
            return super().forward(input)


def fold_norms(module: nn.Module) -> None:
    """Put what folded batch norms make of their convolutions in the place of these, in place: plain layers."""
    for layer in [layer for layer in module.modules() if isinstance(layer, FoldedConvBN)]:
        with torch.no_grad():
            bias = layer.folded_bias()
            layer.c.weight.mul_(layer.factor())
        del layer.c.bias
        layer.c.register_buffer("bias", bias, persistent=False)  # not in the adapter's state
        layer.bn = nn.Identity()
        layer.__class__ = ConvBN


def channels_together(x: Tensor) -> Tensor:
    """(N, C, h, w) whose channels lie side by side in memory. Torch's convolutions do not see it of one image whose
    first stride is not the usual one, and rearrange it."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).flatten().view(n, h, w, c).permute(0, 3, 1, 2)


class OwnPrecisionNorm(nn.LayerNorm):
    """Torch's, whose answer to bf16 is in bf16 under autocast too, on a CPU: the same numbers, as torch computes in
    float32 inside, and no copies in float32 between it and layers that take bf16."""

    def forward(self, input: Tensor) -> Tensor:
        same = input.dtype == self.weight.dtype or input.device.type != "cpu"
        if same or torch.compiler.is_compiling():
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input)


class BiasedAttention(WindowAttention, Attention):
    """kornia's TinyViT attention, same parameters and numbers, fused where that is faster."""

    def project(self, x: Tensor) -> Tensor:
        return self.qkv(self.norm(x))

    def projected_zeros(self) -> Tensor:
        return self.qkv(self.norm.bias)

    def heads(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = projected.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.d], dim=3)
        return q, k, v

    def attend(self, tokens: Tensor, window: tuple[int, int], others: Tensor | None, padded: bool) -> Tensor:
        n, h, w, _ = tokens.shape
        q, k, v = self.heads(tokens.flatten(1, 2))
        if others is not None:
            _, other_k, other_v = (part.expand(n, -1, -1, -1) for part in self.heads(others[None]))
            k, v = torch.cat([k, other_k], 2), torch.cat([v, other_v], 2)
        further = k.shape[2] - h * w
        name = ("bias", h, w, further, padded, q.dtype)
        bias = kept(name, lambda: self.bias(window, h, w, further, padded).to(q.dtype)[None], self.attention_biases)
        if plain_is_faster(q, k):
            out = plain_attention((q * self.scale) @ k.transpose(2, 3) + bias, v)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        return out.transpose(1, 2).reshape(n, h, w, self.dh)

    def bias(self, window: tuple[int, int], h: int, w: int, further: int, padded: bool) -> Tensor:
        """(heads, h * w, h * w + further) of a window's first h rows and w columns. Further keys have none, but the
        last of them, if it stands for the padding, the logarithm of the padding's summed exponential biases."""
        where = self.attention_bias_idxs.unflatten(0, window)[:h, :w].flatten().expand(self.num_heads, -1)
        biases = self.attention_biases.gather(1, where).unflatten(1, (h * w, *window))
        bias = F.pad(biases[..., :h, :w].flatten(2), (0, further - padded))
        if not padded:
            return bias
        beyond = torch.cat([biases[..., :h, w:].flatten(2), biases[..., h:, :].flatten(2)], 2)
        return torch.cat([bias, beyond.logsumexp(-1, keepdim=True)], -1)


class SeamedTinyBlock(Seam, TinyViTBlock):
    """kornia's block, same parameters and numbers, with a seam."""

    def transform(self, x: Tensor, depth: int) -> Tensor:
        """(N, tokens, C) -> (N, tokens, C)."""
        x = x.unflatten(1, self.input_resolution)
        x = self.after_attention(x, x, self.prompts, self.window_size, depth)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
        normed = self.mlp.norm(x)
        return self.beside_mlp(x + self.mlp.fc2(gelu_of(self.mlp.fc1, normed)), normed)


class SeamedTinyViT(TinyViT):
    """kornia's, with the same parameters and numbers. Its blocks are told a volume's depth, and its neck sees the
    layout of a single image too."""

    def forward(self, x: Tensor, depth: int = 0) -> Tensor:
        layers: Any = self.layers
        x = self.patch_embed(x)
        for layer in layers:
            for block in layer.blocks:
                x = block(x, depth) if isinstance(block, Seam) else block(x)
            x = x if layer.downsample is None else layer.downsample(x)
        x = x.unflatten(1, (self.feat_size, self.feat_size)).permute(0, 3, 1, 2)
        assert self.neck is not None
        return self.neck(channels_together(x))


def build_tiny_vit(image_size: int, stride: int) -> TinyViT:
    """A TinyViT-5M with random weights: (N, 3, image_size, image_size) -> (N, 256, image_size / stride, same).

    ``stride`` 16 is MobileSAM's. 4 is LiteMedSAM's: the patch embedding keeps the resolution (1 x 1 convolutions), so
    the stages see what MobileSAM's would see of an image four times as large.
    """
    encoder = TinyViT(
        img_size=image_size * 16 // stride,
        embed_dims=(64, 128, 160, 320),
        depths=(2, 2, 6, 2),
        num_heads=(2, 4, 5, 10),
        window_sizes=(7, 7, 14, 7),
        mobile_sam=True,
    )
    if stride == 4:
        for convolution in (encoder.patch_embed.seq[0], encoder.patch_embed.seq[2]):
            old = convolution.c
            convolution.c = nn.Conv2d(old.in_channels, old.out_channels, 1, bias=False)
    require("kornia", encoder, "patch_embed.seq", "layers", "neck", "feat_size")
    for module in encoder.modules():
        if isinstance(module, Attention):
            require("kornia", module, *ATTENTION_PARTS)
            module.__class__ = BiasedAttention
            module.norm.__class__ = OwnPrecisionNorm
        elif isinstance(module, ConvBN):
            require("kornia", module, "c", "bn", "act")
            module.__class__ = FoldedConvBN
        elif isinstance(module, TinyViTBlock):
            require("kornia", module, *BLOCK_PARTS)
            module.__class__ = SeamedTinyBlock
            module.mlp.norm.__class__ = OwnPrecisionNorm
            module.open_seam(module.mlp.fc1.in_features)
    encoder.__class__ = SeamedTinyViT
    for first in (encoder.patch_embed.seq[0], encoder.patch_embed.seq[2], encoder.layers[0].blocks[0].conv1):
        first.__class__ = PreciseConvBN
    # The classifier takes no part in the embedding.
    encoder.norm_head, encoder.head = nn.Identity(), nn.Identity()
    encoder.img_size = image_size
    encoder.largest_array = (4 * image_size // stride) ** 2 * 4 * 64  # the first stage's
    return encoder
