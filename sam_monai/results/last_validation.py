"""What a training's last validation shows: a table, pictures, and how far the network's probabilities are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle

from ..distributed import first_process
from ..inference import quality
from ..inference.calibration import Calibration
from ..networks.adapter_files import note_validation, read_training
from ..training.checkpoints import Checkpoints
from ..training.resume import read_history
from .metrics import CaseTable, summary
from .pictures import Pictures


class LastValidation:
    """Keeps what table, pictures and calibration are made of, from the validation after a training's last epoch on.

    Where that epoch is the best, nothing has to be evaluated once more. A training in rounds, as a server's, shows none
    of them: the next round ends the keeping, which costs each validation time. A handler of the trainer, before the one
    that validates.

    Args:
        evaluator: of the validation.
        labels: names of the foreground labels.
        output_dir: where table and pictures will go.
        settings: how the images were prepared, see :mod:`sam_monai.inference.pipeline`.
        pictures: how many cases to draw.
    """

    def __init__(
        self,
        evaluator: Engine,
        labels: Sequence[str],
        output_dir: str | Path,
        settings: Mapping[str, Any],
        pictures: int = 4,
    ) -> None:
        self.evaluator, self.collecting = evaluator, list[RemovableEventHandle]()
        vars(evaluator)["last_validation"] = self
        regions, instances = settings.get("regions"), settings.get("instances", False)
        dataset: Any = evaluator.data_loader.dataset  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        self.drawing = Pictures(labels, Path(output_dir) / "validation", settings, most=pictures)
        self.table = CaseTable(tuple(labels), output_dir, regions=regions, instances=instances)
        self.calibration = Calibration(dataset.transform, regions, instances)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.end)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.begin)

    def begin(self, engine: Engine) -> None:
        if engine.state.epoch >= (engine.state.max_epochs or 0):
            self.collect()

    def collect(self) -> None:
        """From now on, of every run of the evaluator."""
        if not self.collecting:
            for part in (self.drawing, self.table, self.calibration):
                self.collecting += part.collect_from(self.evaluator)

    def end(self) -> None:
        for handle in self.collecting:
            handle.remove()
        self.collecting.clear()

    def is_of(self, epoch: int) -> bool:
        """Whether what was kept is of this epoch's adapter; with 0 or less, of the last one's."""
        return bool(self.collecting) and epoch in (self.evaluator.state.epoch, -1, 0)

    def finish(self, adapter: Path) -> None:
        """Print and write the table, draw the pictures, and note in the adapter's file the temperature and how good
        guesses of Dice were."""
        calibration, table = self.calibration, self.table
        calibration.fit()
        table.guess(calibration.guesses())
        table.finish()
        self.drawing.draw_worst()
        if not first_process():
            return
        pairs = [(row.get(quality.KEY, math.nan), row["dice"]) for row in table.rows]
        guesses = quality.validated(pairs)
        before, after = (round(error, 4) for error in calibration.errors)
        more = {} if math.isnan(before) else {"calibration_error": [before, after]}
        more |= {quality.KEY: guesses} if guesses else {}
        means = [summary([row for row in table.rows if row["label"] == label]) for label in table.labels]
        more["missed_by_label"] = [[found["missed"], found["held"]] for found in means]
        note_validation(adapter, calibration.temperature, **more | length_of(adapter))
        if not math.isnan(before):
            print(f"probabilities: temperature {calibration.temperature:g}, expected calibration error {after:.4f} "
                  f"(before {before:.4f})")  # fmt: skip
        if guesses:
            print(f"guessed Dice: {quality.in_words(guesses, pairs)}")


def length_of(adapter: Path) -> dict[str, int]:
    """Epochs and steps of a training as it ended; when the adapter was written, the clock may have expected others."""
    training, history = read_training(adapter), read_history(adapter, Checkpoints.RESUME)
    if not training or not history or not training.get("steps"):
        return {}
    epochs = int(history[-1]["epoch"])
    return {"epochs": epochs, "steps": epochs * (training["steps"] // training["epochs"])}
