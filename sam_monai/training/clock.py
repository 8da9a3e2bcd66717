"""A training that ends on time: the learning rate's schedule, and a clock that changes its length."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, Events
from tqdm.auto import tqdm

from ..distributed import from_first
from .handlers import is_due
from .room import FEW, REPORT

WARM_UP = 0.05  # share of the training in which the rate rises: first gradients are large
TOLERANCE = 0.05  # share of the budget by which the expected end may be off before the schedule is changed
LENGTHEN_UNTIL = 0.7  # of the training; later the rate is low, and epochs added to it are worth little
RECENT = 0.08  # share of the budget that the last epochs take by which the next ones are judged; single ones vary


class Schedule:
    """The learning rate over a training whose number of epochs may change on the way: a rise, then half a cosine.

    Progress runs from 0 to 1 and is linear in the epochs between two changes. So the rate has no jump where the number
    changes, and it always falls to its end. An object of this class is the ``lr_lambda`` of torch's ``LambdaLR``, whose
    state dict holds it.

    Args:
        epochs: how many are planned.
    """

    def __init__(self, epochs: int) -> None:
        self.changes: list[tuple[int, float, int]]  # after an epoch: progress, epochs in all
        self.restart(epochs)

    @property
    def planned(self) -> int:
        """How many epochs there were to be at first."""
        return self.changes[0][2]

    @property
    def epochs(self) -> int:
        """How many there will be in all."""
        return self.changes[-1][2]

    def progress(self, epoch: int) -> float:
        """After so many epochs: 0 at the start, 1 after the last."""
        start, before, end = next(change for change in reversed(self.changes) if change[0] <= epoch)
        return min(1.0, before + (1 - before) * (epoch - start) / max(1, end - start))

    def restart(self, epochs: int) -> None:
        """As if so many epochs had been planned from the start."""
        self.changes = [(0, 0.0, epochs)]

    def change(self, epoch: int, epochs: int) -> None:
        """After ``epoch`` epochs: let there be ``epochs`` in all."""
        self.changes.append((epoch, self.progress(epoch), epochs))

    def __call__(self, epoch: int) -> float:
        """The learning rate's factor in the epoch that begins after so many."""
        progress = self.progress(epoch)
        rise = min(1.0, (progress + 1 / self.epochs) / WARM_UP)
        return rise * (0.5 + 0.5 * math.cos(math.pi * progress))


class Clock:
    """Ends a training within its budget, also where the machine becomes slower or faster on the way.

    Every twelfth of the budget the clock expects the end from the epochs of that time and the last validation. Where
    that is off by more than a twentieth of the budget, it changes the number of epochs, and says so where that is news.
    The first epoch is taken for as long as its usual step makes it, or the second epoch, where it has one step or two:
    a GPU's first steps, in which it chooses its programs, take a hundred times as long as others. Attach it after the
    validation's handler.

    Args:
        plan: what :func:`sam_monai.training.plan.make_plan` gave; without ``minutes`` nothing is changed.
        schedule: of the learning rate.
        evaluator: of the validation.
        interval: epochs between validations.
        begun: when the command began, by ``now``; ``None``: as long ago as it had taken when the plan was made.
        now: a clock in seconds.
    """

    def __init__(
        self,
        plan: Mapping[str, Any],
        schedule: Schedule,
        evaluator: Engine,
        interval: float,
        begun: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan, self.schedule, self.interval = dict(plan), schedule, interval
        self.budget = math.inf if plan.get("minutes") is None else 60.0 * plan["minutes"]
        self.now, self.begun = now, now() - plan.get("seconds", 0.0) if begun is None else begun
        self.before = 0.0  # seconds of the runs that this one resumes
        self.epochs: list[float] = []  # seconds of each since the clock last looked, without validation
        self.steps: list[float] | None = []  # when each of the first epoch ended; None after it
        self.doubtful = False  # whether the one epoch that was may have taken longer than others will
        self.looked = 0.0  # seconds of the epochs since the clock last looked, with validation
        self.validation = float(plan.get("validation", 0.0))  # seconds of the last one
        self.validating = 0.0  # seconds of those since the epoch began
        self.validated = False
        self.said: int | None = None  # epochs that a user was last told of
        evaluator.add_event_handler(Events.STARTED, self.validation_starts)
        evaluator.add_event_handler(Events.COMPLETED, self.validation_ends)

    def attach(self, engine: Engine) -> None:
        vars(engine)["clock"] = self
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_starts)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step_ends)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_ends)
        engine.add_event_handler(Events.COMPLETED, self.tell_few)

    def tell_few(self, engine: Engine) -> None:
        """Say that a training was too short, where the budget allowed no more."""
        steps = engine.state.iteration
        if 0 < steps < FEW and not math.isinf(self.budget):
            minutes = math.ceil(self.budget / 60 * FEW / steps)
            tqdm.write(f"only {steps} steps fitted into the time, which is too few: try --minutes {minutes}")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {"seconds": self.elapsed(), "plan": self.plan}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.before = float(state["seconds"])

    def elapsed(self) -> float:
        """Seconds since the command began, those of resumed runs included."""
        return self.before + self.now() - self.begun

    def validation_starts(self, _: Engine) -> None:
        self.validation_started = self.now()

    def validation_ends(self, _: Engine) -> None:
        self.validation, self.validated = self.now() - self.validation_started, True
        self.validating += self.validation

    def epoch_starts(self, _: Engine) -> None:
        self.epoch_started, self.validating = self.now(), 0.0

    def step_ends(self, _: Engine) -> None:
        if self.steps is not None:
            self.steps.append(self.now())

    def epoch_ends(self, engine: Engine) -> None:
        seconds = self.now() - self.epoch_started - self.validating
        first, self.steps = self.steps, None
        if first and len(first) > 2:
            usual = statistics.median(after - before for before, after in itertools.pairwise(first))
            seconds = min(seconds, usual * len(first))
        if self.doubtful:
            self.looked -= max(0.0, self.epochs[0] - seconds)
            self.epochs = [min(self.epochs[0], seconds)]
        self.doubtful = first is not None and len(first) <= 2
        self.epochs.append(seconds)
        self.looked += seconds + self.validating
        done, planned = engine.state.epoch, self.schedule.epochs
        # Whoever asks for another number of epochs, as a round of federated learning does, gets it.
        if self.doubtful or done >= planned or math.isinf(self.budget) or engine.state.max_epochs != planned:
            return
        fitting = from_first(self.judged(done, planned))  # several processes end together
        if fitting != planned:
            self.schedule.change(done, fitting)
            engine.state.max_epochs = fitting
            # Later changes mostly go to and fro with what else the machine does.
            if self.said is None or abs(fitting - self.said) > max(1.0, 0.25 * self.said):
                before = planned if self.said is None else self.said
                why = "faster" if fitting > before else "slower"
                tqdm.write(
                    f"epochs are {why} than planned: to end on time there will be about {fitting} and not {before}"
                )
                self.said = fitting

    def judged(self, done: int, planned: int) -> int:
        """How many epochs there should be in all: the planned ones, or those that end on time where these would not."""
        if self.looked < RECENT * self.budget:
            return planned
        off = self.expected(done, planned) - self.budget
        too_late_for_more = off < 0 and self.schedule.progress(done) > LENGTHEN_UNTIL
        keep = abs(off) <= TOLERANCE * self.budget or too_late_for_more
        fitting = planned if keep else self.fitting(done)
        self.epochs.clear()
        self.looked = 0.0
        return fitting

    def expected(self, done: int, epochs: int) -> float:
        """Seconds that the command will have taken, where ``done`` of ``epochs`` are done. Tables and pictures are made
        of the last validation; where another epoch was better, one more makes the command late.

        Where epochs are faster than planned, steps were timed while the machine was busy, and a validation that has not
        been yet is faster too."""
        each = sum(self.epochs) / len(self.epochs)
        validations = sum(is_due(self.interval, epoch, epochs) for epoch in range(done + 1, epochs + 1))
        faster = 1.0 if self.validated else min(1.0, each / self.planned_epoch())
        return self.elapsed() + each * (epochs - done) + faster * self.validation * validations + REPORT

    def planned_epoch(self) -> float:
        """Seconds of an epoch by the plan: what it left beside validations, in equal parts."""
        epochs = self.schedule.planned
        validations = sum(is_due(self.interval, epoch, epochs) for epoch in range(1, epochs + 1))
        known = self.plan.get("seconds", 0.0) + validations * self.plan.get("validation", 0.0) + REPORT
        return max(1e-3, (self.budget - known) / epochs)

    def fitting(self, done: int) -> int:
        """How many epochs in all end on time: at least one more."""
        least, most = done + 1, done + 2
        while self.expected(done, most) < self.budget:
            most += most - done
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if self.expected(done, middle) <= self.budget else (least, middle)
        return least
