"""What fits into a budget of time and into the memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..data.fingerprint import Fingerprint
from ..data.sides import has_sides
from ..distributed import processes
from .machine import Costs
from .mirror import VIEWED, chosen_mirror

VALIDATIONS = 0.15  # share of the budget
FEW = 100  # steps that a size of the usual ones must leave; fewer train too little
REPORT = 10.0  # seconds: pictures, tables and the report
FULL = 0.8  # of the free memory may be used
CHECKPOINTED = 0.4  # of what a step keeps is kept with checkpointing
OVERHEAD = 0.15  # seconds a validation case
OPENED = 2.0  # times as long as to open it: reading again, and its mask on the grid of its file


def too_few(training: Mapping[str, Any]) -> str:
    """A sentence on a training, by its summary, that was too short to say anything of its method; nothing else."""
    steps = training.get("steps", FEW)
    if steps >= FEW or training.get("quick"):
        return ""
    return f"It had {steps} training steps, which are too few: a longer training is likely to be much better."


@dataclass(frozen=True)
class Room:
    """What fits into a budget of seconds.

    ``batch``: cases in a step; ``timed``: in the steps that were timed, if others. ``slices``: of each, in volumes.
    ``on_gpu``: which does small steps no faster. ``given_steps``: in place of the budget. ``given_size``: of the image.
    ``whole_only``: objects are followed through volumes, in whole slices. ``free``: bytes of memory, if known.
    ``given_interval``: epochs from one validation to the next. ``mirror``: if given. ``given_spacing``: whether the
    spacing is, which the data then have. ``smallest``: cases in the smallest step that may be planned, where fewer are
    enough for a size. ``samples``: patches of each picture in a step, where one of each was timed. ``spent``: seconds
    of the command's time that are not in the budget.
    """

    data: Fingerprint
    costs: Costs
    budget: float
    batch: int
    given_steps: int | None = None
    given_size: int | None = None
    whole_only: bool = False
    free: int | None = None
    given_interval: float | None = None
    mirror: str | None = None
    slices: int = 1
    given_spacing: bool = False
    timed: int | None = None
    on_gpu: bool = False
    smallest: int | None = None
    samples: int = 1
    spent: float = 0.0

    def within(self, minutes: float) -> Room:
        """The same in so many minutes of the whole command."""
        return replace(self, budget=60.0 * minutes - self.spent)

    def kept(self, size: int, scale: str) -> float:
        """Bytes of memory that a step keeps."""
        return self.costs(size).kept * (self.samples if scale == "patch" else 1)

    def fits(self, size: int, scale: str) -> bool:
        """Whether a step of this size, with checkpointing, leaves some of the free memory."""
        return self.free is None or CHECKPOINTED * self.kept(size, scale) <= FULL * self.free

    def step(self, size: int, scale: str) -> float:
        """Seconds of a step, in proportion to its cases, as on a CPU. Embeddings are not kept of patches, of which no
        two are the same."""
        cost, share = self.costs(size), self.batch / (self.timed or self.batch)
        if scale == "whole":
            return share * cost.step
        return self.samples * (share * cost.step + self.batch * self.slices * cost.encode)

    def step_and_share(self, size: int, scale: str) -> float:
        """Seconds of a step, and its share of validations at a given interval."""
        between = math.inf if self.given_interval is None else self.given_interval * self.visit
        return self.step(size, scale) + self.validation(size, scale) / between

    def validation(self, size: int, scale: str) -> float:
        """Seconds of one validation of all cases."""
        cost = self.costs(size)
        each = cost.answer + (cost.encode if scale == "patch" else 0.0)
        file = self.data.seconds / self.data.files  # to read one takes about as long as to measure half a label in it
        measuring = OVERHEAD + OPENED * self.data.seconds + 2 * len(self.data.labels) * file
        return self.data.validation * (measuring + answers(self.data, size, scale) * each)

    def validations(self, size: int, scale: str) -> int:
        """How many of them take their share of the budget. The last is of the adapter that is kept, almost always.
        Those at a given interval are a part of the epochs, but for the last."""
        if self.given_interval is not None:
            return 1
        each, whole = self.validation(size, scale), self.budget
        if self.given_steps is not None:
            whole = self.given_steps * self.step(size, scale) / (1 - VALIDATIONS)
        return max(1, min(6, int(VALIDATIONS * whole / each))) if each else 1

    def steps(self, size: int, scale: str) -> int:
        """How many steps are left beside validations, and beside embedding every image once where that is done."""
        if self.given_steps is not None:
            return self.given_steps
        step, read, left = self.step_and_share(size, scale), 2 * self.data.seconds, self.left(size, scale)
        if left < self.visit * (step + read * self.batch):  # not every case is read
            return max(1, int(left / (step + read * self.batch)))
        return int((left - read * self.data.training) / step)

    def left(self, size: int, scale: str) -> float:
        """Seconds of the budget that remain for steps and for reading what they are made of; below 0 where none do."""
        data, read = self.data, 2 * self.data.seconds
        left = self.budget - read * data.validation - self.validations(size, scale) * self.validation(size, scale)
        if scale == "whole":
            left -= self.costs(size).encode * data.slices * (self.views(scale) * data.training + data.validation)
        return left

    def late(self, size: int, scale: str, steps: int) -> float:
        """Seconds by which so many steps, at least a visit of each case, exceed the budget."""
        read = 2 * self.data.seconds * self.batch * self.visit
        return steps * self.step_and_share(size, scale) + read - self.left(size, scale)

    @property
    def visit(self) -> int:
        """Steps of one visit of each training case."""
        return steps_of_a_visit(self.data.training, self.batch)

    def views(self, scale: str) -> int:
        """How many images mirroring makes of one."""
        mirror = self.mirror or chosen_mirror(self.data, scale)[0]
        if has_sides([label.name for label in self.data.labels]):
            return 1
        return min(VIEWED[mirror], 2 if self.data.spatial_dims == 3 else 8)

    def epochs(self, size: int, scale: str) -> int:
        """The same in epochs."""
        return max(1, round(self.steps(size, scale) / self.visit))


def steps_of_a_visit(cases: int, batch: int) -> int:
    """Steps in which each case is visited once, by processes that share the cases out."""
    return math.ceil(math.ceil(cases / processes()) / batch)


def answers(data: Fingerprint, size: int, scale: str) -> int:
    """How many squares of the encoder's size a case is answered in: its slices, or patches of them that overlap by a
    quarter."""
    if scale == "whole":
        return data.slices
    return data.slices * math.prod(math.ceil(max(1, n - size / 4) / (0.75 * size)) for n in data.shape[:2])
