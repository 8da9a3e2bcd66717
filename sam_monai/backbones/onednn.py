"""Bias and GELU applied while oneDNN multiplies, on a CPU and without gradients; torch passes over memory once more.

The operators are internal to torch's compiler: they are tried once, and plain torch is used where they fail.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MANY = 2048  # rows from which this is faster than torch's linear in float32, where there is no GELU


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """torch's linear, and GELU of it; the weight's precision counts, as under autocast."""
    # With gradients the backward pass's product counts too, whose columns are the weight's other axis.
    if one_thread_idles(x, weight, weight.shape if torch.is_grad_enabled() else weight.shape[:1]):
        halves = [linear(half, weight, bias, gelu) for half in x.flatten(0, -2).chunk(2)]
        return torch.cat(halves).unflatten(0, x.shape[:-1])
    if usable(x, weight, bias) and (gains(x, weight.dtype) or gelu):
        kind = ("gelu", [], "none") if gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), weight, bias, *kind)
    product = F.linear(x, weight, bias)
    return F.gelu(product) if gelu else product


def product(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Tokens (..., C) times a matrix (C, F) of their precision, and a bias (F,)."""
    tokens = x.reshape(-1, x.shape[-1])
    found = x.new_empty(len(tokens), matrix.shape[1])
    halves = 2 if one_thread_idles(tokens, matrix, matrix.shape[1:]) else 1
    for part, out in zip(tokens.chunk(halves), found.chunk(halves), strict=True):
        torch.mm(part, matrix, out=out) if bias is None else torch.addmm(bias, part, matrix, out=out)
    return found.view(*x.shape[:-1], -1)


def one_thread_idles(x: Tensor, weight: Tensor, columns: Sequence[int]) -> bool:
    """oneDNN does not divide a product of bf16 with about a thousand rows and columns between two threads with AMX."""
    if weight.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    here = 640 < x.shape[:-1].numel() <= 1280 and any(512 < n <= 1024 for n in columns)
    return here and torch.get_num_threads() == 2 and has_amx()


@cache
def has_amx() -> bool:
    """Whether the processor multiplies matrices of bf16 in tiles."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("amx_bf16"))


@cache
def multiplies_bfloat16_faster() -> bool:
    """Whether the processor multiplies matrices faster in bf16 than in float32, timed once where AMX does not tell.

    The instructions alone say nothing: with AVX512-BF16 AMD's processors need half of float32's time, and Intel's,
    where a virtual machine hides AMX, twice as long.
    """
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if has_amx() or not able.get("avx512_bf16"):
        return has_amx()
    whole, half = seconds_of_products((torch.float32, torch.bfloat16))
    return whole > 1.2 * half


def seconds_of_products(precisions: Sequence[torch.dtype]) -> list[float]:
    """Seconds of processor time for the product of two 512 x 512 matrices in each precision, the best of nine in turn.

    Waiting for a busy processor does not count: a training that is resumed must decide as it did before.
    """
    matrices = [torch.ones(512, 512, dtype=precision) for precision in precisions]
    best = [math.inf] * len(matrices)
    for i in range(10):  # the first one prepares
        for j, matrix in enumerate(matrices):
            started = time.process_time()
            torch.mm(matrix, matrix)
            best[j] = min(best[j], time.process_time() - started) if i else math.inf
    return best


def gains(x: Tensor, precision: torch.dtype) -> bool:
    return precision == torch.bfloat16 or x.shape[:-1].numel() >= MANY


def convolution_gelu(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU of a layer's convolution with other weights, all of one precision."""
    if usable(x, weight, bias):
        shape = (layer.padding, layer.stride, layer.dilation, layer.groups)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, "gelu", [], "none")
    return F.gelu(convolved(layer, x, weight, bias))


def convolved(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A layer's convolution, which pads with zeros, with other weights."""
    shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
    if x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        by_channel = layer.groups == layer.in_channels == layer.out_channels
        if by_channel and shape[1:3] == ((1, 1), (1, 1)) and layer.kernel_size == (3, 3) and not weight.requires_grad:
            return ByChannel.apply(x, weight, bias, layer.stride)
    return F.conv2d(x, weight, bias, *shape)


class ByChannel(torch.autograd.Function):
    """A 3 x 3 convolution of each channel (N, C, h, w) by itself, with frozen weights (C, 1, 3, 3).

    Its gradient is such a convolution too, with the kernel turned, of the output's gradient with zeros between. oneDNN
    knows no fast gradient where the stride is 2: it takes ten times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride = x.shape, stride
        return F.conv2d(x, weight, bias, stride, 1, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), (rows, columns), gradient = ctx.saved_tensors, ctx.stride, gradients[0]
        if gradient.shape != ctx.shape:
            n, c, h, w = ctx.shape
            spread = gradient.new_zeros(n, h, w, c).permute(0, 3, 1, 2)  # channels side by side
            spread[:, :, ::rows, ::columns] = gradient
            gradient = spread
        return F.conv2d(gradient, weight.flip(2, 3), None, 1, 1, 1, len(weight)), None, None, None


def usable(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    precision = weight.dtype
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if wanted or torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    if torch.is_autocast_enabled("cpu") and precision != torch.get_autocast_dtype("cpu"):
        return False  # torch's linear brings the weight to autocast's precision
    return x.numel() > 0 and known(precision)


@cache
def known(precision: torch.dtype) -> bool:
    """Whether torch has the operators, the processor the precision, and both give what torch's own give."""
    with torch.autocast("cpu", enabled=False):
        x = torch.linspace(-3, 3, 64, dtype=precision).view(8, 8)
        image, kernel, shape = x[None, None], x[:1, :1, None, None], ((0, 0), (1, 1), (1, 1), 1)
        try:
            fused = torch.ops.mkldnn._linear_pointwise(x, x, x[0], "none", [], "")
            fused_gelu = torch.ops.mkldnn._linear_pointwise(x, x, x[0], "gelu", [], "none")
            activated = torch.ops.mkldnn._convolution_pointwise(image, kernel, x[0, :1], *shape, "gelu", [], "none")
        except (AttributeError, RuntimeError, TypeError):
            return False
        product, convolved = F.linear(x, x, x[0]), F.conv2d(image, kernel, x[0, :1])
        same = [(fused, product), (fused_gelu, F.gelu(product)), (activated, F.gelu(convolved))]
        return all(torch.allclose(ours, torchs, rtol=0.02, atol=0.02) for ours, torchs in same)
