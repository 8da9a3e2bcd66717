"""What a command line alone says of trained adapters: mistakes are answered before anything is begun."""

from __future__ import annotations

import pytest
from network_tester import tiny_backbone

from sam_monai import SSAM, MedSA
from sam_monai.__main__ import main
from sam_monai.bundle import front, trained
from sam_monai.bundle.folder import record
from sam_monai.bundle.shipped import find
from sam_monai.data import demo
from sam_monai.networks.adapter_files import training_summary, write_adapter
from sam_monai.training.checkpoints import Checkpoints


@pytest.mark.parametrize("command", ["segment", "evaluate"])
@pytest.mark.parametrize("labels, runs", [(["liver"], False), (["grey matter", "white matter"], True)])
def test_without_a_folder_only_the_demonstrations_own_adapter_is_used(
    command, labels, runs, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(front, "run", started.append)
    network = SSAM(tiny_backbone(), labels=labels, text_encoder="minilm")
    write_adapter(network.state_dict(), tmp_path / "model.pt")
    given = ["--adapter", "model.pt"] if command == "segment" else ["--ckpt_dir", "."]
    assert main([command, *given]) == (0 if runs else 1) and bool(started) is runs
    said = capsys.readouterr()
    if not runs:
        assert said.err.startswith("error: no folder is given, and model.pt is for liver: give ") and not said.out
    assert main([command, ".", *given]) == 0
    assert trained.DEMO_LABELS == list(demo._description()["labels"].values())[1:]


@pytest.mark.parametrize("steps, told", [(10, True), (100, False)])
@pytest.mark.parametrize("network", [SSAM, MedSA])
def test_an_adapter_of_few_steps_says_so_wherever_a_bundle_uses_it(network, steps, told, tmp_path, caplog):
    state, file = network("lite_medsam", labels=["liver"], image_size=32).state_dict(), tmp_path / "model.pt"
    write_adapter(state, file, training_summary(10, 10, 0.5, 2, 1) | {"steps": steps})
    record(find(network.method), file)
    said = f"{file}: It had {steps} training steps, which are too few" in caplog.text
    assert said is told and ("clicks and boxes" in caplog.text) is (told and network is MedSA)


def test_what_was_not_interrupted_is_not_resumed(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr(front, "run", ran.append)
    words = ["train", ".", "--ckpt_dir", "m", "--resume"]
    assert main(words) == 1 and "m holds no interrupted training" in capsys.readouterr().err and not ran
    assert trained.RESUMED == Checkpoints.RESUME
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / trained.RESUMED).touch()
    assert main(words) == 0 and ran
