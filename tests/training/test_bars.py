"""What a training shows of its progress."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest
from ignite.engine import Engine, Events
from monai_command import begun
from tiny_training import make_cases, tiny_training
from tqdm import tqdm

from sam_monai import InputError
from sam_monai.training import handlers


class Eager(tqdm):
    """Shows every state."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings | {"mininterval": 0})


def test_the_bar_moves_by_steps_and_by_the_cases_of_a_validation(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(handlers, "tqdm", Eager)
    trainer = tiny_training(tmp_path / "models", make_cases(tmp_path / "data"), epochs=2)
    trainer.run()
    shown = capsys.readouterr().err.split("\r")
    steps = [found[1] for line in shown if (found := re.match(r"training: .* (\d)/4 .*<.*step", line))]
    assert list(dict.fromkeys(steps)) == ["0", "1", "2", "3", "4"]
    assert any(line.startswith("validating case 1/") and "2/4" in line for line in shown)


def test_an_evaluation_counts_its_cases(capsys):
    engine = Engine(lambda *_: None)
    handlers.Cases().attach(engine)
    engine.run(range(3))
    assert "evaluating: 100%" in (said := capsys.readouterr().err) and "3/3" in said


def test_an_evaluation_that_is_refused_at_its_start_says_why():
    def refuse(_: Engine) -> None:
        raise InputError("not this adapter")

    engine = Engine(lambda *_: None)
    engine.add_event_handler(Events.STARTED, refuse)
    handlers.Cases().attach(engine)
    with pytest.raises(InputError, match="not this adapter"):
        engine.run(range(3))


def test_a_log_keeps_few_states_of_a_bar(monkeypatch):
    begun(monkeypatch, "ssam", "train")
    assert not sys.stderr.isatty()
    log = io.StringIO()
    for _ in tqdm(range(3), file=log):
        time.sleep(0.15)  # longer than from one state to the next on a screen
    assert log.getvalue().count("\r") <= 2
