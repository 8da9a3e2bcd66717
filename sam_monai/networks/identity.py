"""What an adapter is for: a short record that travels in its state dict as bytes."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

LENGTH = 4096  # the same for every adapter: MONAI skips a tensor of another shape in silence


def to_tensor(record: dict[str, Any]) -> Tensor:
    """A record as uint8 tensor (4096,), padded JSON. A string in a state dict breaks federated learning.

    Raises:
        InputError: the record, in practice its label names, is too long.
    """
    data = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    if len(data) > LENGTH:
        raise InputError(f"the label names are too long: the adapter's record takes {len(data)} bytes of {LENGTH}")
    return torch.frombuffer(bytearray(data.ljust(LENGTH)), dtype=torch.uint8).clone()


def from_tensor(tensor: Tensor) -> dict[str, Any]:
    """The record back; an average of equal bytes in floating point is read too.

    Raises:
        InputError: the tensor holds no record.
    """
    try:
        data = bytes(tensor.detach().cpu().round().to(torch.uint8).tolist())
        record = json.loads(data)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"the adapter's identity cannot be read ({error}): the file is damaged") from error
    if not isinstance(record, dict):
        raise InputError("the adapter's identity cannot be read: the file is damaged")
    return record
