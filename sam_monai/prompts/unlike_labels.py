"""The answer to an object that is none of the labels, by the network without its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..networks.guidance import obey_clicks
from ..networks.medsa import MedSA
from .drawn import Prompts
from .following import ABSENT, clicks_of, follow
from .untrained import Untrained

SIDES = (0.06, 0.1, 0.15, 0.22, 0.32, 0.45, 0.65)  # of boxes about a click, in the longer side of the slice


def unlike_labels(untrained: Untrained, image: Tensor, prompts: Prompts, answered_by: Callable[..., Tensor]) -> Tensor:
    """Logits (*spatial) of an object that is no label.

    In a volume each slice within its box, and with a positive click or a mask, is answered by itself. A box over
    several slices says where the object ends; else it is followed from these slices.

    Args:
        untrained: what answers.
        image: (1, C, *spatial).
        prompts: of the object.
        answered_by: :func:`sam_monai.prompts.answering.answered_by`.
    """
    network, depth = untrained.network, image.shape[-1]
    nothing = torch.zeros(1, 2, *[1] * (image.ndim - 2), device=image.device).expand(1, 2, *image.shape[2:])
    embedding = untrained.embeddings(image)

    def answer(image: Tensor, embedding: Tensor, nothing: Tensor, shown: Prompts) -> Tensor:
        if not network.backbone.weights.clicks:
            return by_box(network, image, embedding, nothing, shown)
        return answered_by(network, image, embedding, nothing, {**shown, "meant": image.new_zeros(1, 1)})

    if image.ndim == 4:
        return answer(image, embedding[..., :], nothing, prompts)
    boxes = prompts["boxes"][0] if "boxes" in prompts else image.new_zeros(0, 6)
    boxes = boxes[~boxes.isnan().any(1)].round().long().tolist()
    boxed = {k for box in boxes for k in range(max(0, box[2]), min(depth, box[5] + 1))}
    at, kinds = clicks_of(prompts)
    seeds = boxed | {k for k, kind in zip(at, kinds, strict=True) if kind == 1 and 0 <= k < depth}
    if "masks" in prompts:
        seeds |= set((~prompts["masks"][0, 0, 0, 0].isnan()).nonzero().flatten().tolist())
    logits = torch.full(image.shape[2:], ABSENT, device=image.device)
    for k in tqdm(sorted(seeds), desc="answering the prompt", unit="slice", leave=False, delay=2):
        here, shown = slice(k, k + 1), in_slice(prompts, k, k in boxed)
        logits[..., here] = answer(image[..., here], embedding[..., here], nothing[..., here], shown)
    if len(boxed) < 2:
        follow(network, image, embedding, nothing, logits, seeds, prompts, None)
    return logits


def in_slice(prompts: Prompts, k: int, boxed: bool) -> Prompts:
    """Prompts of an object in a volume as those of the volume of slice ``k`` alone, with its box or without."""
    found = {key: value for key, value in prompts.items() if key != "boxes" or boxed}
    if "point_coords" in found:
        found["point_coords"] = found["point_coords"] - found["point_coords"].new_tensor([0, 0, k])
        elsewhere = found["point_coords"][..., 2].round() != 0
        found["point_labels"] = found["point_labels"].masked_fill(elsewhere, -1)
    if boxed:
        found["boxes"] = found["boxes"] - found["boxes"].new_tensor([0, 0, k, 0, 0, k])
    if "masks" in found:
        found["masks"] = found["masks"][..., k : k + 1]
        if found["masks"].isnan().all():
            del found["masks"]
    return found


def by_box(network: MedSA, image: Tensor, embedding: Tensor, nothing: Tensor, prompts: Prompts) -> Tensor:
    """Logits (*spatial) of an object in a picture, or in a volume of one slice, from a base that was trained with boxes
    alone: of the box, of that about a mask, or of the best of several about the positive clicks. The clicks change them
    about their places: shown to such a base, a few made its answers worse.

    The best answer is the one on the side of most clicks; of these one that ends within its box; and of these the
    surest, by its mean logit.
    """
    coords, labels = prompts.get("point_coords"), prompts.get("point_labels")

    def ask(box: Tensor) -> Tensor:
        return network(image, embedding, automatic=nothing, boxes=box)[0, 1]

    if "boxes" in prompts and not prompts["boxes"].isnan().all():
        logits = ask(prompts["boxes"])
    elif "masks" in prompts and len(inside := (prompts["masks"][0, 0] > 0).nonzero()):
        logits = ask(torch.cat([inside.amin(0), inside.amax(0)]).float()[None, None])
    elif coords is None or labels is None or not (labels == 1).any():
        logits = torch.full(image.shape[2:], ABSENT, device=image.device)
    else:
        logits = best_of_boxes(ask, image.shape[2:4], coords, labels)
    if coords is None or labels is None:
        return logits
    return obey_clicks(logits[None], coords, labels)[0]


def best_of_boxes(ask: Callable[[Tensor], Tensor], shape: Sequence[int], coords: Tensor, labels: Tensor) -> Tensor:
    """The best answer to boxes of :data:`SIDES` about the positive clicks."""
    positive = coords[0, labels[0] == 1]
    low, high = positive.amin(0)[:2], positive.amax(0)[:2]
    last, answers = low.new_tensor(shape) - 1, []
    for side in SIDES:
        more = side * max(shape) / 2
        lower, upper = (low - more).clamp(min=0), torch.minimum(high + more, last)
        answer = ask(torch.cat([lower, positive[0, 2:], upper, positive[0, 2:]])[None, None])
        rank = obeyed(answer, coords, labels), ends_within(answer, lower, upper, last), sureness(answer)
        answers.append((rank, answer))
    return max(answers, key=lambda one: one[0])[1]


def obeyed(logits: Tensor, coords: Tensor, labels: Tensor) -> int:
    """How many of an object's clicks logits (*spatial) are on the side of."""
    at = coords[0, labels[0] != -1].round().long()
    return int(((logits[tuple(at.unbind(1))] > 0) == (labels[0, labels[0] != -1] == 1)).sum())


def ends_within(logits: Tensor, lower: Tensor, upper: Tensor, last: Tensor) -> bool:
    """Whether an object ends within its box, from ``lower`` to ``upper``, or at the image's edges."""
    inside = (logits > 0).nonzero()[:, :2]
    if not len(inside):
        return False
    beyond_low, beyond_high = inside.amin(0) <= lower + 0.5, inside.amax(0) >= upper - 0.5
    return not bool((beyond_low & (lower > 0)).any() or (beyond_high & (upper < last)).any())


def sureness(logits: Tensor) -> float:
    inside = logits > 0
    return float(logits[inside].mean()) if inside.any() else 0.0
