"""An object that is none of the labels: whether a prompt means one, and the network without its training, which then
answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import InputError
from ..networks.medsa import MedSA
from ..networks.resemblance import margins
from .drawn import Prompts

COVERED = 0.25  # of a box's rows times its columns, at least, by the answer to it; objects of labels: 0.6 to 0.9
INSIDE = 0.5  # of the answer to a box, at least, in it; objects of labels: 0.85 to 1
DENIED = -3.0  # logit at a click of which the network says that there is nothing; objects of labels: -0.9 to 2
LOOKED_AT = 5  # slices of a box, spread evenly
KEPT = 2**29  # bytes of slices' embeddings that are kept for the next click

logger = logging.getLogger(__name__)


class Embeddings:
    """Of a volume's slices, each encoded when it is asked for the first time: ``embeddings[..., 3:5]``. Of a picture
    ``embeddings[..., :]``."""

    def __init__(self, network: MedSA, image: Tensor) -> None:
        self.network, self.image, self.kept = network, image.detach().clone(), dict[int | None, Tensor]()

    def __getitem__(self, at: tuple[Any, slice]) -> Tensor:
        if self.image.ndim == 4:
            return self.of_slice(None)
        return torch.cat([self.of_slice(k) for k in range(*at[1].indices(self.image.shape[-1]))], -1)

    def of_slice(self, k: int | None) -> Tensor:
        found = self.kept.get(k)
        if found is None:
            found = self.network.encode(self.image if k is None else self.image[..., k : k + 1])
            if (len(self.kept) + 1) * found.nbytes <= KEPT:
                self.kept[k] = found
        return found

    def are_of(self, image: Tensor) -> bool:
        same = self.image.shape == image.shape and self.image.dtype == image.dtype
        return same and self.image.device == image.device and torch.equal(self.image, image)


class Untrained:
    """A Med-SA as it was before training, which is SAM itself, at the size that its base was trained at."""

    def __init__(self, network: MedSA) -> None:
        self.device = network.backbone.pixel_mean.device
        base, checkpoint, channels = network.base_name, network.checkpoint, network.channel_names
        plain = MedSA(base, checkpoint, ["object"], amp=network.amp, depth_attention=False, channel_names=channels)
        if plain.backbone.base != network.backbone.base:
            raise InputError(f"{base} is another base than the adapter's")
        self.network = plain.eval().requires_grad_(False).to(self.device)
        self.last: Embeddings | None = None

    def embeddings(self, image: Tensor) -> Embeddings:
        """Those of the last image where it is the same."""
        last = self.last
        if last is None or not last.are_of(image):
            last = self.last = Embeddings(self.network, image)
        return last


FOUND: WeakKeyDictionary[MedSA, Untrained] = WeakKeyDictionary()
ONE_AT_A_TIME = Lock()


def untrained(network: MedSA) -> Untrained | None:
    """Of a trained network, made once. ``None``: its base cannot be built again, of which a warning says why."""
    with ONE_AT_A_TIME:
        found = FOUND.get(network)
        if found is None or found.device != network.backbone.pixel_mean.device:
            try:
                found = FOUND[network] = Untrained(network)
            except InputError as error:
                logger.warning("an object is none of the labels, and SAM itself cannot be asked for it: %s", error)
                return None
    return found


def instead(
    network: Callable[..., Tensor], image: Tensor, embedding: Tensor, known: Callable[[slice], Tensor], prompts: Prompts
) -> Untrained | None:
    """What answers an object in place of the trained network, which answers all others: ``None``.

    Args:
        network: that was trained, a Med-SA.
        image, embedding: (1, C, *spatial), and what the network made of it.
        known: gives the network's answer without a prompt in some slices.
        prompts: of the object.
    """
    module: Any = getattr(network, "module", network)
    if not isinstance(module, MedSA) or "meant" in prompts or finds(module, image, embedding, known, prompts):
        return None
    found = untrained(module)
    if found is not None:
        labels = ", ".join(module.labels)
        logger.warning("a prompted object is none of the labels (%s): answered without training", labels)
    return found


def finds(network: MedSA, image: Tensor, embedding: Tensor, known: Callable[[slice], Tensor], prompts: Prompts) -> bool:
    """Whether the network finds something where the object's first prompts are: its box and mask, else its first
    positive click. Corrections have no say, so they do not change who answers.

    A trained network that was never shown such an object empties a box about it, or answers its label beside the box.
    Arguments as of :func:`instead`.
    """
    regions = prompted_regions(image, prompts)
    if not regions:
        return holds_click(network, image, embedding, known, prompts)
    shown = {"boxes": prompts.get("boxes"), "point_coords": None, "point_labels": None}
    found = inside = 0
    rows, columns = (torch.zeros(2, size, dtype=torch.bool, device=image.device) for size in image.shape[2:4])
    slices = sorted(regions)
    for k in {slices[round(i * (len(slices) - 1) / (LOOKED_AT - 1))] for i in range(LOOKED_AT)}:
        answer = alone(network, image, embedding, k, {**shown, "masks": prompts.get("masks")}) > 0
        for each, held in enumerate((regions[k], regions[k] & answer)):
            rows[each] |= held.any(1)
            columns[each] |= held.any(0)
        found, inside = found + int(answer.sum()), inside + int((regions[k] & answer).sum())
    covered = int(rows[1].sum()) * int(columns[1].sum())
    return inside >= INSIDE * found and covered >= COVERED * int(rows[0].sum()) * int(columns[0].sum()) > 0


def holds_click(
    network: MedSA, image: Tensor, embedding: Tensor, known: Callable[[slice], Tensor], prompts: Prompts
) -> bool:
    positive = (prompts["point_labels"][0] == 1).nonzero()[:1, 0] if "point_labels" in prompts else ()
    if not len(positive):
        return True
    coords, labels = prompts["point_coords"][:, positive], prompts["point_labels"][:, positive]
    k = int(coords[0, 0, 2].round()) if image.ndim == 5 else 0
    if image.ndim == 5 and not 0 <= k < image.shape[4]:
        return True
    at = coords[0, 0, :2].round().long().tolist()
    reach = max(1, round(max(image.shape[2:4]) / network.image_size))  # a pixel as the network sees it
    rows, columns = (slice(max(0, place - reach), place + reach + 1) for place in at)
    near = [slice(i, i + 1) for i in (k, k - 1, k + 1) if 0 <= i < image.shape[4]] if image.ndim == 5 else [slice(None)]
    if any(margins(known(here))[:, :, rows, columns].max() > 0 for here in near):
        return True
    logits = alone(network, image, embedding, k, {"point_coords": coords, "point_labels": labels, "boxes": None})
    return bool(logits[at[0], at[1]] > DENIED)


def alone(network: MedSA, image: Tensor, embedding: Tensor, k: int, prompts: dict[str, Tensor | None]) -> Tensor:
    """Logits (H, W) of an object in slice ``k`` as the decoder gives them; of pictures ``k`` is 0."""
    if image.ndim == 4:
        return network.unguided(image, embedding, **prompts, automatic=image)[0][0]  # no answer without a prompt needed
    here, masks = slice(k, k + 1), prompts.get("masks")
    if masks is not None:
        masks = None if masks[..., k].isnan().all() else masks[..., here]
    shown = {**prompts, "masks": masks, "automatic": image, "part": (k, image.shape[4])}
    return network.unguided(image[..., here], embedding[..., here], **shown)[0][0, ..., 0]


def prompted_regions(image: Tensor, prompts: Prompts) -> dict[int, Tensor]:
    """The rectangles of an object's boxes, and about its masks, by slice: bool (H, W); of pictures slice 0."""
    depth, shape = image.shape[4] if image.ndim == 5 else 1, image.shape[2:4]
    found: dict[int, Tensor] = {}

    def add(k: int, low: Tensor, high: Tensor) -> None:
        area = found.setdefault(k, torch.zeros(shape, dtype=torch.bool, device=image.device))
        area[int(low[0]) : int(high[0]) + 1, int(low[1]) : int(high[1]) + 1] = True

    for box in prompts["boxes"][0] if "boxes" in prompts else ():
        if not box.isnan().any():
            low, high = box.round().chunk(2)
            first, last = (int(low[2]), int(high[2])) if image.ndim == 5 else (0, 0)
            for k in range(max(0, first), min(depth - 1, last) + 1):
                add(k, low, high)
    if "masks" in prompts:
        masks = prompts["masks"][0, 0] > 0
        for k in range(depth):
            inside = (masks[..., k] if image.ndim == 5 else masks).nonzero()
            if len(inside):
                add(k, inside.amin(0), inside.amax(0))
    return found
