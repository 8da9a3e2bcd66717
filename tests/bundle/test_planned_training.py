"""A folder is enough: what a bundle plans is told, kept and resumed."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from bundle_runner import SMALL, run, start, volumes
from bundle_tester import killed_in_epoch_3, weights

from sam_monai import InputError
from sam_monai.__main__ import main
from sam_monai.errors import told
from sam_monai.networks.adapter_files import read_training
from sam_monai.training import clock, sizes
from sam_monai.training import plan as planning
from sam_monai.training.machine import Cost

KEYS = {"scale", "image_size", "batch_size", "epochs", "mirror", "val_interval", "checkpointing"}


@pytest.fixture
def data(tmp_path):
    return volumes(tmp_path / "data")


@pytest.fixture
def timed(monkeypatch):
    """A machine that takes 0.5 s for a step of 64 px, whatever it does beside, and a size that costs nothing here."""
    sizes = []

    def cost_of(network, *_):
        sizes.append(network.image_size)
        return Cost(network.image_size, 0.5 * (network.image_size / 64) ** 2, 0.01, 1e8)

    monkeypatch.setattr(planning, "cost_of", cost_of)
    return sizes


def test_a_plan_is_printed_written_and_kept(data, tmp_path, timed, capsys):
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"}
    run("ssam", "train", **where, steps=2, image_size=32, device="cpu")
    told, kept = capsys.readouterr().out, json.loads((tmp_path / "o/plan.json").read_text())
    assert "plan for data" in told and "bright" in told and all(f"  {key} " in told for key in KEYS)
    assert kept["plan"]["image_size"] == 32 and kept["why"]["image_size"] == "given"
    assert kept["plan"]["epochs"] == 2 and timed == [32]
    assert read_training(tmp_path / "m/model.pt")["plan"] == kept["plan"]
    assert "val_interval" in (tmp_path / "o/report.html").read_text(encoding="utf-8")


def test_a_killed_run_goes_on_under_its_plan_and_ends_with_the_same_weights(data, tmp_path, timed, monkeypatch):
    settings = {"dataset_dir": str(data), "output_dir": f"{tmp_path}/o", "image_size": 32, "minutes": 1000}
    monkeypatch.setattr(planning.Room, "epochs", lambda *_: 4)
    monkeypatch.setattr(clock, "TOLERANCE", math.inf)  # the clock decides nothing
    run("ssam", "train", ckpt_dir=f"{tmp_path}/whole", **settings)

    with killed_in_epoch_3():
        run("ssam", "train", ckpt_dir=f"{tmp_path}/killed", **settings)
    monkeypatch.setattr(planning.Room, "epochs", lambda *_: 9)  # the machine has become faster meanwhile
    run("ssam", "train", ckpt_dir=f"{tmp_path}/killed", resume=True, **settings)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(whole[key].equal(resumed[key]) for key in whole)
    assert json.loads((tmp_path / "o/plan.json").read_text())["plan"]["epochs"] == 4


def test_the_command_plans_without_training(data, tmp_path, timed, capsys):
    assert main(["plan", str(data), "--minutes", "3", "--json", f"{tmp_path}/plan.json"]) == 0
    kept = json.loads((tmp_path / "plan.json").read_text())
    assert "plan for data" in capsys.readouterr().out and kept["plan"]["minutes"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {"data", "plan.json"} and timed == [64, 128]
    assert main(["plan", str(data), "--json", f"{data}/dataset.json"]) == 1
    assert "dataset.json is there already" in capsys.readouterr().err
    assert main(["plan", f"{tmp_path}/none"]) == 1 and "no such folder" in capsys.readouterr().err
    assert main(["plan", str(data.rename(tmp_path / "scans#2"))]) == 0 and "plan for scans#2" in capsys.readouterr().out


def test_planning_draws_none_of_the_random_numbers_from_which_a_training_starts(data, timed):
    before = torch.get_rng_state()
    assert main(["plan", str(data), "--bundle", "ptsam"]) == 0 and timed == [64, 128]
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--minutes=-5"], ["--steps", "1.5"]])
def test_the_command_plans_for_no_budget_that_a_training_refuses(data, words, capsys):
    assert main(["plan", str(data), *words]) == 1 and re.search("(minutes|steps) is", capsys.readouterr().err)


def test_the_command_plans_around_keys_of_the_training(data, timed, capsys):
    assert main(["plan", str(data), "--minutes", "3", "--image_size", "32", "--mirror=none"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"image_size +32 +given", said) and re.search(r"mirror +none +given", said)
    for words, line in ((["--imag_size", "32"], "imag_size"), (["--image_size", "33"], "image_size"), (["x"], "alone"),
                        (["--dataset_dir", "x"], "two folders")):  # fmt: skip
        assert main(["plan", str(data), *words]) == 1 and line in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["show", "model.pt", "--image_size", "32"])


def test_nothing_is_timed_where_all_is_given(data, timed):
    workflow = start("ssam", "train", dataset_dir=str(data), **SMALL)
    assert dict(workflow.parser.get_parsed_content("plan"))["epochs"] == 2 and not timed


@pytest.mark.parametrize("bundle", ["ssam", "ptsam", "medsa"])
def test_every_bundle_times_steps_of_its_own(data, bundle):
    plan = start(bundle, "train", dataset_dir=str(data), image_size=32).parser.get_parsed_content("plan")
    assert plan["epochs"] > 10 and plan["minutes"] == 15


def test_a_budget_must_be_a_number(data):
    with pytest.raises(InputError, match="minutes is 0"):
        run("ssam", "train", dataset_dir=str(data), minutes=0)


@pytest.mark.parametrize("most", [80, 10])
def test_a_step_that_does_not_fit_a_gpu_is_planned_smaller(tmp_path, timed, monkeypatch, caplog, most):
    """Also where the sizes that are timed first did fit."""
    cost_of = planning.cost_of

    def on_a_gpu(network, *others):
        if network.image_size > most and len(timed) >= 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return cost_of(network, *others)

    monkeypatch.setattr(planning, "cost_of", on_a_gpu)
    monkeypatch.setattr(planning, "free_on", lambda _: None)
    monkeypatch.setattr(planning.Room, "steps", lambda *_: 1000)
    monkeypatch.setitem(sizes.SQUARE, 3, 96)
    parser = start("ssam", "train", dataset_dir=str(volumes(tmp_path / "data", (60, 50, 6)))).parser
    parser["device"] = "$torch.device('cuda')"
    if most < 32:
        with pytest.raises(RuntimeError) as raised:  # MONAI's, about ours
            parser.get_parsed_content("plan")
        assert "does not fit the GPU's memory" in str(told(raised.value))
        return
    assert parser.get_parsed_content("plan")["image_size"] == 64 and "does not fit the GPU" in caplog.text


def test_a_full_memory_of_a_gpu_is_a_line():
    try:
        raise RuntimeError("in a handler") from torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    except RuntimeError as error:
        line = told(error)
    assert line is not None and "\n" not in line
    resumed, anew = line.split(";")  # a training is not resumed with images or batches of another size
    assert "--checkpointing True, with --resume True" in resumed and "--image_size" in anew and "--resume" not in anew


@pytest.mark.parametrize("kept", [5, {}, {"plan": 3}, {"plan": {}}, {"plan": {"image_size": "$print(1)"}}])
def test_a_plan_that_is_none_is_not_resumed(data, tmp_path, timed, kept):
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"}
    run("ssam", "train", **where, steps=1, image_size=32)
    state = torch.load(tmp_path / "m/model_resume.pt", weights_only=True)
    torch.save(state | {"clock": kept}, tmp_path / "m/model_resume.pt")
    with pytest.raises(InputError, match=r"model_resume\.pt: its plan"):
        planning.plan_kept_in(tmp_path / "m/model_resume.pt")


@pytest.mark.parametrize("epochs, said", [(None, 2), (5, 5), (3, 3), (1, "epochs was 2 and is 1")])
def test_epochs_that_are_asked_for_count_after_a_clock_has_shortened_a_training(data, tmp_path, epochs, said):
    """Not those that were planned before, of which most were never trained."""
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"}
    short = {key: value for key, value in SMALL.items() if key != "epochs"}
    run("ssam", "train", **where, **short, epochs=2)
    state = torch.load(tmp_path / "m/model_resume.pt", weights_only=True)
    state["lr_scheduler"]["lr_lambdas"] = [{"changes": [(0, 0.0, 5), (1, 0.2, 2)]} for _ in
                                           state["lr_scheduler"]["lr_lambdas"]]  # fmt: skip
    state["settings"]["epochs"] = 5
    state["clock"]["plan"] |= {"epochs": 5, "minutes": 15.0, "seconds": 0.0, "validation": 1.0}
    torch.save(state, tmp_path / "m/model_resume.pt")
    asked = short | ({} if epochs is None else {"epochs": epochs})
    if isinstance(said, str):
        with pytest.raises((InputError, RuntimeError)) as refused:
            run("ssam", "train", **where, **asked, resume=True)
        assert said in str(told(refused.value))
        return
    run("ssam", "train", **where, **asked, resume=True)
    assert torch.load(tmp_path / "m/model_resume.pt", weights_only=True)["epoch"] == said


def test_more_samples_of_a_case_make_a_step_larger(data, monkeypatch):
    shapes = []
    monkeypatch.setattr(planning, "cost_of", lambda _, shape, *others: shapes.append(shape) or Cost(32, 1.0, 0.01, 1e8))
    parser = start("ssam", "train", dataset_dir=str(data), image_size=32, samples=3).parser
    assert parser.get_parsed_content("plan") and {shape[0] for shape in shapes} == {3 * 2}


def test_a_planned_step_begins_with_an_image_where_no_embeddings_are_kept(data, monkeypatch):
    kept = []
    monkeypatch.setattr(planning, "cost_of", lambda *given: kept.append(given[5]) or Cost(32, 1.0, 0.01, 1e8))
    for cache in (None, False):
        where = {} if cache is None else {"embedding_cache": cache}
        start("ptsam", "train", dataset_dir=str(data), image_size=32, **where).parser.get_parsed_content("plan")
    assert main(["plan", str(data), "--bundle", "ptsam", "--image_size", "32", "--embedding_cache", "False"]) == 0
    assert kept == [True, False, False]


def test_the_demonstration_is_planned_for_four_minutes(timed):
    assert start("ssam", "train", image_size=32).parser.get_parsed_content("plan")["minutes"] == 4


@pytest.mark.parametrize(
    "name", ["cases.csv", "report.html", "plan.json", "training_cases.txt", "evaluation.json", "validation/c.png"]
)
def test_a_file_of_somebody_else_is_named_before_a_training(data, tmp_path, name, timed):
    file = tmp_path / "o" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    workflow = start("ptsam", "train", dataset_dir=str(data), ckpt_dir=f"{tmp_path}/m", output_dir=f"{tmp_path}/o",
                     image_size=32, steps=1)  # fmt: skip
    with pytest.raises((InputError, RuntimeError)) as error:
        workflow.initialize()
    assert f"{name}: is there already" in str(told(error.value)) and file.read_text() == "mine"
