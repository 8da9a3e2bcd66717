"""What a training reports is of the adapter that it keeps, whichever epoch that is of."""

from __future__ import annotations

import csv
import json

import pytest
from bundle_runner import SMALL, run, start, volumes

from sam_monai.networks.adapter_files import read_training
from sam_monai.results.metrics import CaseTable
from sam_monai.training.best import Best

FIGURES = ("label", "dice", "hd95", "surface_dice", "ml", "reference_ml")


@pytest.fixture
def seen(monkeypatch):
    """Every batch that a table of results was made of."""
    batches, collect = [], CaseTable.collect
    monkeypatch.setattr(CaseTable, "collect", lambda self, engine: batches.append(engine) or collect(self, engine))
    return batches


def cases(folder) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(encoding="utf-8", newline="") as file:
        return [{key: row[key] for key in FIGURES} for row in csv.DictReader(file)]


@pytest.mark.parametrize("best", [1, 2])
def test_the_figures_are_of_the_adapter_that_is_kept_and_the_last_epoch_is_evaluated_once(
    tmp_path, monkeypatch, seen, best, capsys
):
    update = Best.update

    def only(self):  # the other epoch is never the best
        metric = update(self)
        if self.evaluator.state.epoch != best and self.epoch == self.evaluator.state.epoch:
            self.__dict__.update(kept)
            self.publish()
        kept.update(epoch=self.epoch, metric=self.metric, false_positives=self.false_positives)
        return metric

    kept = {"epoch": -1, "metric": float("nan"), "false_positives": float("inf")}
    monkeypatch.setattr(Best, "update", only)
    where = {"dataset_dir": str(volumes(tmp_path / "data")), "ckpt_dir": f"{tmp_path}/m", "device": "cpu", **SMALL}
    run("ssam", "train", output_dir=f"{tmp_path}/trained", learning_rate=0.05, **where)
    training = read_training(tmp_path / "m/model.pt")
    assert training["best_epoch"] == best
    rows = cases(tmp_path / "trained")
    for label, missed in zip(dict.fromkeys(row["label"] for row in rows), training["missed_by_label"], strict=True):
        held = [row for row in rows if row["label"] == label and row["dice"]]
        assert missed == [sum(row["hd95"] == "inf" for row in held), len(held)]
    assert len(seen) == (1 if best == 2 else 2)  # the validation after the last epoch, and one of its own
    told = capsys.readouterr().out
    assert told.count("label   ") == 1 and f"best after epoch {best}" in told
    run("ssam", "train", "evaluate", output_dir=f"{tmp_path}/evaluated", **where)
    assert cases(tmp_path / "trained") == cases(tmp_path / "evaluated")
    about = [json.loads((tmp_path / folder / "evaluation.json").read_text()) for folder in ("trained", "evaluated")]
    assert about[0] == about[1] and list((tmp_path / "trained/validation").glob("*.png"))


def test_a_training_in_rounds_measures_no_surfaces_in_its_later_validations(tmp_path, seen):
    where = {"dataset_dir": str(volumes(tmp_path / "data")), "ckpt_dir": f"{tmp_path}/m", "device": "cpu", **SMALL}
    workflow = start("ssam", "train", output_dir=f"{tmp_path}/o", **where | {"epochs": 1})
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    trainer.run()
    assert len(seen) == 1  # it may have been all of the training
    trainer.state.max_epochs = 3
    trainer.run()
    assert trainer.state.epoch == 3 and len(seen) == 2
