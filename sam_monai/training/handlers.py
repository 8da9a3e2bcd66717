"""Handlers of MONAI's trainer: validations, seeds, embeddings made before the first epoch, a bar with the time left."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset, set_rnd
from monai.engines import Evaluator
from monai.handlers import ValidationHandler
from monai.transforms.traits import RandomizableTrait
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from ..distributed import first_process
from ..errors import InputError


def at_end(engine: Engine, action: Callable[[], None]) -> None:
    """Call something when an engine's run ends, however it ends; an error comes out of the run all the same.

    Ignite takes an error for dealt with where any handler hears of it, and a handler that raises it keeps the others
    from hearing of it. So one handler of an engine calls all of these.
    """
    actions = vars(engine).setdefault("at_end", [])
    actions.append(action)
    if len(actions) > 1:
        return

    def call_all(engine: Engine, error: BaseException | None = None) -> None:
        for one in actions:
            one()
        if error is not None:
            raise error

    engine.add_event_handler(Events.COMPLETED, call_all)
    engine.add_event_handler(Events.EXCEPTION_RAISED, call_all)


def validation_interval(epochs: int) -> float:
    """Epochs between validations, such that there are six of them, or as many as epochs where these are fewer."""
    interval = max(1.0, epochs / 6)
    return int(interval) if interval == int(interval) else interval


def is_due(interval: float, epoch: int, epochs: int) -> bool:
    """Whether an epoch is validated: a multiple of the interval lies in (epoch - 1, epoch], and the last epoch, which
    always is, is at least half an interval away."""
    multiple = math.floor(epoch / interval) > math.floor((epoch - 1) / interval)
    return epoch == epochs or (multiple and epochs - epoch >= interval / 2)


class ClipGradients:
    """Shortens the gradient of all parameters together to length 1 before the optimiser's step. The first gradients of
    small trained parts beside frozen ones are many times those that follow."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def attach(self, engine: Engine) -> None:
        self.optimizer.register_step_pre_hook(self)

    def __call__(self, optimizer: Optimizer, *_: Any) -> None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)


class Validate(ValidationHandler):
    """Validates every so many epochs, and after the last one.

    Args:
        validator: the engine that validates.
        interval: epochs from one validation to the next; with a fraction the validations are spread as evenly as whole
            epochs allow.
    """

    def __init__(self, validator: Evaluator, interval: float) -> None:
        if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0 < interval < math.inf:
            raise InputError(f"val_interval is {interval!r}: give the number of epochs from one validation to the next")
        super().__init__(1, validator)
        self.every = interval

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=self.due), self)

    def due(self, engine: Engine, epoch: int) -> bool:
        return is_due(self.every, epoch, engine.state.max_epochs or 0)


class SeedEpochs:
    """Seeds python, numpy, torch, the order of cases and every random transform at the start of each epoch.

    The seed depends on (seed, epoch, rank) alone, so a run that is resumed at the end of an epoch goes on as if it had
    not stopped.
    """

    def __init__(self, seed: int, dataset: Dataset) -> None:
        self.seed, self.dataset = seed, dataset

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = (self.seed * 1_000_003 + engine.state.epoch * 1_009 + idist.get_rank()) % 2**32
        set_determinism(seed, use_deterministic_algorithms=None)
        set_rnd(self.dataset, seed)  # transforms of the main process; workers are seeded from torch's generator


class EmbedFirst:
    """Runs the encoder over every image when training starts, so that epochs run the decoder alone.

    Each training image enters in each of its views, each validation image once. Processes share the work where they
    share a folder.

    Args:
        network: a PTSAM; nothing happens where it keeps no embeddings.
        training: dataset of the training samples, whose transforms are deterministic up to the views.
        validation: dataset of the whole validation images.
        views: what the augmentation may make of an image: :func:`sam_monai.training.samples.views`.
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
    """A case of a dataset after the transforms that come before the first random one, in a Compose within it too."""
    transform: Any = dataset.transform.flatten()
    end = transform.get_index_of_first(lambda step: isinstance(step, RandomizableTrait))
    return transform(dataset.data[index], end=end)


class Progress:
    """One bar over all steps with the time left, which also counts a validation's cases, and a line for each
    validation."""

    def __init__(self, evaluator: Engine, labels: tuple[str, ...], metric: str = "val_mean_dice") -> None:
        self.evaluator, self.labels, self.metric = evaluator, labels, metric
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        at_end(engine, self.close)
        self.trainer = engine
        self.evaluator.add_event_handler(Events.ITERATION_STARTED, self.validating)
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self.report)

    def open(self, engine: Engine) -> None:
        if self.bar is None:
            total = (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
            self.bar = tqdm(
                total=total,
                initial=engine.state.iteration,
                unit="step",
                desc="training",
                miniters=0,  # a validation is no step
                disable=not first_process(),
            )

    def step(self, engine: Engine) -> None:
        assert self.bar is not None
        output: Any = engine.state.output
        self.bar.total = (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)  # a clock may change it
        epoch = f"{engine.state.epoch}/{engine.state.max_epochs}"
        self.bar.set_description("training", refresh=False)
        self.bar.set_postfix(epoch=epoch, loss=f"{output[0]['loss']:.3f}", refresh=False)
        self.bar.update()

    def validating(self, engine: Engine) -> None:
        if self.bar is not None:
            cases = engine.state.epoch_length or 1
            case = (engine.state.iteration - 1) % cases + 1
            self.bar.set_description(f"validating case {case}/{cases}", refresh=False)
            self.bar.update(0)

    def report(self, engine: Engine) -> None:
        if self.bar is None:
            return
        each = engine.state.metric_details[self.metric]  # (cases, L), NaN where a case does not hold the label
        if each.isnan().all():
            tqdm.write(f"epoch {self.trainer.state.epoch}: nothing could be measured, no validation case holds a label")
            return
        parts = ", ".join(
            f"{name} {dice:.3f}" for name, dice in zip(self.labels, each.nanmean(0).tolist(), strict=True)
        )
        tqdm.write(
            f"epoch {self.trainer.state.epoch}: validation Dice {engine.state.metrics[self.metric]:.4f} ({parts})"
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Cases:
    """A bar over the cases of an evaluation, from its start on: where an adapter is refused there is none."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.open)

    def open(self, engine: Engine) -> None:
        bar = tqdm(total=engine.state.epoch_length, unit="case", desc="evaluating", disable=not first_process())
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: bar.update())
        at_end(engine, bar.close)


def logs_to_tensorboard() -> bool:
    """Whether this process writes curves for TensorBoard, which an extra installs. The report shows them anyway."""
    return first_process() and importlib.util.find_spec("tensorboard") is not None


def say_quick() -> None:
    """The last line of a quick training."""
    if first_process():
        print(
            "this was a quick run, which shows that every step works: its adapter and its figures mean nothing. "
            "Train without quick",
            flush=True,
        )
