"""The command that lists adapters: what each is, and how more are trained."""

from __future__ import annotations

import re

from sam_monai import PTSAM
from sam_monai.__main__ import main
from sam_monai.bundle import shipped
from sam_monai.bundle.folder import read_json
from sam_monai.networks.adapter_files import training_summary, write_adapter


def test_adapters_are_told_by_what_they_are_and_other_files_left_out(tmp_path, capsys):
    (tmp_path / "one/models").mkdir(parents=True)
    network = PTSAM("lite_medsam", labels=["liver", "spleen"], image_size=64)
    write_adapter(network.state_dict(), tmp_path / "one/models/model.pt", training_summary(9, 8, 0.8125, 7, 1))
    (tmp_path / "weights.safetensors").write_bytes(b"no such file")
    assert main(["adapters", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"one/models/model\.safetensors  ptsam; liver, spleen; .* 64 px; Dice 0\.812 on 1 case; 20", said)
    assert "weights.safetensors" not in said
    assert main(["adapters", str(tmp_path / "none")]) == 1 and "no such folder" in capsys.readouterr().err


def test_a_command_is_given_for_every_bundle_with_keys_that_it_has(tmp_path, capsys):
    assert main(["adapters", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    commands = re.findall(r"sam-monai train --bundle (\w+) (.*)", said)
    assert [name for name, _ in commands] == shipped.names()
    for name, options in commands:
        config = read_json(shipped.find(name) / "configs/train.json")
        assert {*re.findall(r"--(\w+)", options)} <= config.keys()
        assert f"sam-monai package {name} mni152_{name} --adapter adapters/mni152_{name}/model.pt" in said


def test_what_the_printed_commands_make_is_found(tmp_path, capsys):
    network = PTSAM("lite_medsam", labels=["liver"], image_size=64)
    file = tmp_path / "adapters/mni152_ptsam/model.pt"
    write_adapter(network.state_dict(), file, training_summary(1, 1, None, 1, 0))
    assert main(["adapters", str(tmp_path)]) == 0
    assert "adapters/mni152_ptsam/model.safetensors  ptsam; liver" in capsys.readouterr().out
