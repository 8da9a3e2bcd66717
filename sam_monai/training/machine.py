"""What a step of training costs on this machine: measured on the network itself, not looked up."""

from __future__ import annotations

import inspect
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from ..memory import free_memory
from ..networks.base import AdaptedSAM

PATIENCE = 5.0  # seconds
SLOW = 8.0  # seconds: a larger size whose step would take longer is not timed, but estimated
PROBES = (64, 128)  # pixels: the sizes that are timed, of which the cost of others follows


@dataclass(frozen=True)
class Cost:
    """Of one size: seconds of a step, seconds to answer one slice without gradients (of volumes and on a GPU, one of
    several), and bytes that a step keeps for the backward pass. Where the encoder is frozen, so that its embeddings can
    be kept, step and answer begin with an embedding, and ``encode`` is seconds to make that of one slice; elsewhere it
    is 0."""

    size: int
    step: float
    answer: float
    kept: float
    encode: float = 0.0


class Costs:
    """Costs by the size of the encoder's square. The work grows with its area, beside a part that does not grow.

    Args:
        measure: a size in pixels to its cost.
        sizes: to measure: one, or two between and beyond which the others are estimated. The second is left out where
            its step would take longer than :data:`SLOW`: on such a machine the part that does not grow is small.
    """

    def __init__(self, measure: Callable[[int], Cost], sizes: tuple[int, ...] = PROBES) -> None:
        self.measure, self.sizes = measure, sizes

    @cached_property
    def measured(self) -> list[Cost]:
        first = self.measure(self.sizes[0])
        quick = [size for size in self.sizes[1:] if first.step * (size / first.size) ** 2 <= SLOW]
        return [first, *map(self.measure, quick)]

    def __call__(self, size: int) -> Cost:
        first, last = self.measured[0], self.measured[-1]
        if first.size == last.size:
            larger = (size / last.size) ** 2
            return Cost(size, *(value * larger for value in (last.step, last.answer, last.kept, last.encode)))
        place = (size**2 - first.size**2) / (last.size**2 - first.size**2)

        def at(name: str) -> float:
            a, b = getattr(first, name), getattr(last, name)
            return max(a + place * max(0.0, b - a), min(a, b) * min(1.0, (size / first.size) ** 2))

        return Cost(size, at("step"), at("answer"), at("kept"), at("encode"))


def cost_of(
    network: AdaptedSAM,
    shape: tuple[int, ...],
    inferer: Inferer,
    loss: nn.Module,
    device: torch.device,
    embeddings_kept: bool = True,
) -> Cost:
    """Take real steps and answer a slice. The network's parameters stay as they are.

    Args:
        network: new; random numbers are drawn.
        shape: of a batch (B, C, *spatial).
        inferer: the trainer's; one that takes a ``label`` gets the batch's.
        loss: the trainer's.
        device: where to.
        embeddings_kept: whether they are, where the encoder is frozen.
    """
    network.to(device)
    if isinstance(vectors := getattr(network, "label_vectors", None), Tensor):
        vectors.normal_()  # in place of those of names, which a step need not know
    image = torch.rand(shape, device=device)
    label = torch.zeros(shape[0], 1, *shape[2:], device=device)
    middle = tuple(slice(n // 4, max(1, 3 * n // 4)) for n in shape[2:4])
    label[(slice(None), slice(None), *middle)] = 1
    more: dict[str, Any] = {"label": label} if "label" in inspect.signature(inferer.__call__).parameters else {}
    encoder = network.backbone.image_encoder
    once = network.channel_names is None and not any(p.requires_grad for p in encoder.parameters()) and embeddings_kept
    with torch.no_grad():
        embedding = (network.encode(image),) if once else ()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step() -> None:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(inferer(image, network, *embedding, **more), label)
        value.backward()
        network.zero_grad()

    # Slices of a volume pass together, which takes less time for each; and a GPU's work is mostly to begin.
    together = network.slices_per_batch if device.type == "cuda" or image.ndim == 5 else 1
    some = (image[:1, ..., :1] if image.ndim == 5 else image[:1]).repeat_interleave(together, 0)

    def encode() -> Tensor:
        with torch.no_grad():
            return network.encode(some)

    known = (encode(),) if once else ()

    def answer() -> None:
        with torch.no_grad():
            network(some, *known)

    network.train()
    steps, answers = (fastest(action, device) for action in (step, answer))
    encoding = fastest(encode, device) / together if once else 0.0
    frozen = sum(p.untyped_storage().nbytes() for p in network.parameters())
    return Cost(network.image_size, steps, answers / together, max(0, sum(kept.values()) - frozen), encoding)


def fastest(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of two to four runs, the first of which warms up; no more after :data:`PATIENCE`. On a
    processor that takes :data:`SLOW` for the first, it is the only one: warming up is a small part of it."""
    seconds = [timed(action, device)]
    if device.type == "cuda" or seconds[0] < SLOW:
        seconds.append(timed(action, device))
    while 1 < len(seconds) < 4 and sum(seconds) < PATIENCE:
        seconds.append(timed(action, device))
    return min(seconds)


def timed(action: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - begun


def free_on(device: torch.device) -> int | None:
    """Free bytes of a GPU's memory, or of the machine's; ``None`` where that is not known. Of several processes that
    torchrun started here, those of one GPU share it."""
    if device.type != "cuda":
        return free_memory()
    try:
        torch.cuda.empty_cache()  # what steps that were timed have left
        free = torch.cuda.mem_get_info(device)[0]
    except RuntimeError:
        return None
    return free // math.ceil(int(os.environ.get("LOCAL_WORLD_SIZE", 1)) / torch.cuda.device_count())
