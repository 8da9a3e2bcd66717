"""What is made of frozen weights is made once: linear layers bring theirs to autocast's precision, and not at every
call."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .onednn import linear

# By tensor, then by name: the state it was made in, and what was made. Several threads may fill it at once: then the
# same is made twice, and one of the two stays.
KEPT = WeakTensorKeyDictionary()  # not in the modules, so that copies and files of them stay as small as they were


def autocast_precision(tensor: Tensor) -> torch.dtype:
    """What autocast would bring a tensor to, its own without autocast."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def state_of(weight: Tensor) -> tuple[int, int]:
    """Another one after the tensor was changed in place; a tensor made in inference mode does not tell."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def kept(name: Hashable, make: Callable[[], Tensor], *tensors: Tensor) -> Tensor:
    """What is made of frozen tensors: made once, and kept under its name as long as the first of them lives and all
    stay the same. Of others it is made anew."""
    if torch.compiler.is_compiling() or any(t.requires_grad or t.is_inference() for t in tensors):
        return make()
    of_first = copies_of(tensors[0])
    state = [state_of(tensor) for tensor in tensors]
    known = of_first.get(name)
    if known is None or known[0] != state:
        with torch.inference_mode(False), torch.no_grad():  # else it could not take part in training later
            known = of_first[name] = (state, make())
    return known[1]


def copies_of(tensor: Tensor) -> dict[Hashable, Any]:
    """What is kept of a tensor."""
    return KEPT.setdefault(tensor, {})  # type: ignore[return-value]


def forget(module: nn.Module) -> None:
    """Drop what was made of a module's parameters and buffers."""
    for tensor in (*module.parameters(), *module.buffers()):
        KEPT.pop(tensor, None)


def at_autocast(weight: Tensor) -> Tensor:
    """A frozen tensor in the precision that autocast would bring it to."""
    precision = autocast_precision(weight)
    if weight.dtype == precision or weight.requires_grad or weight.is_inference() or torch.compiler.is_compiling():
        return weight
    return kept(precision, lambda: weight.to(precision), weight)


class FrozenLinear(nn.Linear):
    """A linear layer, same parameters and numbers; one that is thawed is torch's own."""

    def forward(self, input: Tensor, gelu: bool = False) -> Tensor:
        return linear(input, at_autocast(self.weight), None if self.bias is None else at_autocast(self.bias), gelu)


def gelu_of(layer: nn.Module, x: Tensor) -> Tensor:
    """GELU of what a layer makes of tokens, in the layer's own pass over memory if it is one of ours."""
    return layer(x, gelu=True) if isinstance(layer, FrozenLinear) else F.gelu(layer(x))
