"""How one object is answered: click by click in its slice, and in a volume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..networks.guidance import OBEYED
from ..networks.resemblance import named as as_meant
from .drawn import Prompts
from .following import ABSENT, Network, answered_without, clicks_of, compared, connected, follow, label_margin, parts_of
from .unlike_labels import unlike_labels
from .untrained import Embeddings, instead

EXACT = 1e-3  # of a voxel, to which a click's place is rounded
CARRIED = 0.7  # of a correction's change, to the next slice


def answered(
    network: Network,
    image: Tensor,
    embedding: Tensor,
    automatic: Tensor | None,
    prompts: Prompts,
    label: str | None = None,
    margins_kept: dict[int, Tensor] | None = None,
) -> Tensor:
    """Logits (*spatial) of one object. They depend on the image and the list of the object's prompts alone.

    In a picture, and in a slice of a volume, a click refines what is there: :func:`click_by_click`. In a volume an
    object with a box is answered in all slices. Without a box it is answered in the slices with a positive click or a
    mask, and followed from there: :func:`follow`. Where it is one of the labels, clicks that contradict the label's own
    answer in another slice than the first refine that.

    A network that was trained without mask prompts answers all of the prompts at once.

    An object that is none of the labels is answered by the network as it was before training:
    :func:`~sam_monai.prompts.unlike_labels.unlike_labels`.

    Args:
        network: a Med-SA.
        image: (1, C, *spatial).
        embedding: of the image.
        automatic: the network's answer without a prompt. ``None``: a large volume, which is answered part by part.
        prompts: ``point_coords``, ``point_labels``, ``boxes`` and ``masks`` of the object, as far as there are.
            ``meant``: as :meth:`MedSA.forward` takes it, where it is known which label the object is.
        label: the name of the label that the object is, in place of ``meant``.
        margins_kept: kept from one click on an image to the next, so that the volume is not answered anew for it;
            begins empty.
    """
    if label is not None:
        labels = getattr(network, "module", network).labels  # type: ignore[attr-defined]
        prompts = {**prompts, "meant": as_meant(labels, label).to(image.device)}
    if "masks" in prompts and prompts["masks"].isnan().all():
        prompts = {key: value for key, value in prompts.items() if key != "masks"}
    known = partial(answered_without, network, image, embedding, automatic)
    if (other := instead(network, image, embedding, known, prompts)) is not None:
        answer = unlike_labels(other, image, prompts, answered_by)
    else:
        answer = answered_by(network, image, embedding, automatic, prompts, margins_kept)
    return answer if getattr(network, "training", False) else obeyed_between_voxels(answer, prompts)


def obeyed_between_voxels(logits: Tensor, prompts: Prompts) -> Tensor:
    """Logits (*spatial) on the side of every click at all of the voxels about it. A click of an image that was
    resampled lies between voxels, and its own voxel in the file would have a part of what lies beside."""
    if "point_labels" not in prompts:
        return logits
    answer = logits.clone()
    for at, kind in zip(prompts["point_coords"][0].tolist(), prompts["point_labels"][0].tolist(), strict=True):
        whole = all(abs(x - round(x)) < EXACT for x in at)
        if kind == -1 or whole or not all(-0.5 <= x <= n - 0.5 for x, n in zip(at, logits.shape, strict=True)):
            continue
        about = tuple(
            slice(max(0, math.floor(x + EXACT)), min(n, math.ceil(x - EXACT) + 1))
            for x, n in zip(at, logits.shape, strict=True)
        )
        answer[about] = answer[about].clamp(min=OBEYED) if kind == 1 else answer[about].clamp(max=-OBEYED)
    return answer


def answered_by(
    network: Network,
    image: Tensor,
    embedding: Tensor | Embeddings,
    automatic: Tensor | None,
    prompts: Prompts,
    margins_kept: dict[int, Tensor] | None = None,
) -> Tensor:
    """As :func:`answered`, by the network itself, whatever the object is."""
    numbers, boxed = numbered(prompts), "boxes" in prompts and not bool(prompts["boxes"].isnan().all())
    if image.ndim == 4:

        def ask_picture(shown: Prompts) -> Tensor:
            return network(image, embedding, automatic=automatic, **shown)[:, 1:]

        return click_by_click(network, ask_picture, prompts, numbers, boxed or "masks" in prompts)[0, 0]
    depth = image.shape[4]
    masks, drawn = prompts.get("masks"), set[int]()
    if masks is not None:
        drawn = set((~masks[0, 0, 0, 0].isnan()).nonzero().flatten().tolist())
    at, kinds = clicks_of(prompts)
    seeds = drawn | {k for k, kind in zip(at, kinds, strict=True) if kind == 1 and 0 <= k < depth}
    known = partial(answered_without, network, image, embedding, automatic)
    clicked = [k for k, kind in zip(at, kinds, strict=True) if kind != -1 and 0 <= k < depth]
    named = "meant" in prompts and bool(prompts["meant"].any())
    denied = bool(clicked) and named  # a label is corrected by negative clicks alone
    followed = (bool(seeds) or denied) and not boxed
    parts = [slice(k, k + 1) for k in sorted(seeds)] if followed else parts_of(0, depth)
    resemblance = base = None
    if len(seeds) > 1 if followed else bool(clicked or automatic is None):
        shown = {**prompts, **first_clicks(prompts, numbers, 1)}
        resemblance = compared(network, image, embedding, known, shown, parts)

    def refine(k: int) -> None:
        def ask_slice(shown: Prompts) -> Tensor:
            return on_slices(network, image, embedding, automatic, shown, k, k + 1, resemblance)[None, None]

        own = {key: value for key, value in prompts.items() if key != "masks"}
        here = numbers * (torch.tensor(at) == k)  # the clicks of other slices are shown from the first
        if masks is not None and k in drawn:
            own["masks"] = masks[..., k : k + 1]
        elif base is not None and not obeyed(base, prompts, int(here.nonzero()[0])) and takes_masks(network):
            own["masks"] = base[None, None, ..., k : k + 1]
        logits[..., k] = click_by_click(network, ask_slice, own, here, boxed or k in drawn)[0, 0, ..., 0]

    if not followed:
        logits = on_slices(network, image, embedding, automatic, prompts, 0, depth, resemblance)
        boxes = {key: value for key, value in prompts.items() if key in ("boxes", "meant")}
        changes = {}
        for k in sorted({k for k in clicked if clicked.count(k) + boxed > 1 and takes_masks(network)}):
            refine(k)
            if boxed and k not in drawn:
                before = on_slices(network, image, embedding, automatic, boxes, k, k + 1, resemblance)
                changes[k] = logits[..., k] - before[..., 0]
        carry(logits, changes, set(clicked) | drawn)
        return logits
    logits = torch.full(image.shape[2:], ABSENT, device=image.device)
    first = [k for k, kind in zip(at, kinds, strict=True) if kind == 1 and k in seeds][:1]
    for k in sorted(starts := drawn | {*first}):
        refine(k)
    margin = label_margin(known, logits, sorted(seeds), prompts, resemblance, margins_kept)
    if margin is not None and starts < seeds:
        base = connected(margin, logits, sorted(starts), prompts)
    for k in sorted(seeds - starts):
        refine(k)
    follow(network, image, embedding, automatic, logits, seeds, prompts, margin)
    return logits


def carry(logits: Tensor, changes: Mapping[int, Tensor], own: set[int]) -> None:
    """Add to logits (H, W, D), in place, what corrections changed (H, W) in the nearest corrected slice on either side,
    :data:`CARRIED` of it from slice to slice. Slices with prompts of their ``own`` stay."""
    for k in set(range(logits.shape[2])) - own:
        nearest = max((c for c in changes if c < k), default=None), min((c for c in changes if c > k), default=None)
        for c in nearest:
            if c is not None:
                logits[..., k] += CARRIED ** abs(c - k) * changes[c]


def click_by_click(
    network: Network, ask: Callable[[Prompts], Tensor], prompts: Prompts, numbers: Tensor, alone: bool
) -> Tensor:
    """The last of several answers, each refining the one before it.

    The answer to n clicks has as its mask prompt the answer to the first 1, 2, 4, 8, ... of them, the largest of these
    numbers below n. Where there is a box or a mask, the first answer is the one to it ``alone``. So many clicks cost a
    few passes of the decoder more than one, and what is undone leaves no trace.

    Args:
        network: what is asked.
        ask: prompts to logits (1, 1, *spatial).
        prompts: of the object.
        numbers: of the clicks (N,), from 1 on; 0 for what is not to be counted.
        alone: whether there is a box or a mask.
    """
    masks, answer = prompts.get("masks"), None
    for count in stages(network, numbers, alone):
        shown = first_clicks(prompts, numbers, count)
        answer = masks = ask(shown if masks is None else {**shown, "masks": masks})
    assert answer is not None
    return answer


def obeyed(logits: Tensor, prompts: Prompts, click: int) -> bool:
    """Whether logits (H, W, D) are on a click's side; clicks beside the image have none."""
    place = prompts["point_coords"][0, click].round().long().tolist()
    inside = all(0 <= i < size for i, size in zip(place, logits.shape, strict=True))
    return not inside or bool(logits[tuple(place)] > 0) == bool(prompts["point_labels"][0, click] == 1)


def takes_masks(network: Network) -> bool:
    return bool(getattr(network, "module", network).mask_prompts)  # type: ignore[attr-defined]


def numbered(prompts: Prompts) -> Tensor:
    """The number (N,) of each click in its slice, from 1 on; 0 for padding."""
    seen: dict[int, int] = {}
    numbers = []
    for k, kind in zip(*clicks_of(prompts), strict=True):
        seen[k] = seen.get(k, 0) + (kind != -1)
        numbers.append(seen[k] if kind != -1 else 0)
    return torch.tensor(numbers, dtype=torch.int64)


def stages(network: Network, numbers: Tensor, alone: bool) -> list[int]:
    """How many clicks of a slice are shown to the network at a time, one answer after the other. ``alone``: first none,
    because there is a box or a mask."""
    most = int(numbers.max()) if len(numbers) else 0
    if not takes_masks(network) or (not most and not alone):
        return [most]
    counts = [0] if alone else []
    if most:
        counts += [2**power for power in range((most - 1).bit_length() + 1)]
    return counts


def first_clicks(prompts: Prompts, numbers: Tensor, count: int) -> Prompts:
    """The prompts but their masks, with the first so many clicks of each slice."""
    shown = {key: value for key, value in prompts.items() if key != "masks"}
    if "point_labels" in shown:
        kept = (numbers <= count).to(shown["point_labels"].device)
        shown["point_labels"] = shown["point_labels"].masked_fill(~kept, -1)
    return shown


def on_slices(
    network: Network,
    image: Tensor,
    embedding: Tensor,
    automatic: Tensor | None,
    prompts: Prompts,
    first: int,
    last: int,
    resemblance: Tensor | None,
) -> Tensor:
    """Logits (H, W, last - first) of an object in some slices of a volume, the same as from all of them at once.
    ``masks`` are of these slices alone, the other prompts of the whole volume."""
    logits = torch.empty(*image.shape[2:4], last - first, device=image.device)
    parts = [slice(first, last)] if automatic is not None else parts_of(first, last)
    for here in tqdm(parts, desc="answering the prompt", unit="part", leave=False, delay=2):
        asked = {**prompts, "part": (here.start, image.shape[4]), "resemblance": resemblance}
        own = slice(here.start - first, here.stop - first)
        if "masks" in prompts:
            asked["masks"] = prompts["masks"][..., own]
        if automatic is not None:
            asked["automatic"] = automatic[..., here]
        logits[..., own] = network(image[..., here], embedding[..., here], **asked)[0, 1]
    return logits
