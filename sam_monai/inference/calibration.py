"""The temperature by which logits are divided before they become probabilities, fitted on the validation cases.

Guo et al.: On calibration of modern neural networks. ICML 2017, arXiv:1706.04599. A temperature changes no mask.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from monai.engines.utils import IterationEvents
from monai.transforms import Compose, Decollated
from torch import Tensor
from torch.nn import functional as F

from ..data.grids import refuse_apart
from ..data.instances import merged
from ..data.unlabelled import UNLABELLED
from ..distributed import gathered
from ..networks.regions import Regions, masks_of, overlap, probabilities_of
from .file_grid import ToFileGridd
from .quality import dice_of, sums_in

MOST, TOTAL = 2**18, 2**23  # logits that are kept of a case, and of all
TEMPERATURES = (2 ** torch.linspace(-2, 3, 31)).tolist()  # from 1/4 to 8, with 1
BINS = 15


class Calibration:
    """Keeps logits of an evaluator's cases, at voxels spread evenly over the grid of each reference."""

    def __init__(self, preparation: Compose, regions: Regions | None = None, instances: bool = False) -> None:
        self.grid, self.regions, self.instances = ToFileGridd(preparation), regions, instances
        self.cases: list[tuple[Tensor, Tensor] | None] = []
        """Logits (L + 1, N) and masks (L, N) of each; None: the logits were not kept."""
        self.temperature, self.errors = 1.0, (math.nan, math.nan)

    def collect_from(self, engine: Engine) -> list[RemovableEventHandle]:
        """From each of its runs. Removing what is returned ends it."""
        begin = engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.cases.clear())
        return [begin, engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.collect)]

    def collect(self, engine: Engine) -> None:
        most = min(MOST, TOTAL // (engine.state.epoch_length or 1))
        output: Any = Decollated(keys=None)(engine.state.output)  # pyright: ignore[reportArgumentType]
        for case in output:
            if len(case["pred"]) == 1:
                self.cases.append(None)
                continue
            label = torch.as_tensor(case["label"]).flatten().cpu()
            step = math.ceil(label.numel() * len(case["pred"]) / most)
            while any(math.gcd(step, size) > 1 for size in case["label"].shape):  # to meet every row, column and slice
                step += 1
            label = label[::step]
            kept: list[Tensor] = []
            for one in self.grid.channels(case):
                refuse_apart(one, case["label"], str(getattr(case.get("image"), "meta", {}).get("filename_or_obj", "")))
                kept.append(one.as_tensor().flatten()[::step].cpu())
            logits = torch.stack(kept)
            known = label != UNLABELLED
            if self.instances:
                logits, label = merged(logits), label.clamp(max=1)
            masks = masks_of(label[None], len(logits) - 1, self.regions)
            self.cases.append((logits[:, known], masks[:, known]))

    def fit(self) -> None:
        """The temperature of the least negative log likelihood, and the expected calibration errors before and with it.
        Of all processes' cases; 1 where there are none."""
        kept = [case for case in self.cases if case is not None]
        losses = [sum(self.loss(*case, t) for case in kept) for t in TEMPERATURES]
        total = [sum(each) for each in zip(*gathered([losses]), strict=True)]
        self.temperature = round(TEMPERATURES[total.index(min(total))], 3) if any(total) else 1.0
        bins = [sum(self.bins(*case, t) for case in kept) for t in (1.0, self.temperature)]
        before, after = (sum(each) for each in zip(*gathered([bins]), strict=True))
        self.errors = (calibration_error(before), calibration_error(after))

    def guesses(self) -> list[list[float] | None]:
        """Of each case of this process the guesses of its labels, of the voxels that were kept."""
        return [case and dice_of(sums_in(case[0], self.regions, self.temperature)).tolist() for case in self.cases]

    def loss(self, logits: Tensor, masks: Tensor, temperature: float) -> float:
        """The summed negative log likelihood."""
        if self.regions is not None and overlap(self.regions):
            found = F.binary_cross_entropy_with_logits(logits[1:] / temperature, masks.float(), reduction="sum")
        else:
            found = F.cross_entropy((logits / temperature)[None], classes(masks)[None], reduction="sum")
        return float(found)

    def bins(self, logits: Tensor, masks: Tensor, temperature: float) -> Tensor:
        """By confidence (3, BINS): how many answers, the sum of their confidence, and how many are right."""
        p = probabilities_of(logits, self.regions, temperature)
        if self.regions is not None and overlap(self.regions):
            sure, right = torch.maximum(p[1:], 1 - p[1:]).flatten(), ((p[1:] > 0.5) == masks).flatten()
        else:
            sure, found = p.max(0)
            right = found == classes(masks)
        where = (sure * BINS).long().clamp(max=BINS - 1)
        values = torch.stack([torch.ones_like(sure), sure, right.float()]).double()
        return torch.zeros(3, BINS, dtype=torch.double).index_add_(1, where, values)


def classes(masks: Tensor) -> Tensor:
    """Masks (L, N) that exclude each other to numbers (N,), 0 where there is none."""
    return (masks * torch.arange(1, len(masks) + 1)[:, None]).sum(0)


def calibration_error(bins: Any) -> float:
    """The mean over answers of the difference between confidence and share of right answers in a bin; NaN of none."""
    return float((bins[1] - bins[2]).abs().sum() / bins[0].sum()) if torch.is_tensor(bins) else math.nan
