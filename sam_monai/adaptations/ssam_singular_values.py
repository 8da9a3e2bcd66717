"""S-SAM's singular-value tuning.

Paranjape, Sikder, Vedula, Patel: S-SAM: SVD-based Fine-Tuning of Segment Anything Model for Medical Image Segmentation,
MICCAI 2024, https://arxiv.org/abs/2408.06447

Each tuned weight W = U diag(s) V' becomes U diag(relu(a s + b)) V' with a and b trained, U, s and V frozen. It is
formed here as W + U diag(relu(a s + b) - s) V', which is W to the last bit before training, where a product of the
rounded factors would not be. While gradients are wanted a linear layer applies the factors one after the other: the
gradient of a and b then needs none of W', whose forming and whose backward pass cost as much as the layer itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..backbones.frozen import FrozenLinear, at_autocast, autocast_precision, copies_of, kept, state_of
from ..backbones.onednn import convolved, linear, product
from ..backbones.weights import weights_folder
from ..errors import InputError
from ..files import aside

FACTORS = ("svd_u", "svd_s", "svd_vh")
FORMAT = "1"  # of the kept decompositions; another number makes every one anew

logger = logging.getLogger(__name__)


class SingularValueTuning:
    """What the tuned linear layer and the tuned convolution share. Added to an existing layer by :func:`tune`."""

    weight: nn.Parameter
    svd_scale: nn.Parameter  # a of the paper
    svd_shift: nn.Parameter  # b of the paper
    svd_u: Tensor  # (out, rank)
    svd_s: Tensor  # (rank,)
    svd_vh: Tensor  # (rank, in), for a kernel (rank, in * rows * columns)

    def singular_values(self) -> Tensor:
        return F.relu(self.svd_scale * self.svd_s + self.svd_shift)

    def tuned_weight(self) -> Tensor:
        """The layer's weight W', in the shape and precision of W. Under autocast the change of W is computed in its
        precision, in which W' will be used: what it loses is small against W, and nothing before training."""
        precision = autocast_precision(self.weight)
        with torch.autocast(self.weight.device.type, enabled=False):
            change = self.singular_values() - self.svd_s
            product = (self.svd_u * change).to(precision) @ self.svd_vh.to(precision)
            return self.weight + product.view_as(self.weight)

    def known_weight(self) -> Tensor:
        """W' in autocast's precision and without gradients, formed anew only where W, a or b changed."""
        values, precision = self.singular_values(), autocast_precision(self.weight)
        state = (*state_of(self.weight), precision)
        of_weight = copies_of(self.weight)
        known = of_weight.get("formed")
        if known is None or known[0] != state or not torch.equal(known[1], values):
            known = of_weight["formed"] = (state, values, self.tuned_weight().to(precision))
        return known[2]


class Factors(torch.autograd.Function):
    """Tokens (..., in) times V diag(values) U', and a bias: (..., out), with gradients for tokens and values alone.

    Values are never rounded themselves: in bf16 they would hide changes of less than half a percent from training. They
    scale the tokens, or the factor where it has fewer numbers.

    Args:
        x: tokens.
        values: singular values in float32.
        exact: V' and U in float32.
        vh, u: the same in the precision to compute in, the bias's too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, exact: tuple[Tensor, Tensor], vh: Tensor, u: Tensor, bias: Tensor | None
    ) -> Tensor:
        projected = product(x.to(vh.dtype), vh.T)
        ctx.save_for_backward(projected, values, *exact, vh, u)
        return scaled_product(projected, values, exact[1].T, u.T, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        projected, values, exact_vh, _, vh, u = ctx.saved_tensors
        of_scaled = product(gradients[0].to(u.dtype), u)
        of_values = (of_scaled * projected).view(-1, len(values)).sum(0).to(values.dtype)
        of_x = scaled_product(of_scaled, values, exact_vh, vh) if ctx.needs_input_grad[0] else None
        return of_x, of_values, None, None, None, None


def scaled_product(tokens: Tensor, values: Tensor, exact: Tensor, factor: Tensor, bias: Tensor | None = None) -> Tensor:
    """Tokens (..., rank) times diag(values) and a factor (rank, C), which is also given in float32."""
    if tokens.numel() > factor.numel():
        return product(tokens, (values[:, None] * exact).to(factor.dtype), bias)
    return product((tokens * values).to(factor.dtype), factor, bias)


class Formed(torch.autograd.Function):
    """Tokens (..., in) times a formed weight (out, in), and a bias, with gradients for tokens and singular values. The
    weight is rounded once, as in inference: early layers lose more where the tokens are rounded between the factors."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, weight: Tensor, vh: Tensor, u: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(product(x, vh.T), values, weight, u)
        return product(x, weight.T, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        projected, values, weight, u = ctx.saved_tensors
        gradient = gradients[0].to(u.dtype)
        of_values = (product(gradient, u) * projected).view(-1, len(values)).sum(0).to(values.dtype)
        of_x = product(gradient, weight) if ctx.needs_input_grad[0] else None
        return of_x, of_values, None, None, None, None


class RoundedGelu(torch.autograd.Function):
    """GELU of :class:`Formed` in float32, in another precision, and without a gradient for the tokens (..., in).

    Made of some tokens after the other: the whole in float32 is an array too large for the processor's own memory, and
    would be written and read five times.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, vh: Tensor, u: Tensor, bias: Tensor, precision: torch.dtype
    ) -> Tensor:
        weight = ((u * values) @ vh).T
        before, after = (x.new_empty(*x.shape[:-1], len(u), dtype=precision) for _ in range(2))
        for tokens, *parts in zip(*(t.flatten(0, -2).split(4096) for t in (x, before, after)), strict=True):
            exact = torch.addmm(bias, tokens, weight)
            parts[0].copy_(exact)
            parts[1].copy_(F.gelu(exact))
        ctx.save_for_backward(x, values, vh, u, before)
        return after

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, values, vh, u, before = ctx.saved_tensors
        x, vh, u = (tensor.to(before.dtype) for tensor in (x, vh, u))
        of_scaled = torch.ops.aten.gelu_backward(gradients[0], before) @ u
        of_values = (of_scaled * (x @ vh.T)).view(-1, len(values)).sum(0).to(values.dtype)
        return None, of_values, None, None, None, None


class SVDLinear(SingularValueTuning, FrozenLinear):
    def forward(self, input: Tensor, gelu: bool = False) -> Tensor:
        bias = None if self.bias is None else at_autocast(self.bias)
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return linear(input, self.known_weight(), bias, gelu)
        vh, values, u = at_autocast(self.svd_vh), self.singular_values(), at_autocast(self.svd_u)
        if torch.compiler.is_compiling():
            applied = F.linear(F.linear(input, vh) * values, u, bias)
        else:
            applied = Factors.apply(input, values, (self.svd_vh, self.svd_u), vh, u, bias)
        return F.gelu(applied) if gelu else applied


class SVDConv2d(SingularValueTuning, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return convolved(self, input, self.tuned_weight(), self.bias)

    def learning(self, input: Tensor, factor: Tensor, bias: Tensor) -> Tensor | None:
        """The convolution whose output channels are multiplied by a frozen ``factor`` (out, 1), where its gradients are
        made by the factors, at a fraction of the cost of the weight's: of kernels of one pixel, while gradients are
        wanted. ``None`` elsewhere."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or self.kernel_size != (1, 1):
            return None
        with torch.no_grad():
            weight = (self.tuned_weight().flatten(1) * factor).to(input.dtype)
        vh, u = at_autocast(self.svd_vh), at_autocast(self.scaled_u(factor))
        tokens = input.permute(0, 2, 3, 1)  # no copy where channels lie side by side
        return Formed.apply(tokens, self.singular_values(), weight, vh, u, bias).permute(0, 3, 1, 2)

    def rounded_gelu(self, input: Tensor, factor: Tensor, bias: Tensor, precision: torch.dtype) -> Tensor:
        """GELU of :meth:`learning` in another precision, of an image that needs no gradient."""
        given = (self.singular_values(), self.svd_vh, self.scaled_u(factor), bias, precision)
        return RoundedGelu.apply(input.permute(0, 2, 3, 1), *given).permute(0, 3, 1, 2)

    def scaled_u(self, factor: Tensor) -> Tensor:
        return kept("scaled", lambda: self.svd_u * factor, self.svd_u, factor)


def tune(layer: nn.Linear | nn.Conv2d, known: Mapping[str, Tensor] | None = None) -> None:
    """Make a layer an :class:`SVDLinear` or :class:`SVDConv2d` in place; its weight and its key stay.

    The decomposition is made on the CPU in float64: in float32 it differs from machine to machine by 2e-4.

    Args:
        known: its factors, by :data:`FACTORS`, where they were made before.
    """
    like = layer.weight.detach()
    if known is None:
        matrix = like.flatten(1).cpu().double()  # MPS has no float64
        known = dict(zip(FACTORS, torch.linalg.svd(matrix, full_matrices=False), strict=True))
    layer.__class__ = SVDLinear if isinstance(layer, nn.Linear) else SVDConv2d
    for name in FACTORS:
        layer.register_buffer(name, known[name].to(like).contiguous(), persistent=False)
    layer.svd_scale = nn.Parameter(torch.ones_like(layer.svd_s))
    layer.svd_shift = nn.Parameter(torch.zeros_like(layer.svd_s))


def tune_image_encoder(encoder: nn.Module, base: str = "random") -> None:
    """Adapt an image encoder in place as the paper does.

    Tuned: every linear layer and every dense convolution except the patch embedding (so qkv, proj, both MLP layers and
    both neck convolutions of a ViT; in TinyViT also the pointwise convolutions). Trained as they are: the layer norms
    of the blocks (not the neck's, which are another class) and the absolute position embedding where there is one.

    Args:
        base: hash of the encoder's weights, under which the decompositions are kept in the cache folder: those of a
            ViT-B take 16 s to make. ``"random"``: not kept.
    """
    patch_embedding = set(encoder.patch_embed.modules())  # type: ignore[union-attr]
    known, others = read_decompositions(base), False
    tuned: dict[str, nn.Module] = {}
    for name, module in [(name, m) for name, m in encoder.named_modules() if m not in patch_embedding]:
        if isinstance(module, nn.Linear) or (type(module) is nn.Conv2d and module.groups == 1):
            own = {factor: known[f"{name}.{factor}"] for factor in FACTORS if f"{name}.{factor}" in known}
            fits = len(own) == len(FACTORS) and are_factors(own, module.weight.detach())
            others |= not fits
            tune(module, own if fits else None)
            tuned[name] = module
        elif isinstance(module, nn.LayerNorm):
            module.requires_grad_(True)
    if isinstance(getattr(encoder, "pos_embed", None), nn.Parameter):
        encoder.pos_embed.requires_grad_(True)  # type: ignore[union-attr]
    made = {f"{name}.{factor}": getattr(layer, factor) for name, layer in tuned.items() for factor in FACTORS}
    if base != "random" and (others or made.keys() != known.keys()):
        keep_decompositions(base, made)


def are_factors(factors: Mapping[str, Tensor], weight: Tensor) -> bool:
    """Whether they are those of this weight, and not of one that was put in its place: by its product with a vector."""
    u, s, vh = (factors[name].float() for name in FACTORS)
    matrix = weight.flatten(1).cpu().float()
    if (u.shape[0], vh.shape[-1]) != tuple(matrix.shape):
        return False
    vector = torch.linspace(-1, 1, matrix.shape[1]).cos()
    expected, found = matrix @ vector, u @ (s * (vh @ vector))
    return bool((found - expected).norm() <= 1e-3 * (expected.norm() + matrix.norm()))


def decompositions_file(base: str) -> Path:
    """Where a base's decompositions are kept: in the cache folder, beside the weights."""
    return weights_folder().parent / "decompositions" / f"{base}.{FORMAT}.safetensors"


def read_decompositions(base: str) -> dict[str, Tensor]:
    """What :func:`keep_decompositions` kept; nothing where there is no such file, or a damaged one."""
    if base == "random":
        return {}
    try:
        return load_file(decompositions_file(base))
    except (OSError, SafetensorError):
        return {}


def keep_decompositions(base: str, factors: Mapping[str, Tensor]) -> None:
    try:
        with aside(decompositions_file(base)) as part:
            save_file({name: factor.cpu() for name, factor in factors.items()}, part)
    except (InputError, SafetensorError) as error:
        logger.warning("decompositions cannot be kept (%s), and are made at every start", error)


def tuned_layers(module: nn.Module) -> list[tuple[str, SingularValueTuning]]:
    """Names and layers of all tuned layers below a module."""
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, SingularValueTuning)]


def fold(module: nn.Module) -> None:
    """Put every W' in the place of W and drop the decomposition, in place: plain layers, at no cost over SAM's."""
    for _, layer in tuned_layers(module):
        layer.weight.data = layer.tuned_weight().detach()
        for name in ("svd_scale", "svd_shift", "svd_u", "svd_s", "svd_vh"):
            delattr(layer, name)
        layer.__class__ = FrozenLinear if isinstance(layer, SVDLinear) else nn.Conv2d


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state with every W' in the place of W and nothing of the adaptation left: a plain encoder's."""
    state = {k: v for k, v in module.state_dict().items() if not k.endswith(("svd_scale", "svd_shift"))}
    for name, layer in tuned_layers(module):
        state[f"{name}.weight"] = layer.tuned_weight().detach()
    return {k: v.clone() for k, v in state.items()}
