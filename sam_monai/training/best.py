"""Which epoch's adapter is the best, where something could be measured."""

from __future__ import annotations

import math
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.handlers import MeanDice

from ..data.matching import matched
from ..networks.regions import Regions, masks_of


class MeanDiceOverLabels(MeanDice):
    """MONAI's, but as reports and tables have it: of each label the mean over the cases that hold it, and of these the
    mean. MONAI takes the mean of each case first, and a label that few cases hold counts little."""

    def compute(self) -> Any:
        usual = super().compute()
        of_labels = torch.as_tensor(self.metric_fn.get_buffer()).nanmean(0)  # pyright: ignore[reportArgumentType]
        return usual if of_labels.isnan().all() else of_labels.nanmean().item()


class Best:
    """Keeps an evaluator's ``best_metric`` and ``best_metric_epoch``, which MONAI sets without regard to NaN and ties.
    The evaluator's output are cases with ``pred`` and ``label``, label maps of one shape.

    A metric is NaN where no reference holds a label: MONAI's mean over nothing is 0, and the first epoch would stay the
    best. Of two epochs with the same metric that one is better which marks fewer voxels as labels that the case's
    reference does not hold; such voxels count nowhere in Dice.

    Of numbered objects, ``instances``, the average precision comes before Dice. Their numbers say nothing, so voxels of
    objects count in this way where the reference holds no object. Labels that are ``regions`` are counted as such, for
    one value may stand for several of them.
    """

    def __init__(self, evaluator: Engine, instances: bool = False, regions: Regions | None = None) -> None:
        self.evaluator, self.instances, self.regions = evaluator, instances, regions
        self.precision, self.precisions = 0.0, [0.0, 0.0]  # of the best epoch; sum and number of this one's cases
        self.metric, self.epoch, self.false_positives = math.nan, -1, math.inf
        self.counted = 0.0
        self.by_label: list[float | None] = []  # of the best epoch, where it was measured in this process
        evaluator.add_event_handler(Events.EPOCH_STARTED, self.begin)
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self.count)

    def begin(self, engine: Engine) -> None:
        self.counted, self.precisions = 0.0, [0.0, 0.0]

    def count(self, engine: Engine) -> None:
        cases: Any = engine.state.output
        for case in cases if isinstance(cases, list) else []:
            pred, label = (torch.as_tensor(case[key]) if key in case else torch.zeros(1) for key in ("pred", "label"))
            if pred.shape == label.shape:
                if self.instances:
                    precision = matched(pred, label)["ap50"]
                    if not math.isnan(precision):
                        self.precisions = [self.precisions[0] + precision, self.precisions[1] + 1]
                    pred, label = pred.clamp(max=1), label.clamp(max=1)
                if self.regions is None:
                    held = torch.bincount(label.flatten().int()).nonzero().flatten()
                    self.counted += float((~torch.isin(pred, held.to(pred)) & (pred > 0)).sum())
                    continue
                found, held = (masks_of(each[None], len(self.regions), self.regions, 0) for each in (pred, label))
                self.counted += float(found[~held.flatten(1).any(1)].sum())

    def update(self) -> float:
        """Take the evaluator's last run into account; its metric, NaN where nothing could be measured."""
        state: Any = self.evaluator.state
        name = state.key_metric_name
        details = state.metric_details.get(name)
        nothing = isinstance(details, torch.Tensor) and bool(details.isnan().all())
        metric = math.nan if nothing else float(state.metrics[name])
        counted, total, cases = (float(idist.all_reduce(x)) for x in (self.counted, *self.precisions))  # pyright: ignore[reportArgumentType]
        precision = total / cases if cases else 0.0
        kept = (self.precision, self.metric, -self.false_positives)
        if not math.isnan(metric) and (self.epoch < 1 or (precision, metric, -counted) > kept):
            self.precision, self.metric, self.epoch, self.false_positives = precision, metric, state.epoch, counted
            self.by_label = by_label(details)
        self.publish()
        return metric

    def publish(self) -> None:
        """Let MONAI, and whoever asks the evaluator, know."""
        self.evaluator.state.best_metric = -1.0 if self.epoch < 1 else self.metric
        self.evaluator.state.best_metric_epoch = self.epoch

    def state_dict(self) -> dict[str, Any]:
        keys = ("metric", "epoch", "false_positives", "precision")
        return {key: getattr(self, key) for key in keys}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.metric, self.epoch = float(state["metric"]), int(state["epoch"])
        self.false_positives, self.precision = float(state["false_positives"]), float(state.get("precision", 0.0))
        self.publish()


def by_label(details: Any) -> list[float | None]:
    """The mean of each label, of (cases, labels) with NaN where a reference does not hold it; ``None``: none does."""
    if not isinstance(details, torch.Tensor) or details.ndim != 2:
        return []
    return [None if math.isnan(mean) else round(mean, 6) for mean in details.nanmean(0).tolist()]
