"""A guess at the Dice of each label where there is no reference: what the network's own probabilities suggest.

A voxel counts as much as it is probable. So the guess is ``2 sum(p m) / (sum(p) + sum(m))`` of probabilities p and
mask m. It is moved by the mean difference between guess and Dice that the training's validation cases had. Answers to
prompts have no guess: those cases were segmented without any.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor

from ..data.instances import KEY as INSTANCES
from ..data.instances import merged
from ..networks.adapter_files import read_training
from ..networks.regions import Regions, label_map_of, masks_of, probabilities_of
from ..prompts.prompted_inference import ANSWERED

KEY = "guess"
CERTAINTY = "certainty"
WHAT = (
    "It is what the network's own probabilities suggest, a guess and no measurement: where the network is sure and "
    "wrong, the guess is too high."
)
LEAST = 5  # masks of validation cases that tell something of the guesses
PART = 2**22  # logits at a time


class GuessDice:
    """Gives each case of an evaluator's output the guesses of its labels, "guess" (L,), and the mean probability of a
    label over its mask, "certainty" (L,). NaN: nothing is marked. Where the logits were not kept, or prompts were
    answered, there are none.

    Both are of the mask before components or holes are changed, on the network's grid. Guesses are moved as the
    training summary in the adapter's file says.
    """

    def __init__(self, adapter: str | Path | None = None) -> None:
        self.adapter, self.shift = adapter, 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def start(self, engine: Engine) -> None:
        found = (read_training(self.adapter) or {}).get(KEY) if self.adapter else None
        self.shift = found["dice"] - found["guess"] if found else 0.0

    def __call__(self, engine: Any) -> None:
        pred = engine.state.output["pred"]
        if vars(pred).get(ANSWERED):
            return
        known = vars(pred).get(KEY)  # of one image
        each = [known] * (known is not None) if pred.shape[1] == 1 else [sums_of(one, engine.network) for one in pred]
        if each:
            engine.state.output[KEY] = torch.stack([(dice_of(sums) + self.shift).clamp(0, 1) for sums in each])
            engine.state.output[CERTAINTY] = torch.stack([sums[0] / sums[2] for sums in each])  # 0 / 0 is NaN


def sums_of(logits: Tensor, network: Any) -> Tensor:
    """Sums over the voxels of logits (L + 1, *spatial), float64 (3, L): of the probabilities within each label's mask,
    of all of them, and of the mask."""
    module = getattr(network, "module", network)
    regions, temperature = getattr(module, "regions", None), getattr(module, "temperature", 1.0)
    flat = torch.as_tensor(logits).flatten(1)
    flat = merged(flat) if getattr(module, "preprocessing", {}).get(INSTANCES) else flat
    parts = [sums_in(part, regions, temperature) for part in flat.split(max(1, PART // len(flat)), 1)]
    return torch.stack(parts).sum(0)


def dice_of(sums: Tensor) -> Tensor:
    """Dice (L,) to expect of such sums; NaN where nothing is marked."""
    return (2 * sums[0] / (sums[1] + sums[2])).where(sums[2] > 0, math.nan)


def by_label(case: Mapping[Any, Any], key: str) -> dict[str, float | None]:
    """The guess or the certainty of each label by its number, as a study's record holds it; ``None``: there is none."""
    values = case[key].tolist() if key in case else []
    return {str(i): None if math.isnan(value) else round(value, 4) for i, value in enumerate(values, 1)}


def validated(pairs: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    """What validation showed of the guesses, for the adapter's file: their mean and that of Dice, by whose difference
    later guesses are moved, and the mean error that remains then. ``None``: there are too few to tell. A pair, of
    each case and label, is guess and Dice, and is left out where it has not both."""
    known = [pair for pair in pairs if not any(map(math.isnan, pair))]
    if len(known) < LEAST:
        return None
    guess, dice = zip(*known, strict=True)
    shift = statistics.fmean(dice) - statistics.fmean(guess)
    spread = min(len(set(guess)), len(set(dice))) > 1
    found = {
        "guess": statistics.fmean(guess),
        "dice": statistics.fmean(dice),
        "error": statistics.fmean(abs(a + shift - b) for a, b in known),
        "correlation": statistics.correlation(guess, dice) if spread else None,
    }
    return {"masks": len(known)} | {key: value and round(value, 4) for key, value in found.items()}


def in_words(found: Mapping[str, Any], given: Sequence[tuple[float, float]] = ()) -> str:
    """What :func:`validated` found, in sentences. ``given`` are guesses as they were told, with the Dice of the same
    masks."""
    means = f"Over {found['masks']} masks the guess was {found['guess']:.3f} on average and Dice {found['dice']:.3f}."
    known = [abs(guess - dice) for guess, dice in given if not math.isnan(guess) and not math.isnan(dice)]
    as_told = f"{statistics.fmean(known):.3f} on average, and by " if known else ""
    left = f"{found['error']:.3f} once this difference is taken off"
    related = found["correlation"]
    together = "" if related is None else f" The correlation of guess and Dice was {related:.2f}."
    return f"{means} A guess was off by {as_told}{left}.{together}"


def sums_in(logits: Tensor, regions: Regions | None, temperature: float) -> Tensor:
    p = probabilities_of(logits, regions, temperature)[1:]
    mask = masks_of(label_map_of(logits, regions), len(p), regions)
    return torch.stack([(p * mask).sum(1), p.sum(1), mask.sum(1).float()]).cpu().double()
