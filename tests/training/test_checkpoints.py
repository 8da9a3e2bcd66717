"""No adapter is lost; the best one is kept where there is a best one; a training that goes astray stops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from tiny_training import Tiny, make_cases, state, tiny_training

from sam_monai import InputError
from sam_monai.locks import locked
from sam_monai.networks.adapter_files import read_training
from sam_monai.training.best import Best, MeanDiceOverLabels, by_label
from sam_monai.training.handlers import at_end, validation_interval


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# -- nothing is lost -----------------------------------------------------------------------------------------------


def test_a_new_training_moves_every_older_adapter_aside_and_says_where(tmp_path, capsys):
    cases, folder = make_cases(tmp_path / "data"), tmp_path / "models"
    earlier = []
    for seed in range(3):
        tiny_training(folder, cases, seed=seed).run()
        earlier.append({name: data for name, data in files(folder).items() if "/" not in name})
    replaced = sorted(folder.glob("replaced_20*"))
    assert [files(old) for old in replaced] == earlier[:2] and set(earlier[0]) == {
        "model.pt",
        "model.safetensors",
        "model_resume.pt",
    }
    said = capsys.readouterr().out
    assert all(str(old) in said for old in replaced)


def test_the_report_about_an_older_adapter_stays_beside_it(tmp_path):
    cases, folder, report = make_cases(tmp_path / "data"), tmp_path / "models", tmp_path / "output" / "report.html"
    report.parent.mkdir()
    tiny_training(folder, cases, report=report).run()
    report.write_text("about the first")
    tiny_training(folder, cases, report=report, epochs=8, resume=True).run()
    assert report.is_file()  # of the same training
    tiny_training(folder, cases, report=report, seed=1).run()
    (old,) = folder.glob("replaced_20*")
    assert (old / "report.html").read_text() == "about the first" and not report.exists()


def test_a_report_about_another_adapter_is_not_put_beside_this_one(tmp_path):
    """Two trainings into folders of their own may share the folder of their reports."""
    cases, folder, report = make_cases(tmp_path / "data"), tmp_path / "models", tmp_path / "output" / "report.html"
    report.parent.mkdir()
    tiny_training(folder, cases, report=report).run()
    report.write_text("about another")
    (report.parent / "evaluation.json").write_text('{"adapter": "0123"}')
    tiny_training(folder, cases, report=report, seed=1).run()
    (old,) = folder.glob("replaced_20*")
    assert report.read_text() == "about another" and not (old / "report.html").exists()


def test_a_training_that_fails_before_its_first_epoch_ends_moves_nothing(tmp_path):
    cases, folder = make_cases(tmp_path / "data"), tmp_path / "models"
    tiny_training(folder, cases).run()
    before = files(folder)
    Path(cases[1]["label"]).unlink()
    with pytest.raises((FileNotFoundError, RuntimeError)):
        tiny_training(folder, cases).run()
    assert files(folder) == before


def test_running_the_same_trainer_again_as_federated_clients_do_moves_nothing(tmp_path):
    cases, folder = make_cases(tmp_path / "data"), tmp_path / "models"
    trainer = tiny_training(folder, cases, epochs=2)
    for epochs in (2, 4):
        trainer.state.max_epochs = epochs
        trainer.run()
    assert state(folder)["epoch"] == 4 and not list(folder.glob("replaced_*"))


def test_two_trainings_do_not_share_a_folder_and_one_that_ended_leaves_it_free(tmp_path):
    cases, folder = make_cases(tmp_path / "data"), tmp_path / "models"
    trainer = tiny_training(folder, cases)

    def another(engine):
        with pytest.raises(InputError, match="models is in use by training .process"):
            tiny_training(folder, cases).run()
        raise KeyboardInterrupt

    trainer.add_event_handler(Events.EPOCH_COMPLETED, another)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    tiny_training(folder, cases, resume=True).run()
    assert state(folder)["epoch"] == 6
    with locked(folder, "evaluation"), pytest.raises(InputError, match="in use by evaluation"):
        tiny_training(folder, cases).run()


def test_every_action_at_the_end_of_a_run_is_done_and_the_error_comes_out():
    def step(engine, batch):
        raise KeyError(batch)

    engine, done = Engine(step), []
    at_end(engine, lambda: done.append(1))
    at_end(engine, lambda: done.append(2))
    with pytest.raises(KeyError):
        engine.run([0])
    assert set(done) == {1, 2}


# -- the best ------------------------------------------------------------------------------------------------------


def test_where_no_reference_holds_a_label_the_last_epoch_is_kept(tmp_path, capsys):
    cases, folder = make_cases(tmp_path / "data"), tmp_path / "models"
    for case in cases[3:]:
        np.save(case["label"], np.zeros((1, 8, 8), np.float32))
    tiny_training(folder, cases, interval=2).run()
    training = read_training(folder / "model.pt")
    assert training is not None and training["best_epoch"] == 6 and training["validation_dice"] is None
    kept = torch.load(folder / "model.pt", weights_only=True)
    assert torch.equal(kept["layer.weight"], state(folder)["network"]["layer.weight"])
    assert "nothing could be measured" in capsys.readouterr().out
    assert all("dice" not in epoch for epoch in state(folder)["history"])


def test_a_label_held_by_some_cases_alone_is_measured_there(tmp_path):
    cases, folder = make_cases(tmp_path / "data"), tmp_path / "models"
    np.save(cases[4]["label"], np.zeros((1, 8, 8), np.float32))
    tiny_training(folder, cases, lr=0.5, epochs=24).run()
    assert state(folder)["best"]["metric"] > 0


def test_an_adapter_says_what_each_label_reached_and_what_it_was_trained_with(tmp_path):
    cases, folder = make_cases(tmp_path / "data"), tmp_path / "models"
    tiny_training(folder, cases, lr=0.5, epochs=24, augment=True, slices=None, device="cuda:7").run()
    training = read_training(folder / "model.pt")
    assert training is not None and training["dice_by_label"] == [training["validation_dice"]]
    assert training["settings"] == {"seed": 0, "learning_rate": 0.5, "augment": True, "slices": None}


def test_the_metric_is_the_mean_over_labels_of_the_means_over_cases_as_in_reports():
    """Two cases hold the first label, one of them the second too."""
    metric = MeanDiceOverLabels(include_background=False, num_classes=3, output_transform=lambda output: output)
    engine = Engine(lambda engine, batch: batch)
    metric.attach(engine, "dice")
    both, first = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    both[0, 1, :2], both[0, 2, 2:], first[0, 1, :2] = 1, 1, 1
    half = torch.zeros(1, 3, 4, 4)
    half[0, 1, :2] = 1  # of the first label all, of the second nothing
    engine.run([(half, both), (first, first)])
    assert engine.state.metrics["dice"] == pytest.approx((1.0 + 0.0) / 2)
    nothing = torch.zeros(1, 3, 4, 4)
    engine.run([(nothing, nothing)])
    assert engine.state.metrics["dice"] == 0


def test_a_label_that_no_reference_holds_has_no_figure():
    nan = math.nan
    assert by_label(torch.tensor([[0.5, nan, 0.25], [1.0, nan, nan]])) == [0.75, None, 0.25]


@pytest.mark.parametrize(
    ("runs", "best"),
    [
        ([(0.5, 9), (0.5, 3), (0.5, 3), (0.4, 0)], 2),
        ([(0.2, 0), (0.3, 5)], 2),
        ([(math.nan, 0), (0.1, 5), (math.nan, 0)], 2),
        ([(math.nan, 0), (math.nan, 5)], -1),
        ([(0.0, 4), (0.0, 4)], 1),
    ],
)
def test_ties_go_to_fewer_false_positives_and_nothing_measured_is_never_the_best(runs, best):
    evaluator = Engine(lambda engine, batch: batch)
    evaluator.state.key_metric_name, evaluator.state.metric_details = "dice", {}
    chosen = Best(evaluator)
    for epoch, (dice, wrong) in enumerate(runs, 1):
        evaluator.state.metrics = {"dice": dice}
        pred, label = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
        pred.view(-1)[:wrong] = 2
        label[0, 0, 0] = 1
        evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda e, v=dice: e.state.metrics.update(dice=v))
        evaluator.run([[{"pred": pred, "label": label}]])
        evaluator.state.metrics = {"dice": dice}
        evaluator.state.epoch = epoch
        chosen.update()
    assert chosen.epoch == evaluator.state.best_metric_epoch == best


def test_ties_are_decided_by_regions_and_not_by_their_values():
    """A whole tumour is 1 and 2, its core 2: 1 where the reference holds 2 alone is no tumour beside a tumour."""
    evaluator = Engine(lambda engine, batch: batch)
    chosen = Best(evaluator, regions=((1, 2), (2,)))
    counted = []
    for values, reference in (((1, 2), (2, 2)), ((1, 2), (1, 0)), ((1, 2), (0, 0))):
        pred, label = (torch.tensor(each)[None] for each in (values, reference))
        evaluator.run([[{"pred": pred, "label": label}]])
        counted.append(chosen.counted)
    assert counted == [0, 1, 3]  # nothing; the core; the whole and the core


def test_numbered_objects_are_told_by_their_shapes_and_precision_comes_before_dice():
    """The first epoch numbers the objects of the second otherwise, the third has more Dice and joins both objects; the
    last marks what is none in a case without objects."""
    label = torch.zeros(1, 8, 8, dtype=torch.int32)
    label[..., :3, :3], label[..., 4:7, :3] = 1, 2
    renumbered = torch.where(label > 0, 9 - label, label)
    joined = (label > 0).int()
    joined[..., 3, :3] = 1
    nothing, spot = torch.zeros_like(label), torch.zeros_like(label)
    spot[..., 0, 0] = 1
    runs = [(renumbered, nothing, 0.9), (label, nothing, 0.9), (joined, nothing, 0.95), (label, spot, 0.9)]
    found = []
    for instances in (True, False):
        evaluator = Engine(lambda engine, batch: batch)
        evaluator.state.key_metric_name, evaluator.state.metric_details = "dice", {}
        chosen = Best(evaluator, instances)
        for epoch, (pred, other, dice) in enumerate(runs, 1):
            evaluator.run([[{"pred": pred, "label": label}], [{"pred": other, "label": nothing}]])
            evaluator.state.metrics, evaluator.state.epoch = {"dice": dice}, epoch
            chosen.update()
            found.append((chosen.epoch, chosen.counted))
        again = Best(evaluator, instances)
        again.load_state_dict(chosen.state_dict())
        assert again.state_dict() == chosen.state_dict()
    assert found[:4] == [(1, 0), (1, 0), (1, 0), (1, 1)]
    assert found[6][0] == 3  # by Dice alone


@pytest.mark.parametrize("epochs", [*range(1, 40), 97, 140, 360, 1009])
def test_any_number_of_epochs_has_six_validations_or_one_each_with_the_last(epochs, tmp_path):
    from sam_monai.training.handlers import Validate

    class Validator(Validate):
        def __init__(self, interval):
            self.every = interval

    engine = Engine(lambda *_: None)
    engine.state.max_epochs = epochs
    handler = Validator(validation_interval(epochs))
    due = [epoch for epoch in range(1, epochs + 1) if handler.due(engine, epoch)]
    assert len(due) == min(6, epochs) and due[-1] == epochs
    assert epochs < 6 or max(b - a for a, b in zip([0, *due], due, strict=False)) <= math.ceil(epochs / 6) + 1


# -- astray --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_epoch_and_cases_and_changes_no_file(tmp_path):
    cases, folder = make_cases(tmp_path / "data"), tmp_path / "models"
    tiny_training(folder, cases).run()
    before = files(folder)
    with pytest.raises(InputError, match=r"loss is nan in epoch 1 at [abc]\.npy, [abc]\.npy.*stays as it was"):
        tiny_training(folder, cases, loss=lambda logits, label: logits.sum() * math.nan).run()
    assert files(folder) == before


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    cases, folder, network = make_cases(tmp_path / "data"), tmp_path / "models", Tiny()
    trainer = tiny_training(folder, cases, network=network)

    @trainer.on(Events.ITERATION_COMPLETED(once=5))
    def spoil(engine):
        network.layer.bias.data[0] = math.nan

    with pytest.raises(InputError, match="not finite in epoch 3|loss is nan in epoch 3"):
        trainer.run()
    saved = state(folder)
    assert saved["epoch"] == 2 and all(tensor.isfinite().all() for tensor in saved["network"].values())
