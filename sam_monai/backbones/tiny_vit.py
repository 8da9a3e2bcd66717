"""TinyViT, the image encoder of MobileSAM and LiteMedSAM, from kornia, with fused attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.models.tiny_vit import Attention, ConvBN, TinyViT, TinyViTBlock, window_partition, window_unpartition
from torch import Tensor, nn

from .blocks import Seam


class FoldedConvBN(ConvBN):
    """kornia's convolution and frozen batch norm as one convolution: one pass over memory instead of two."""

    def forward(self, input: Tensor) -> Tensor:
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None and variance is not None
        factor = self.bn.weight * torch.rsqrt(variance + self.bn.eps)
        weight = self.c.tuned_weight() if hasattr(self.c, "tuned_weight") else self.c.weight
        bias = self.bn.bias - mean * factor
        return self.act(self.c._conv_forward(input, weight * factor.view(-1, 1, 1, 1), bias))


class BiasedAttention(Attention):
    """kornia's TinyViT attention, same parameters and numbers, fused where no gradient is wanted.

    On a CPU the fused attention's backward pass takes several times as long as the plain one over windows this small.
    """

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Tokens (N, T, C), not yet normalised, to queries, keys and values (N, heads, T, head width)."""
        qkv = self.qkv(self.norm(x)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return qkv.split([self.key_dim, self.key_dim, self.d], dim=3)

    def forward(self, x: Tensor, prompts: Tensor | None = None) -> Tensor:
        """(windows, tokens, C), and deep prompts (n, C) if any -> (windows, tokens, C)."""
        windows, tokens, _ = x.shape
        q, k, v = self.heads(x)
        bias = self.attention_biases[None, :, self.attention_bias_idxs].to(q.dtype)
        if prompts is not None:
            _, extra_k, extra_v = (part.expand(windows, -1, -1, -1) for part in self.heads(prompts[None]))
            k, v, bias = torch.cat([k, extra_k], 2), torch.cat([v, extra_v], 2), F.pad(bias, (0, len(prompts)))
        if torch.is_grad_enabled() and x.device.type == "cpu":
            out = ((q * self.scale) @ k.transpose(2, 3) + bias).softmax(-1).to(v.dtype) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        return self.proj(out.transpose(1, 2).reshape(windows, tokens, self.dh))


class SeamedTinyBlock(Seam, TinyViTBlock):
    """kornia's block, same parameters and numbers, with a seam."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, C) -> (N, tokens, C)."""
        size = self.input_resolution
        windows, padded = window_partition(x.unflatten(1, size), self.window_size)
        attended = self.attn(windows.flatten(1, 2), self.prompts)
        attended = window_unpartition(attended, self.window_size, padded, size).reshape_as(x)
        x = self.after_attention(x, attended, self.attn, x)
        x = self.local_conv(x.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2)
        out = x + self.mlp(x)
        return out if self.mlp_adapter is None else self.beside_mlp(out, self.mlp.norm(x))


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
    for module in encoder.modules():
        if isinstance(module, Attention):
            module.__class__ = BiasedAttention
        elif isinstance(module, ConvBN):
            module.__class__ = FoldedConvBN
        elif isinstance(module, TinyViTBlock):
            module.__class__ = SeamedTinyBlock
            module.open_seam(module.mlp.fc1.in_features)
    # The classifier takes no part in the embedding.
    encoder.norm_head, encoder.head = nn.Identity(), nn.Identity()
    encoder.img_size = image_size
    return encoder
