"""Several processes, started by torchrun: each takes its share of the cases; only the first one writes and prints."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import Dataset, DistributedSampler
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from .errors import InputError

_alone = False


def device() -> torch.device:
    """This process's own GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("cpu")


def begin() -> None:
    """Join the group that torchrun started: nccl where every process has a GPU of its own, gloo elsewhere."""
    if "RANK" not in os.environ:
        raise InputError(
            "the multi_gpu configurations are started by torchrun: torchrun --standalone --nproc_per_node=2 "
            "-m monai.bundle run --config_file ..."
        )
    own_gpus = torch.cuda.is_available() and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= torch.cuda.device_count()
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    if not dist.is_initialized():
        # The first process may read all images before the first step, or measure one large case more.
        dist.init_process_group("nccl" if own_gpus else "gloo", timeout=timedelta(days=30))
    if dist.get_rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
        logging.disable(logging.INFO)


def end() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def first_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return not dist.is_initialized() or dist.get_rank() == 0


def processes() -> int:
    """How many there are. Ignite's number of them is asked of all: it waits until each has asked."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gathered(items: Sequence[Any]) -> list[Any]:
    """The items of all processes, one from each in turn: their order before a sampler shared them out."""
    if not dist.is_initialized():
        return list(items)
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, list(items))
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def from_first(item: Any) -> Any:
    """The first process's, in all."""
    if not dist.is_initialized():
        return item
    items = [item]
    dist.broadcast_object_list(items)
    return items[0]


@contextmanager
def alone() -> Iterator[None]:
    """Within it a process waits for no other: :func:`summed` gives what it gets."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes. Its gradient, averaged over the processes, is the gradient of the sum."""
    if _alone or not dist.is_initialized():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    mine = tensor * dist.get_world_size()
    return mine + (total - mine.detach())


def validation_sampler(dataset: Dataset) -> DistributedSampler | None:
    """Shares validation cases out, none of them twice.

    Where there are fewer cases than processes, it is ``None`` and each process validates on all of them: MONAI's
    metrics wait for ever for a process without a case.
    """
    if len(dataset) < dist.get_world_size():
        return None
    return DistributedSampler(dataset, even_divisible=False, shuffle=False)


class AverageGradients:
    """Averages the processes' gradients before every step of the optimiser; all start from the same parameters.

    It takes the place of DistributedDataParallel, which needs a step to be one forward pass through all parameters:
    Med-SA answers several prompts from one encoding, and no draw of prompts uses every token. The gradients are
    kilobytes to a few megabytes, so nothing is gained by sending them earlier.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start_alike)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def start_alike(self, engine: Engine) -> None:
        for tensor in self.network.state_dict().values():
            dist.broadcast(tensor, 0)

    def __call__(self, engine: Engine) -> None:
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        used = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        everything = torch.cat([used, *(part.flatten().float() for part in parts)])
        dist.all_reduce(everything)
        sizes = [len(trained), *(p.numel() for p in trained)]
        used, *means = (everything / dist.get_world_size()).split(sizes)
        for parameter, mean, anywhere in zip(trained, means, used.tolist(), strict=True):
            # An optimiser leaves a parameter without a gradient alone, but not one whose gradient is 0.
            parameter.grad = mean.view_as(parameter).to(parameter.dtype) if anywhere else None
