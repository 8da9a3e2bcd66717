"""Handlers of MONAI's trainer: seeds, embeddings made before the first epoch, and a bar with the time left."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset, set_rnd
from monai.transforms.traits import RandomizableTrait
from monai.utils import set_determinism
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..distributed import first_process


def validation_interval(epochs: int) -> int:
    """Epochs between validations: five or six of them where the number divides so, the last epoch always among them."""
    return next(n for n in range(max(1, epochs // 6), epochs + 1) if epochs % n == 0)


class SeedEpochs:
    """Every epoch starts from (seed, epoch, rank) alone, so a run resumed at the end of an epoch goes on as if it had
    not stopped: python, numpy and torch, the order of cases, and every random transform."""

    def __init__(self, seed: int, dataset: Dataset) -> None:
        self.seed, self.dataset = seed, dataset

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = (self.seed * 1_000_003 + engine.state.epoch * 1_009 + idist.get_rank()) % 2**32
        set_determinism(seed, use_deterministic_algorithms=None)
        set_rnd(self.dataset, seed)  # transforms of the main process; workers are seeded from torch's generator


class EmbedFirst:
    """When training starts, every training image in each of its views and every validation image enters the encoder;
    then epochs run the decoder alone. Processes share the work where they share a folder.

    Args:
        network: a PTSAM; nothing happens where it keeps no embeddings.
        training: dataset of the training samples, whose transforms are deterministic up to the views.
        validation: dataset of the whole validation images.
        views: what the augmentation may make of an image, from :func:`sam_monai.training.samples.views`.
    """

    def __init__(
        self, network: nn.Module, training: Dataset, validation: Dataset, views: Iterable[Callable[[Tensor], Tensor]]
    ) -> None:
        self.network, self.training, self.validation, self.views = network, training, validation, list(views)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        network = getattr(self.network, "module", self.network)
        if network.embedding_cache is None or engine.state.epoch >= (engine.state.max_epochs or 0):
            return
        cases = [(self.training, i, self.views) for i in range(len(self.training))]
        cases += [(self.validation, i, [torch.clone]) for i in range(len(self.validation))]
        if network.embedding_cache.folder is not None:
            cases = cases[idist.get_rank() :: idist.get_world_size()]
        for dataset, i, views in tqdm(
            cases, desc="embedding every image once", unit="case", disable=not first_process()
        ):
            image = prepared(dataset, i)["image"].to(engine.state.device)
            with torch.no_grad():
                for view in views:
                    for part in view(image).split(network.slices_per_batch, -1) if image.ndim == 4 else [view(image)]:
                        network.encode(part[None])
        idist.barrier()


def prepared(dataset: Dataset, index: int) -> Mapping[Hashable, Any]:
    """A case of a dataset after the transforms that come before the first random one."""
    transform: Any = dataset.transform
    end = transform.get_index_of_first(lambda step: isinstance(step, RandomizableTrait))
    return transform(dataset.data[index], end=end)


class Progress:
    """One bar over all iterations with the time left, and a line for each validation."""

    def __init__(self, evaluator: Engine, labels: tuple[str, ...], metric: str = "val_mean_dice") -> None:
        self.evaluator, self.labels, self.metric = evaluator, labels, metric
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.give_up)
        self.trainer = engine
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self.report)

    def open(self, engine: Engine) -> None:
        if self.bar is None:
            total = (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
            self.bar = tqdm(
                total=total,
                initial=engine.state.iteration,
                unit="step",
                desc="training",
                mininterval=2,
                disable=not first_process(),
            )

    def step(self, engine: Engine) -> None:
        assert self.bar is not None
        output: Any = engine.state.output
        epoch = f"{engine.state.epoch}/{engine.state.max_epochs}"
        self.bar.set_postfix(epoch=epoch, loss=f"{output[0]['loss']:.3f}", refresh=False)
        self.bar.update()

    def report(self, engine: Engine) -> None:
        if self.bar is None:
            return
        each = engine.state.metric_details[self.metric].nanmean(0)  # (L,), cases without the label left out
        parts = ", ".join(f"{name} {dice:.3f}" for name, dice in zip(self.labels, each.tolist(), strict=True))
        tqdm.write(
            f"epoch {self.trainer.state.epoch}: validation Dice {engine.state.metrics[self.metric]:.4f} ({parts})"
        )

    def close(self, engine: Engine) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def give_up(self, engine: Engine, error: Exception) -> None:
        self.close(engine)
        raise error
