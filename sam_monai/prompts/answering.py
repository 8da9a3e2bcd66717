"""How one object is answered: click by click, and from the slices with prompts through the volume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..networks.prompt_tokens import in_part
from ..networks.resemblance import resemblances
from .drawn import Prompts

ABSENT = -20.0  # logit of an object that was followed to its end
PART = 16  # slices of a volume that a prompt is answered for at a time, where the whole would be large
REACH = 4  # slices to either side of a click in which it corrects the answer to a box

Network = Callable[..., Tensor]


def answered(network: Network, image: Tensor, embedding: Tensor, automatic: Tensor | None, prompts: Prompts) -> Tensor:
    """Logits (*spatial) of one object. They depend on the image and the list of the object's prompts alone.

    A click refines what is there. The answer to n clicks of a slice has as its mask prompt the answer to the first 1,
    2, 4, 8, ... of them, the largest of these numbers below n. Where there is a box or a mask, the first answer is the
    one to it alone. So many clicks cost a few passes of the decoder more than one, and what is undone leaves no trace.

    In a volume a box is answered in all slices, and clicks correct it up to :data:`REACH` slices away. Without a box
    the slices with a positive click or a mask are answered, and the object is followed from them: :func:`follow`.

    A network that was trained without mask prompts answers all of the prompts at once.

    Args:
        network: a Med-SA.
        image: (1, C, *spatial).
        embedding: of the image.
        automatic: the network's answer without a prompt. ``None``: a large volume, which is answered part by part.
        prompts: ``point_coords``, ``point_labels``, ``boxes`` and ``masks`` of the object, as far as there are.
    """
    if "masks" in prompts and prompts["masks"].isnan().all():
        prompts = {key: value for key, value in prompts.items() if key != "masks"}
    if image.ndim == 5:
        return in_volume(network, image, embedding, automatic, prompts)
    masks, answer = prompts.get("masks"), automatic
    numbers = numbered(prompts)
    for count in stages(network, numbers, "masks" in prompts or boxed(prompts)):
        shown = first_clicks(prompts, numbers, count)
        shown = shown if masks is None else {**shown, "masks": masks}
        answer = network(image, embedding, automatic=automatic, **shown)
        masks = answer[:, 1:]
    assert answer is not None
    return answer[0, 1]


def in_volume(network: Network, image: Tensor, embedding: Tensor, automatic: Tensor | None, prompts: Prompts) -> Tensor:
    depth, whole = image.shape[4], boxed(prompts)
    masks = prompts.get("masks")
    drawn = set() if masks is None else set((~masks[0, 0, 0, 0].isnan()).nonzero().flatten().tolist())
    at, kinds = clicks_of(prompts)
    seeds = drawn | {k for k, kind in zip(at, kinds, strict=True) if kind == 1 and 0 <= k < depth}
    numbers = numbered(prompts)
    if not takes_masks(network) or not (whole or seeds):
        logits = on_slices(network, image, embedding, automatic, prompts, 0, depth)
        if seeds and not whole:
            follow(network, image, embedding, automatic, logits, seeds, prompts)
        return logits
    logits = torch.full(image.shape[2:], ABSENT, device=image.device)
    for k in drawn if masks is not None else ():
        logits[..., k] = masks[0, 0, ..., k]
    known = set(drawn)
    counts = {k: sum(i == k and kind != -1 for i, kind in zip(at, kinds, strict=True)) for k in seeds | set(at)}
    before = 0
    for count in stages(network, numbers, whole or bool(drawn)):
        live = {k for k, most in counts.items() if most > before} if count else drawn
        if whole:
            live = {near for k in live for near in range(k - REACH, k + REACH + 1)} if count else range(depth)
        live = [k for k in live if 0 <= k < depth] if whole else [k for k in live if k in seeds]
        shown = first_clicks(prompts, numbers, count)
        for first, last in runs(live):
            before_them = logits[None, None, ..., first:last].clone()
            before_them[..., [k - first for k in range(first, last) if k not in known]] = torch.nan
            given = shown if known.isdisjoint(range(first, last)) else {**shown, "masks": before_them}
            logits[..., first:last] = on_slices(network, image, embedding, automatic, given, first, last)
            known.update(range(first, last))
        before = count
    if not whole:
        follow(network, image, embedding, automatic, logits, seeds, prompts)
    return logits


def takes_masks(network: Network) -> bool:
    return bool(getattr(network, "module", network).mask_prompts)  # type: ignore[attr-defined]


def boxed(prompts: Prompts) -> bool:
    return "boxes" in prompts and not bool(prompts["boxes"].isnan().all())


def clicks_of(prompts: Prompts) -> tuple[list[int], list[int]]:
    """Slice, 0 in pictures, and label of each click of an object."""
    if "point_labels" not in prompts:
        return [], []
    coords, labels = prompts["point_coords"][0], prompts["point_labels"][0]
    at = coords[:, 2].round().long() if coords.shape[1] == 3 else torch.zeros_like(labels)
    return at.tolist(), labels.tolist()


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


def runs(slices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Slices as runs of neighbours (first, last), the last exclusive."""
    ordered = sorted(slices)
    starts = [k for k in ordered if k - 1 not in set(ordered)] if ordered else []
    ends = [k + 1 for k in ordered if k + 1 not in set(ordered)] if ordered else []
    yield from zip(starts, ends, strict=True)


def on_slices(
    network: Network,
    image: Tensor,
    embedding: Tensor,
    automatic: Tensor | None,
    prompts: Prompts,
    first: int,
    last: int,
) -> Tensor:
    """Logits (H, W, last - first) of an object in some slices of a volume. ``masks`` are of these slices alone, the
    other prompts of the whole volume."""
    depth, here = image.shape[4], slice(first, last)
    if automatic is None:
        return by_parts(network, image[..., here], embedding[..., here], prompts, (first, depth))
    known = {"automatic": automatic[..., here], "part": (first, depth)}
    return network(image[..., here], embedding[..., here], **known, **prompts)[0, 1]


def by_parts(
    network: Network, image: Tensor, embedding: Tensor, prompts: Prompts, part: tuple[int, int] | None = None
) -> Tensor:
    """Logits (H, W, D) of one object, the same as from all slices at once, made of :data:`PART` slices a time.

    ``part``: (first, depth) where the slices given are only a part of a volume, as in :meth:`MedSA.forward`.
    """
    module: Any = getattr(network, "module", network)
    start, depth = part or (0, image.shape[4])
    parts = [slice(first, first + PART) for first in range(0, image.shape[4], PART)]

    def asked(here: slice) -> dict[str, Any]:
        masks = {"masks": prompts["masks"][..., here]} if "masks" in prompts else {}
        return {**prompts, **masks, "part": (start + here.start, depth)}

    resemblance = sum(
        module.resemblance(image[..., here], embedding[..., here], **asked(here))
        for here in tqdm(parts, desc="comparing with the labels", unit="part", leave=False)
    )
    logits = torch.empty(image.shape[2:], device=image.device)
    for here in tqdm(parts, desc="answering the prompt", unit="part", leave=False):
        answer = network(image[..., here], embedding[..., here], resemblance=resemblance, **asked(here))
        logits[..., here] = answer[0, 1]
    return logits


def follow(
    network: Network,
    image: Tensor,
    embedding: Tensor,
    automatic: Tensor | None,
    logits: Tensor,
    seeds: set[int],
    prompts: Prompts,
) -> None:
    """In the logits (H, W, D) of one object, answer the slices beyond the ``seeds`` anew, in place, from the nearest
    seed outwards, until nothing is left of the object.

    What a slice passes on is its mask, or the box about it where the network was trained without mask prompts. To that
    come a slice's own negative clicks, and how much the object was like each label in the slices answered before.
    """
    depth = image.shape[4]
    coords, labels = prompts.get("point_coords"), prompts.get("point_labels")
    at, kinds = clicks_of(prompts)
    masks_too = takes_masks(network)

    def label_answers(k: int) -> Tensor:
        here = slice(k, k + 1)
        return network(image[..., here], embedding[..., here]) if automatic is None else automatic[..., here]

    def likeness(k: int, known: Tensor) -> Tensor:
        return resemblances(logits[None, ..., k : k + 1], known, in_part(coords, (k, depth)), labels, None)

    alike = sum(likeness(k, label_answers(k)) for k in sorted(seeds)) if masks_too else None
    nearest = {k: min(seeds, key=lambda seed: (abs(seed - k), seed)) for k in range(depth)}
    for k in sorted(set(nearest) - seeds, key=lambda k: abs(k - nearest[k])):
        neighbour = logits[..., k + (1 if k < nearest[k] else -1)]
        inside = (neighbour > 0).nonzero()
        if not len(inside):
            logits[..., k] = ABSENT
            continue
        known = label_answers(k)
        given: dict[str, Any] = {"automatic": known}
        if masks_too:
            given |= {"masks": neighbour[None, None, ..., None], "resemblance": alike}
        else:
            corners = [*inside.amin(0).tolist(), 0, *inside.amax(0).tolist(), 0]
            given["boxes"] = torch.tensor(corners, dtype=torch.float32, device=image.device)[None, None]
        own = [i for i, place in enumerate(at) if place == k and kinds[i] == 0]
        if own and coords is not None and labels is not None:
            plane = coords[:, own] * torch.tensor([1, 1, 0], device=coords.device)  # alone, the slice is number 0
            given |= {"point_coords": plane, "point_labels": labels[:, own]}
        here = slice(k, k + 1)
        logits[..., k] = network(image[..., here], embedding[..., here], **given)[0, 1, ..., 0]
        if alike is not None:
            alike = alike + likeness(k, known)
