"""An object of a volume beyond its prompted slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from tqdm.auto import tqdm

from ..networks.guidance import obey_clicks
from ..networks.resemblance import likeness, margins, resemblances
from ..networks.slices import MOST_BYTES
from .drawn import Prompts

# Logit of an object where it was followed to its end: as far below 0 as answers are above, so that on a file of thinner
# slices the border lies about the middle between two of the network's.
ABSENT = -4.0
LIKE = 0.5  # as an object is like a label, from 0 to 1, that its very first click is enough to tell
LOOSE = 0.1  # of a box's sides, that it reaches farther on each side: answers stay inside
SAME = 0.5  # Dice of an object in two neighbouring slices at least
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
    margin: Tensor | None,
) -> None:
    """In the logits (H, W, D) of one object, answer the slices beyond the ``seeds`` anew, in place. Negative clicks
    count in their slice.

    An object that is a label has the label's own answer, as far as it is :func:`connected`; ``margin`` is what
    :func:`label_margin` gives. Any other is followed from the nearest seed outwards, each slice by a box a little
    looser than its neighbour's mask, until two slices differ too much: an untrained network answers within a box, and
    something in every box.
    """
    at, kinds = clicks_of(prompts)

    def negative(k: int) -> Prompts:
        return clicks_in(prompts, [i for i, place in enumerate(at) if place == k and kinds[i] == 0])

    if margin is not None:
        module: Any = getattr(network, "module", network)
        logits.copy_(connected(margin, logits, sorted(seeds), prompts))
        denied = {k for k, kind in zip(at, kinds, strict=True) if kind == 0 and 0 <= k < logits.shape[2]}
        for k in sorted(denied - seeds):
            here = slice(k, k + 1)
            known = answered_without(network, image, embedding, automatic, here)
            alone = torch.zeros(1, known.shape[1] - 1, 5, device=image.device)  # like no label: the clicks' part
            logits[..., here] = module.guided(logits[None, ..., here], known, alone, **negative(k))[0]
        return
    nearest = {k: min(seeds, key=lambda seed: (abs(seed - k), seed)) for k in range(logits.shape[2])}
    outwards = sorted(set(nearest) - seeds, key=lambda k: abs(k - nearest[k]))
    for k in tqdm(outwards, desc="following the object", unit="slice", leave=False, delay=2):
        here, neighbour = slice(k, k + 1), logits[..., k + (1 if k < nearest[k] else -1)] > 0
        if not neighbour.any():
            logits[..., k] = ABSENT
            continue
        inside = neighbour.nonzero()
        low, high = inside.amin(0).float(), inside.amax(0).float()
        more = LOOSE * (high - low + 1)
        low, high = (low - more).clamp(min=0), torch.minimum(high + more, high.new_tensor(image.shape[2:4]) - 1)
        corners = [*low.tolist(), 0, *high.tolist(), 0]
        box = torch.tensor(corners, dtype=torch.float32, device=image.device)[None, None]
        known = None if automatic is None else automatic[..., here]
        answer = network(image[..., here], embedding[..., here], automatic=known, boxes=box)
        logits[..., k] = answer[0, 1, ..., 0]
        if clicks := negative(k):
            logits[..., here] = obey_clicks(logits[None, ..., here], *clicks.values())[0]
        if dice(logits[..., k] > 0, neighbour) < SAME:
            logits[..., k] = ABSENT


def dice(first: Tensor, second: Tensor) -> float:
    return 2 * int((first & second).sum()) / max(1, int(first.sum()) + int(second.sum()))


def label_margin(
    known: Callable[[slice], Tensor],
    logits: Tensor,
    seeds: list[int],
    prompts: Prompts,
    resemblance: Tensor | None,
    margins_kept: dict[int, Tensor] | None = None,
) -> Tensor | None:
    """The margin over all others (H, W, D) of the label that an object is: the one that is named, or else the one that
    it is most like. ``None``: there is none.

    Args:
        known: gives the network's answer without a prompt in some slices.
        logits: of the object (H, W, D), where there is one seed.
        seeds: the prompted slices.
        prompts: of the object.
        resemblance: of several seeds, what :func:`compared` gives.
        margins_kept: the margins of labels that are known from clicks before on the same image; what is found is added.
    """
    if "meant" in prompts:
        alike = prompts["meant"]
    elif resemblance is not None:
        alike = likeness(resemblance)
    else:
        here, kinds = slice(seeds[0], seeds[0] + 1), clicks_of(prompts)[1]
        clicks = clicks_in(prompts, [i for i, kind in enumerate(kinds) if kind == 1][:1])
        points = clicks.get("point_coords"), clicks.get("point_labels")
        alike = likeness(resemblances(logits[None, ..., here], known(here), *points, None))
    most, best = alike[0].max(0)
    if most <= 0:
        return None
    label, kept = int(best), {} if margins_kept is None else margins_kept
    margin = kept.get(label)
    if margin is None:
        margin = torch.cat([margins(known(here))[0, label] for here in parts_of(0, logits.shape[2])], 2)
        if margin.nbytes <= MOST_BYTES and not margin.requires_grad:
            kept.clear()  # a click is mostly on the same label as the one before
            kept[label] = margin
    return margin


def connected(margin: Tensor, logits: Tensor, seeds: list[int], prompts: Prompts) -> Tensor:
    """Logits (H, W, D) of an object that is one of the labels: in the ``seeds`` its own, in the other slices the
    label's margin, as far as the label is connected to the object; all of it where the object is named and nothing is
    connected.

    One prompted slice tells its neighbours less than the network knows of them without a prompt.
    """
    answer = margin.clone()
    answer[..., seeds] = logits[..., seeds]
    there = (answer > 0).cpu().numpy()
    started = np.zeros_like(there)
    started[..., seeds] = there[..., seeds]
    held = np.asarray(ndimage.binary_propagation(started, np.ones((3, 3, 3)), there), bool)
    if "meant" in prompts and not np.delete(held, seeds, 2).any():
        held = there
    return answer.masked_fill(torch.as_tensor(there & ~held, device=answer.device), ABSENT)


def compared(
    network: Network,
    image: Tensor,
    embedding: Tensor,
    known: Callable[[slice], Tensor],
    prompts: Prompts,
    parts: list[slice],
) -> Tensor:
    """How much an object is like each label, as :meth:`MedSA.resemblance` says it, over parts of a volume together. One
    slice alone is easily taken for another label.

    Of the clicks the very first counts, as others may correct what the label's own answer has wrong. Where the object
    is then less than half like any label, the first positive click of each slice counts.

    Args:
        network, image, embedding: of the object.
        known: gives the network's answer without a prompt in some slices.
        prompts: the object's, as far as they are to be shown.
        parts: the prompted slices, or the whole volume.
    """
    module: Any = getattr(network, "module", network)
    first = next((k for k, kind in zip(*clicks_of(prompts), strict=True) if kind == 1), None)
    every, alone = torch.zeros((), device=image.device), torch.zeros((), device=image.device)
    for here in tqdm(parts, desc="comparing with the labels", unit="part", leave=False, delay=2):
        shown = {key: value for key, value in prompts.items() if key not in ("masks", "meant")}
        if "masks" in prompts:
            shown["masks"] = prompts["masks"][..., here]
        part = {"part": (here.start, image.shape[4]), "automatic": known(here)}
        sums = module.resemblance(image[..., here], embedding[..., here], **shown, **part)
        every = every + sums
        if first is None or not here.start <= first < here.stop:
            sums = torch.cat([sums[..., :3], torch.zeros_like(sums[..., 3:])], 2)
        alone = alone + sums
    return alone if likeness(alone).max() >= LIKE else every


def parts_of(first: int, last: int) -> list[slice]:
    """Slices of a volume, at most :data:`PART` at a time."""
    return [slice(start, min(start + PART, last)) for start in range(first, last, PART)]


def answered_without(
    network: Network, image: Tensor, embedding: Tensor, automatic: Tensor | None, here: slice
) -> Tensor:
    """What the network answers in some slices without a prompt: ``automatic``, where that is known."""
    return network(image[..., here], embedding[..., here]) if automatic is None else automatic[..., here]


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
