"""Prompted objects that take the place of labels in the mask that an adapter gives without a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.instances import KEY as INSTANCES
from ..errors import InputError
from .schema import TO_CORRECT

FIRM = 1000.0
"""By which an object's logits are multiplied: resampling then moves no border between two other labels."""
NOWHERE = -1e6
"""The logit of a label where none of its objects was asked for; below all that are multiplied."""

Answer = tuple[Tensor, slice, slice]
"""An object's logits (h, w[, D]), and the rows and columns of the image that they are of."""


def corrected(automatic: Tensor, labels: Sequence[int], objects: Iterable[Answer]) -> Tensor:
    """The automatic answer in which objects take the place of their ``labels``, counted from 1, one for each object.

    A voxel has its label where the object is. Where the automatic answer has that label and the object is not, a voxel
    has the next best label. Objects of one label are united. Of two labels that overlap the later one counts.

    Args:
        automatic: logits (1, L + 1, *spatial), or labels alone (1, 1, *spatial), where the next best is the background.

    Returns:
        The same shape. No logit of another label is changed.
    """
    found = automatic.clone() if automatic.shape[1] == 1 else automatic.float().clone()
    given = torch.tensor(sorted(set(labels)), device=found.device)
    if found.shape[1] == 1:
        found[torch.isin(found, given.to(found.dtype))] = 0
    else:
        found[:, given] = NOWHERE
    for label, (logits, rows, columns) in zip(labels, objects, strict=True):
        here = found[0, :, rows, columns]  # a view, without what lies beyond the image
        inside = logits[: here.shape[1], : here.shape[2]]
        if len(here) == 1:
            here[0][inside > 0] = label
        else:
            best = torch.cat([here[:label], here[label + 1 :]]).amax(0)
            here[label] = torch.maximum(here[label], best + FIRM * inside)
    return found


def labels_to_correct(network: Any, names: Sequence[str | None]) -> list[int]:
    """The labels, counted from 1, that objects of such names take the place of.

    Raises:
        InputError: an object without a name, or an adapter of numbered objects.
    """
    if getattr(network, "preprocessing", {}).get(INSTANCES):
        raise InputError('"correct" is for labels, and the adapter numbers the objects of one label: leave it out')
    if getattr(network, "regions", None) is not None:
        raise InputError('"correct" is for labels of one value each, and the adapter\'s are regions: leave it out')
    labels, found = list(network.labels), list[int]()
    for number, name in enumerate(names, 1):
        if name is None:
            raise InputError(f"object {number} of the prompts names no label: {TO_CORRECT}")
        found.append(labels.index(name) + 1)
    return found
