"""Bias and GELU applied while oneDNN multiplies, on a CPU and without gradients; torch passes over memory once more.

The operators are torch's, for its compiler, and have no public names: they are tried once, and do without.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """torch's linear; the weight's precision counts, as under autocast."""
    if weight.dtype == torch.bfloat16 and usable(x, weight.dtype):
        return torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def convolution_gelu(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU of a layer's convolution with other weights, all of one precision."""
    if usable(x, weight.dtype):
        shape = (layer.padding, layer.stride, layer.dilation, layer.groups)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, "gelu", [], "none")
    return F.gelu(layer._conv_forward(x, weight, bias))


def usable(x: Tensor, precision: torch.dtype) -> bool:
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and x.numel() > 0 and known(precision)


@cache
def known(precision: torch.dtype) -> bool:
    """Whether torch has the operators, the processor the precision, and both give what torch's own give."""
    with torch.autocast("cpu", enabled=False):
        x = torch.linspace(-3, 3, 64, dtype=precision).view(8, 8)
        image, kernel, shape = x[None, None], x[:1, :1, None, None], ((0, 0), (1, 1), (1, 1), 1)
        try:
            fused = torch.ops.mkldnn._linear_pointwise(x, x, x[0], "none", [], "")
            activated = torch.ops.mkldnn._convolution_pointwise(image, kernel, x[0, :1], *shape, "gelu", [], "none")
        except (AttributeError, RuntimeError, TypeError):
            return False
        plain = F.gelu(F.conv2d(image, kernel, x[0, :1]))
        same = [(fused, F.linear(x, x, x[0])), (activated, plain)]
        return all(torch.allclose(ours, torchs, rtol=0.02, atol=0.02) for ours, torchs in same)
