"""What is resumed is what was started: the settings, the cases, the file."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset
from monai.transforms import Compose, RandScaleIntensity
from tiny_training import ABSENT, Tiny, make_cases, same, state, tiny_training

from sam_monai import InputError
from sam_monai.training import handlers
from sam_monai.training.cases import contents
from sam_monai.training.handlers import Validate
from sam_monai.training.losses import loss_of
from sam_monai.training.plan import refuse_other_length
from sam_monai.training.resume import check_same_cases, read_history


@pytest.fixture
def started(tmp_path):
    """Cases, and a folder in which three epochs of six were trained and the process was then killed."""
    cases = make_cases(tmp_path / "data")
    stop_after(tiny_training(tmp_path / "models", cases), 3)
    return tmp_path / "models", cases


class Killed(Exception):
    pass


def stop_after(trainer, epoch: int) -> None:
    def stop(engine):
        if engine.state.epoch == epoch:
            raise Killed

    trainer.add_event_handler(Events.EPOCH_COMPLETED, stop)
    with pytest.raises(Killed):
        trainer.run()


def epochs_of(trainer) -> list[int]:
    """Those that a training runs: one that began anew would end as one that was resumed."""
    begun: list[int] = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: begun.append(engine.state.epoch))
    trainer.run()
    return begun


def test_each_epoch_and_process_draws_its_own_and_the_same_again(monkeypatch):
    def drawn(seed, epoch, rank):
        monkeypatch.setattr(handlers.idist, "get_rank", lambda: rank)
        transform = RandScaleIntensity(0.2, prob=1.0)
        engine = Engine(lambda *_: None)
        engine.state.epoch = epoch
        handlers.SeedEpochs(seed, Dataset([0], Compose([transform])))(engine)
        return random.random(), np.random.rand(), torch.rand(1).item(), transform.R.rand()

    keys = list(itertools.product((0, 1), (1, 2), (0, 1)))
    first = [drawn(*key) for key in keys]
    assert first == [drawn(*key) for key in keys]
    assert all(len(set(values)) == len(keys) for values in zip(*first, strict=True))


def test_a_resumed_training_ends_as_one_that_was_not_stopped(started, tmp_path):
    folder, cases = started
    tiny_training(tmp_path / "whole", cases).run()
    assert epochs_of(tiny_training(folder, cases, resume=True)) == [4, 5, 6]
    assert state(folder)["epoch"] == 6 and same(tmp_path / "whole", folder)


def test_more_epochs_follow_the_schedule_of_the_new_number_from_the_first_one_on(started, capsys):
    folder, cases = started
    trainer = tiny_training(folder, cases, epochs=12, resume=True, num_workers=2)
    rates = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda e: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    trainer.run()
    expected = [0.05 * (0.5 + 0.5 * np.cos(np.pi * epoch / 12)) for epoch in range(3, 12)]
    assert rates == pytest.approx(expected) and state(folder)["epoch"] == 12
    said = capsys.readouterr().out
    assert "changed: " in said and "epochs 12 (was 6)" in said and "num_workers 2 (was null)" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0.5}, "learning_rate was 0.05 and is 0.5"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"epochs": 5}, "epochs was 6 and is 5"),
        ({"epochs": 2}, "epochs was 6 and is 2"),
        ({"augment": False}, "augment was null and is false"),
        ({"batch_size": 4}, "batch_size was null and is 4"),
        (
            {"record": {"method": "ssam", "text_encoder": "minilm", "tokens": ABSENT, "encoder_prompts": ABSENT}},
            'method was "ptsam" and is "ssam"',
        ),
        ({"record": {"preprocessing": {"intensity": "ct", "spacing": None}}}, 'intensity was "mr" and is "ct"'),
        ({"record": {"preprocessing": {"intensity": "mr", "spacing": [1, 1]}}}, r"spacing was null and is \[1, 1\]"),
        ({"record": {"preprocessing": {"intensity": "mr", "spacing": None, "channels": [0]}}}, "channels was null"),
        ({"record": {"labels": ["dark"]}}, r'labels was \["bright"\] and is \["dark"\]'),
    ],
)
def test_other_settings_are_refused_with_both_values_and_nothing_is_written(started, changes, said):
    folder, cases = started
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(InputError, match=f"model_resume.pt cannot be resumed under other settings.*{said}.*start anew"):
        tiny_training(folder, cases, resume=True, **changes).run()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_training_that_was_begun_with_another_loss_is_refused(started):
    folder, cases = started
    content = torch.load(folder / "model_resume.pt", weights_only=True)
    content["settings"]["loss"] = "DiceCELoss"
    torch.save(content, folder / "model_resume.pt")
    trainer = tiny_training(folder, cases, resume=True)
    trainer.loss_function = loss_of(None)
    with pytest.raises(InputError, match='loss was "DiceCELoss" and is "logarithm of Dice, and focal loss"'):
        trainer.run()


def test_a_changed_case_is_named_by_its_folder_where_file_names_are_alike(tmp_path):
    cases = [{"image": str(tmp_path / name / "ct.nii.gz")} for name in ("s1", "s2", "s3")]
    for case in cases:
        Path(case["image"]).parent.mkdir()
        Path(case["image"]).write_text(case["image"])
    before = {"training": contents(cases)}
    Path(cases[1]["image"]).write_text("other")
    with pytest.raises(InputError, match=r"training cases have changed \(changed: s2/ct\.nii\.gz\)"):
        check_same_cases(before, {"training": contents(cases)}, tmp_path / "model_resume.pt")


def test_an_optimiser_changed_behind_the_keys_is_refused(started):
    folder, cases = started
    trainer = tiny_training(folder, cases, resume=True)
    trainer.optimizer.param_groups[0]["weight_decay"] = 0.3
    with pytest.raises(InputError, match="optimizer was.*0.01.*and is.*0.3"):
        trainer.run()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("image", "training cases have changed .changed: a.npy"),
        ("label", "training cases have changed .changed: a.npy"),
        ("order", "in another order"),
        ("fewer", "validation cases have changed .missing: e.npy"),
        ("more", "validation cases have changed .new: f.npy"),
        ("swapped", "training cases have changed .new: e.npy; missing: a.npy.*validation cases have changed"),
    ],
)
def test_other_cases_are_refused_by_name(started, what, said):
    folder, cases = started
    if what in ("image", "label"):
        np.save(cases[0][what], np.load(cases[0][what]) * 0.5)
    elif what == "more":
        cases = [*cases, {key: path.replace("e", "f") for key, path in cases[4].items()}]
        cases[5] = {"image": cases[4]["image"].replace("e.npy", "f.npy"), "label": cases[4]["label"]}
        np.save(cases[5]["image"], np.ones((1, 8, 8), np.float32))
    else:
        order = {"order": [1, 0, 2, 3, 4], "fewer": [0, 1, 2, 3], "swapped": [4, 1, 2, 3, 0]}[what]
        cases = [cases[i] for i in order]
    with pytest.raises(InputError, match=f"cannot be resumed on other data.*{said}"):
        tiny_training(folder, cases, resume=True).run()


def test_data_that_only_moved_are_resumed_on(started, tmp_path):
    folder, cases = started
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    moved = [{key: path.replace("/data/", "/elsewhere/") for key, path in case.items()} for case in cases]
    assert epochs_of(tiny_training(folder, moved, resume=True)) == [4, 5, 6]


def spoil(path, what: str) -> None:
    content = torch.load(path, weights_only=True)
    match what:
        case "an adapter":
            content = Tiny().state_dict()
        case "a list":
            content = [1, 2]
        case "a tensor":
            content = torch.zeros(3)
        case "no optimizer":
            del content["optimizer"]
        case "no settings":
            del content["settings"]
        case "epoch of text":
            content["epoch"] = "3"
        case "epoch below 0":
            content["epoch"] = -3
        case "network of other shapes":
            content["network"]["layer.weight"] = torch.zeros(7)
        case "network of other keys":
            content["network"]["more"] = torch.zeros(7)
        case "moments of other shapes":
            content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(7)
        case "moments of no parameter":
            content["optimizer"]["state"] = {"x": {"exp_avg": torch.zeros(7)}}
        case "groups":
            content["optimizer"]["param_groups"] = [1]
        case "schedule of text":
            content["lr_scheduler"]["last_epoch"] = "3"
        case "schedule of a method":
            content["lr_scheduler"]["get_lr"] = 3
        case "best":
            content["best"] = {"metric": "x"}
        case "cases":
            content["cases"] = {"training": 3}
        case "truncated":
            path.write_bytes(path.read_bytes()[:1000])
            return
        case "empty":
            path.write_bytes(b"")
            return
        case "a folder":
            path.unlink()
            path.mkdir()
            return
    torch.save(content, path)


@pytest.mark.parametrize(
    "what",
    ["an adapter", "a list", "a tensor", "no optimizer", "no settings", "epoch of text", "epoch below 0",
     "network of other shapes", "network of other keys", "moments of other shapes", "moments of no parameter", "groups",
     "schedule of text", "schedule of a method", "best", "cases", "truncated", "empty", "a folder"],
)  # fmt: skip
def test_a_file_of_another_kind_is_one_line_and_starting_anew_keeps_it(started, what, tmp_path):
    folder, cases = started
    spoil(folder / "model_resume.pt", what)
    with pytest.raises(InputError, match="model_resume.pt.*start anew with resume false") as error:
        tiny_training(folder, cases, resume=True).run()
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert what in ("network of other shapes", "schedule of text") or isinstance(
        read_history(folder / "model.pt", "model_resume.pt"), list
    )
    tiny_training(folder, cases).run()
    assert len(list(folder.glob("replaced_*/model_resume.pt"))) == 1 and state(folder)["epoch"] == 6


def test_without_a_file_to_resume_from_training_starts_anew_and_says_so(tmp_path, capsys):
    tiny_training(tmp_path / "models", make_cases(tmp_path / "data"), resume=True).run()
    assert "starts anew" in capsys.readouterr().out and state(tmp_path / "models")["epoch"] == 6


def test_a_finished_training_is_left_as_it_is(tmp_path):
    cases = make_cases(tmp_path / "data")
    tiny_training(tmp_path / "models", cases).run()
    before = {file.name: file.read_bytes() for file in (tmp_path / "models").iterdir()}
    tiny_training(tmp_path / "models", cases, resume=True).run()
    assert {file.name: file.read_bytes() for file in (tmp_path / "models").iterdir()} == before


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf"), True, "3", None])
def test_an_interval_that_is_no_number_of_epochs_is_refused(interval):
    with pytest.raises(InputError, match="val_interval is"):
        Validate(None, interval)


@pytest.mark.parametrize("what", ["of another training", "gone", "with other numbers", "damaged"])
def test_an_adapter_that_is_not_of_this_training_is_named_and_kept(started, what, tmp_path):
    folder, cases = started
    file = folder / "model.pt"
    match what:
        case "of another training":
            tiny_training(tmp_path / "other", cases, seed=1).run()
            for name in ("model.pt", "model.safetensors"):
                shutil.copy(tmp_path / "other" / name, folder / name)
        case "gone":
            file.unlink()
        case "with other numbers":
            content = torch.load(file, weights_only=True)
            torch.save(content | {"layer.bias": content["layer.bias"] + 1}, file)
        case "damaged":
            file.write_bytes(file.read_bytes()[:500])
    assert read_history(file, "model_resume.pt") == []
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match=r"model\.pt") as error:
        tiny_training(folder, cases, resume=True).run()
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("after", ["model.safetensors", "model.pt"])
def test_a_kill_between_the_files_of_an_epoch_is_resumed_from(tmp_path, after):
    """The adapter is of the epoch after the one that the state is of."""
    cases = make_cases(tmp_path / "data")
    whole, folder = tmp_path / "whole", tmp_path / "models"
    tiny_training(whole, cases, interval=1).run()
    best = [epoch["epoch"] for epoch in state(whole)["history"]]
    for epoch in best[1:]:
        shutil.rmtree(folder, ignore_errors=True)
        stop_after(tiny_training(folder, cases, interval=1), epoch - 1)
        stop_after(tiny_training(tmp_path / "next", cases, interval=1), epoch)
        for name in ("model.safetensors", "model.pt")[: 1 if after == "model.safetensors" else 2]:
            shutil.copy(tmp_path / "next" / name, folder / name)
        tiny_training(folder, cases, interval=1, resume=True).run()
        assert same(whole, folder)
        shutil.rmtree(tmp_path / "next")


def test_an_adapter_without_its_words_is_not_gone_on_with(started):
    folder, cases = started
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is gone, which says how"):
        tiny_training(folder, cases, resume=True).run()


def test_a_state_of_before_is_resumed_from_whatever_the_adapter(started):
    folder, cases = started
    content = state(folder)
    del content["adapter"]
    torch.save(content, folder / "model_resume.pt")
    torch.save(Tiny().state_dict(), folder / "model.pt")
    assert epochs_of(tiny_training(folder, cases, resume=True)) == [4, 5, 6]


def test_minutes_and_steps_of_a_resumed_training_are_its_own_or_refused():
    timed, counted = ({"epochs": 25, "batch_size": 4, "minutes": minutes} for minutes in (30.0, None))
    for old, given in ((timed, (None, None)), (timed, (30, None)), (counted, (None, 100)), (counted, (None, 101))):
        refuse_other_length("state.pt", old, *given, 16)
    for old, given, said in ((timed, (60, None), "--minutes 60"), (counted, (None, 200), "--steps 200"),
                             (counted, (5, None), "--minutes 5")):  # fmt: skip
        with pytest.raises(InputError, match=f"state.pt: a resumed training keeps its plan .25 epochs.*{said} would"):
            refuse_other_length("state.pt", old, *given, 16)
