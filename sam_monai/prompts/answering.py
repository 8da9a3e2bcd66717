"""How one object is answered: click by click in its slice, and in a volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..networks.resemblance import named
from .drawn import Prompts
from .following import PART, Network, clicks_of, follow


def answered(
    network: Network,
    image: Tensor,
    embedding: Tensor,
    automatic: Tensor | None,
    prompts: Prompts,
    label: str | None = None,
) -> Tensor:
    """Logits (*spatial) of one object. They depend on the image and the list of the object's prompts alone.

    In a picture, and in a slice of a volume, a click refines what is there: :func:`click_by_click`. In a volume an
    object with a box is answered in all slices. Without a box it is followed from the slices with a positive click or a
    mask: :func:`follow`.

    A network that was trained without mask prompts answers all of the prompts at once.

    Args:
        network: a Med-SA.
        image: (1, C, *spatial).
        embedding: of the image.
        automatic: the network's answer without a prompt. ``None``: a large volume, which is answered part by part.
        prompts: ``point_coords``, ``point_labels``, ``boxes`` and ``masks`` of the object, as far as there are.
            ``meant``: as :meth:`MedSA.forward` takes it, where it is known which label the object is.
        label: the name of the label that the object is, in place of ``meant``.
    """
    if label is not None:
        labels = getattr(network, "module", network).labels  # type: ignore[attr-defined]
        prompts = {**prompts, "meant": named(labels, label).to(image.device)}
    if "masks" in prompts and prompts["masks"].isnan().all():
        prompts = {key: value for key, value in prompts.items() if key != "masks"}
    numbers, boxed = numbered(prompts), "boxes" in prompts and not bool(prompts["boxes"].isnan().all())
    if image.ndim == 4:

        def ask_picture(shown: Prompts) -> Tensor:
            return network(image, embedding, automatic=automatic, **shown)[:, 1:]

        return click_by_click(network, ask_picture, prompts, numbers, boxed or "masks" in prompts)[0, 0]
    depth = image.shape[4]
    logits = on_slices(network, image, embedding, automatic, prompts, 0, depth)
    masks, drawn = prompts.get("masks"), set[int]()
    if masks is not None:
        drawn = set((~masks[0, 0, 0, 0].isnan()).nonzero().flatten().tolist())
    at, kinds = clicks_of(prompts)
    clicked = [k for k, kind in zip(at, kinds, strict=True) if kind != -1 and 0 <= k < depth]
    for k in sorted(set(clicked)):
        alone = boxed or k in drawn
        if clicked.count(k) + alone < 2 or not takes_masks(network):
            continue

        def ask_slice(shown: Prompts, k: int = k) -> Tensor:
            return on_slices(network, image, embedding, automatic, shown, k, k + 1)[None, None]

        own = {key: value for key, value in prompts.items() if key != "masks"}
        if masks is not None and k in drawn:
            own["masks"] = masks[..., k : k + 1]
        here = numbers * (torch.tensor(at) == k)  # the clicks of other slices are shown from the first
        logits[..., k] = click_by_click(network, ask_slice, own, here, alone)[0, 0, ..., 0]
    seeds = drawn | {k for k, kind in zip(at, kinds, strict=True) if kind == 1 and 0 <= k < depth}
    if seeds and not boxed:
        follow(network, image, embedding, automatic, logits, seeds, prompts)
    return logits


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

    meant = {"meant": prompts["meant"]} if "meant" in prompts else {}
    prompts = {key: value for key, value in prompts.items() if key != "meant"}

    def asked(here: slice) -> dict[str, Any]:
        masks = {"masks": prompts["masks"][..., here]} if "masks" in prompts else {}
        return {**prompts, **masks, "part": (start + here.start, depth)}

    resemblance = sum(
        module.resemblance(image[..., here], embedding[..., here], **asked(here))
        for here in tqdm(parts, desc="comparing with the labels", unit="part", leave=False)
    )
    logits = torch.empty(image.shape[2:], device=image.device)
    for here in tqdm(parts, desc="answering the prompt", unit="part", leave=False):
        answer = network(image[..., here], embedding[..., here], resemblance=resemblance, **meant, **asked(here))
        logits[..., here] = answer[0, 1]
    return logits
