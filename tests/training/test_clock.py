"""A training ends on time, whatever the machine does, and its learning rate falls to its end."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import LambdaLR

from sam_monai.training import clock
from sam_monai.training.clock import Clock, Schedule
from sam_monai.training.handlers import is_due
from sam_monai.training.room import REPORT


class Machine:
    """A training and its validations in made time."""

    def __init__(self, epochs: int, minutes: float | None, seconds, validation: float = 20.0, interval: int = 10):
        self.time, self.rates = 0.0, []
        self.schedule = Schedule(epochs)
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
        self.scheduler = LambdaLR(self.optimizer, self.schedule)
        self.trainer, self.evaluator = Engine(self.step), Engine(lambda *_: None)
        self.seconds, self.validation, self.interval = seconds, validation, interval
        plan = {"minutes": minutes, "validation": validation}
        self.clock = Clock(plan, self.schedule, self.evaluator, interval, 0.0, lambda: self.time)
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda _: self.wait(self.validation))
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.validate)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: self.scheduler.step())
        self.clock.attach(self.trainer)

    def wait(self, seconds: float) -> None:
        self.time += seconds

    def step(self, engine: Engine, _) -> None:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.wait(self.seconds(self.time))

    def validate(self, engine: Engine) -> None:
        if is_due(self.interval, engine.state.epoch, engine.state.max_epochs or 0):
            self.evaluator.run([0])

    def run(self, steps: int = 1) -> float:
        self.trainer.run([0] * steps, max_epochs=self.schedule.epochs)
        self.wait(REPORT)
        return self.time


@pytest.mark.parametrize("minutes", [2, 10, 60])
@pytest.mark.parametrize(
    "speed",
    [lambda t: 6.0, lambda t: 12.0, lambda t: 3.0, lambda t: 6.0 if t < 60 else 12.0, lambda t: 6.0 if t < 30 else 3.0],
    ids=["as planned", "half as fast", "twice as fast", "slows down", "speeds up"],
)
def test_a_training_ends_within_its_budget_and_its_rate_at_its_end(minutes, speed):
    machine = Machine(round(60 * minutes / 6.0), minutes, speed, validation=5.0)
    assert machine.run() == pytest.approx(60 * minutes, rel=0.15)
    assert machine.rates[-1] < 0.2 and max(machine.rates) > 0.95
    steps = [abs(a - b) for a, b in zip(machine.rates, machine.rates[1:], strict=False)]
    assert max(steps[len(steps) // 3 :]) < 0.3  # no jump, but where the end came near of a sudden


def test_a_round_of_another_number_of_epochs_is_not_lengthened():
    machine = Machine(100, 15, lambda t: 60.0)
    machine.trainer.run([0], max_epochs=3)
    assert machine.trainer.state.epoch == 3


def test_a_plan_that_was_timed_on_a_busy_machine_leaves_no_time_for_nothing():
    """Steps and validations took three times as long then, and the only validation is at the end."""
    machine = Machine(24, 12, lambda t: 6.0, validation=120.0, interval=10**6)
    machine.validation = 35.0
    assert machine.run() == pytest.approx(720, rel=0.15)


@pytest.mark.parametrize("steps", [8, 2, 1])
@pytest.mark.parametrize("first", [4.4, 10.0])
def test_first_steps_that_choose_a_gpus_programs_shorten_nothing(steps, first):
    """Seen on an H100: of 28 epochs of a minute the clock left three, as the first step took as long as the others."""
    epochs = round(28 * 8 / steps)
    machine = Machine(epochs, 1, lambda t: first if t == 0 else 0.16, validation=6.0, interval=epochs)
    assert machine.run(steps=steps) == pytest.approx(60, rel=0.15)
    assert len(machine.rates) > 20 * 8


def test_validations_that_take_most_of_the_time_are_part_of_it():
    """They took twice as long as planned, and epochs are short beside them."""
    machine = Machine(13, 15, lambda t: 5.0, validation=60.0, interval=1)
    machine.validation = 120.0
    assert machine.run() == pytest.approx(900, rel=0.15) and machine.schedule.epochs < 9


def test_what_is_done_between_plan_and_training_is_part_of_the_time():
    """Such as to fill the caches with the cases."""
    machine = Machine(100, 10, lambda t: 6.0, validation=5.0)
    machine.wait(300.0)
    assert machine.run() == pytest.approx(600, rel=0.15) and machine.schedule.epochs < 60


def test_a_training_that_became_longer_is_not_validated_just_before_its_end():
    machine, validated = Machine(24, 10, lambda t: 20.0, validation=60.0, interval=24), []
    machine.evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda _: validated.append(machine.trainer.state.epoch))
    machine.run()
    assert 24 < machine.schedule.epochs < 36 and validated == [machine.schedule.epochs]


def test_of_changes_to_and_fro_only_the_first_is_told(capsys):
    machine = Machine(60, 10, lambda t: 12.0 + 1.4 * (int(t) // 50 % 2), validation=5.0)
    machine.run()
    assert len(machine.schedule.changes) == 6
    assert capsys.readouterr().out.count("than planned: to end on time") == 1


def test_a_large_change_is_told_though_another_was(capsys):
    machine = Machine(100, 10, lambda t: 12.0 if t < 120 else 3.0, validation=5.0)
    machine.run()
    told = re.findall(
        r"epochs are (\w+) than planned: to end on time there will be about (\d+)", capsys.readouterr().out
    )
    numbers = [int(number) for _, number in told]
    assert {why for why, _ in told} == {"slower", "faster"}
    assert all(abs(b - a) > max(1, 0.25 * a) for a, b in itertools.pairwise(numbers))
    assert abs(machine.schedule.epochs - numbers[-1]) <= max(1, 0.25 * numbers[-1])


def test_without_a_budget_nothing_is_changed():
    machine = Machine(20, None, lambda t: 1000.0)
    machine.run()
    assert len(machine.rates) == 20 and len(machine.schedule.changes) == 1


def test_what_the_clock_decided_is_part_of_what_is_resumed():
    machine = Machine(100, 5, lambda t: 6.0)
    machine.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=15), lambda engine: engine.terminate())
    machine.run()
    assert (before := machine.schedule.epochs) < 100
    again = Machine(100, 5, lambda t: 6.0)
    again.scheduler.load_state_dict(machine.scheduler.state_dict())
    again.clock.load_state_dict({"seconds": 90.0})
    assert again.schedule.changes == machine.schedule.changes
    again.trainer.run([0], max_epochs=again.schedule.epochs, epoch_length=1)
    assert again.trainer.state.max_epochs < before  # for the 90 seconds count
    assert machine.clock.state_dict()["seconds"] == machine.clock.elapsed() > 0


def test_all_processes_end_when_the_first_does(monkeypatch):
    """Their clocks differ, and the epochs of one more would wait for the others for ever."""
    monkeypatch.setattr(clock, "from_first", lambda epochs: 7)
    machine = Machine(20, 5, lambda t: 6.0)
    machine.run()
    assert len(machine.rates) == 7
