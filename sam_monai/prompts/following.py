"""An object of a volume beyond its prompted slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..networks.resemblance import likeness, margins, resemblances
from .drawn import Prompts

ABSENT = -20.0  # logit of an object that was followed to its end
LIKE = 0.5  # as an object that is a label is like it in the prompted slices, from 0 to 1
PART = 16  # slices of a volume that a prompt is answered for at a time, where the whole would be large

Network = Callable[..., Tensor]


def follow(
    network: Network,
    image: Tensor,
    embedding: Tensor,
    automatic: Tensor | None,
    logits: Tensor,
    seeds: set[int],
    prompts: Prompts,
) -> None:
    """In the logits (H, W, D) of one object, answer the slices beyond the ``seeds`` anew, in place.

    An object that is a label, by name or in the seeds, has the label's own answer: :func:`as_label`. Any other is
    followed from the nearest seed outwards, each slice by the box about its neighbour's mask. Negative clicks count in
    their slice.
    """
    at, kinds = clicks_of(prompts)
    nearest = {k: min(seeds, key=lambda seed: (abs(seed - k), seed)) for k in range(logits.shape[2])}
    label = as_label(network, image, embedding, automatic, logits, sorted(seeds), prompts)
    for k in sorted(set(nearest) - seeds, key=lambda k: abs(k - nearest[k])):
        here = slice(k, k + 1)
        known = None if automatic is None else automatic[..., here]
        clicks = clicks_in(prompts, [i for i, place in enumerate(at) if place == k and kinds[i] == 0])
        if label is not None:
            logits[..., k] = label[..., k]
            if clicks:
                module: Any = getattr(network, "module", network)
                known = network(image[..., here], embedding[..., here]) if known is None else known
                alone = torch.zeros(1, known.shape[1] - 1, 5, device=image.device)  # like no label: the clicks' part
                logits[..., here] = module.guided(label[None, ..., here], known, alone, **clicks)[0]
            continue
        neighbour = k + (1 if k < nearest[k] else -1)
        inside = (logits[..., neighbour] > 0).nonzero()
        if not len(inside):
            logits[..., k] = ABSENT
            continue
        corners = [*inside.amin(0).tolist(), 0, *inside.amax(0).tolist(), 0]
        box = torch.tensor(corners, dtype=torch.float32, device=image.device)[None, None]
        answer = network(image[..., here], embedding[..., here], automatic=known, boxes=box, **clicks)
        logits[..., k] = answer[0, 1, ..., 0]


def as_label(
    network: Network,
    image: Tensor,
    embedding: Tensor,
    automatic: Tensor | None,
    logits: Tensor,
    seeds: list[int],
    prompts: Prompts,
) -> Tensor | None:
    """Logits (H, W, D) of an object that is one of the labels, by its name or in the ``seeds``: there its own, in the
    other slices the label's margin over the other labels, as far as the label is connected to the object; all of it
    where the object is named and nothing is connected. ``None``: it is no label.

    One prompted slice tells its neighbours less than the network knows of them without a prompt.
    """

    def known(here: slice) -> Tensor:
        return network(image[..., here], embedding[..., here]) if automatic is None else automatic[..., here]

    alike, (at, kinds) = prompts.get("meant"), clicks_of(prompts)
    if alike is None:
        sums, first = [], [i for i, kind in enumerate(kinds) if kind == 1][:1]
        for k in seeds:
            clicks, here = clicks_in(prompts, first if first and at[first[0]] == k else []), slice(k, k + 1)
            points = clicks.get("point_coords"), clicks.get("point_labels")
            sums.append(resemblances(logits[None, ..., here], known(here), *points, None))
        alike = likeness(torch.stack(sums).sum(0))
    most, label = alike[0].max(0)
    if most < LIKE:
        return None
    parts = [slice(first, first + PART) for first in range(0, image.shape[4], PART)]
    answer = torch.cat([margins(known(here))[0, label] for here in parts], 2)
    answer[..., seeds] = logits[..., seeds]
    there = (answer > 0).cpu().numpy()
    started = np.zeros_like(there)
    started[..., seeds] = there[..., seeds]
    held = np.asarray(ndimage.binary_propagation(started, np.ones((3, 3, 3)), there), bool)
    if "meant" in prompts and not np.delete(held, seeds, 2).any():
        held = there
    return answer.masked_fill(torch.as_tensor(there & ~held, device=answer.device), ABSENT)


def clicks_of(prompts: Prompts) -> tuple[list[int], list[int]]:
    """Slice, 0 in pictures, and label of each click of an object."""
    if "point_labels" not in prompts:
        return [], []
    coords, labels = prompts["point_coords"][0], prompts["point_labels"][0]
    at = coords[:, 2].round().long() if coords.shape[1] == 3 else torch.zeros_like(labels)
    return at.tolist(), labels.tolist()


def clicks_in(prompts: Prompts, some: list[int]) -> Prompts:
    """Clicks of one slice, by their numbers, as those of a volume of this slice alone; empty where there is none."""
    if not some:
        return {}
    plane = torch.tensor([1, 1, 0], device=prompts["point_coords"].device)
    return {"point_coords": prompts["point_coords"][:, some] * plane, "point_labels": prompts["point_labels"][:, some]}
