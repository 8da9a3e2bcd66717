"""The two files of an adapter: what they say, and what is found wrong with them."""

from __future__ import annotations

import json
import re

import pytest
import safetensors.torch
import torch

from sam_monai import PTSAM, SSAM, InputError, MedSA
from sam_monai.__main__ import main
from sam_monai.networks import adapter_files, identity

PREPARATION = {"spatial_dims": 3, "intensity": "mr", "orientation": "axial"}


def network_of(kind):
    torch.manual_seed(0)
    return kind("lite_medsam", labels=["bright", "dark"], image_size=32, preprocessing=PREPARATION)


@pytest.fixture(scope="module", params=[SSAM, PTSAM, MedSA])
def network(request):
    return network_of(request.param)


@pytest.fixture(scope="module")
def small():
    return network_of(PTSAM)


@pytest.fixture
def file(small, tmp_path):
    path = tmp_path / "model.pt"
    adapter_files.write_adapter(small.state_dict(), path, adapter_files.training_summary(9, 6, 0.8123, 5, 2))
    return path


def test_both_files_hold_the_same_and_are_read_alike(network, tmp_path):
    adapter_files.write_adapter(network.state_dict(), tmp_path / "model.pt")
    for name in ("model.pt", "model.safetensors"):
        assert not adapter_files.differences(network.state_dict(), adapter_files.read_adapter(tmp_path / name))
        adapter_files.verify(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "model.safetensors"]


def test_the_header_is_readable_without_this_package(file, small):
    with safetensors.safe_open(file.with_suffix(".safetensors"), "np") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["identity"]) == small.describe()
    training = json.loads(metadata["training"])
    assert training["validation_dice"] == 0.8123 and training["date"].endswith("+00:00")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_show_says_what_an_adapter_is(network, tmp_path, capsys, suffix):
    summary = adapter_files.training_summary(9, 6, 0.8123, 5, 2)
    summary |= {"dice_by_label": [0.5, None], "settings": {"weight_decay": 0.25}, "calibration_error": [0.007, 0.0015]}
    plan = {"scale": "whole", "image_size": 32, "epochs": 9, "val_interval": 3, "checkpointing": False}
    summary["plan"] = plan | {"minutes": 4.0, "seconds": 37.23, "validation": 7.87}
    summary["guess"] = {"masks": 37, "guess": 0.43, "dice": 0.28, "error": 0.1, "correlation": 0.7}
    adapter_files.write_adapter(network.state_dict(), tmp_path / "model.pt", summary)
    path = (tmp_path / "model.pt").with_suffix(suffix)
    assert main(["show", str(path)]) == 0
    said = capsys.readouterr().out
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    for what in (network.method, network.backbone.base[:12], "1 bright, 2 dark", "32 px", f"{trained:,}\n",
                 f"{path.stat().st_size:,} bytes", 'orientation axial', "validation_dice 0.8123",
                 "bright 0.5, dark null", "weight_decay 0.25",
                 "0.430 on average and Dice 0.280, over 37 masks", "0.0015, and 0.0070 without the temp"):  # fmt: skip
        assert what in said


@pytest.mark.parametrize(
    "counts, said",
    [(None, "not recorded"), ([[0, 2], [0, 0]], "no label in any case"), ([[0, 2], [1, 2]], "dark in 1 of 2")],
)
def test_missed_labels_are_shown_only_as_far_as_they_were_counted(small, tmp_path, counts, said):
    summary = adapter_files.training_summary(9, 6, 0.8123, 5, 2) | ({"missed_by_label": counts} if counts else {})
    adapter_files.write_adapter(small.state_dict(), tmp_path / "model.pt", summary)
    assert re.search(rf"\nmissed +{said}\n", adapter_files.describe(tmp_path / "model.pt"))


def test_a_summary_of_other_numbers_is_not_shown(file, small):
    state = small.state_dict()
    torch.save(state | {"prompts": state["prompts"] + 1}, file)
    assert re.search(r"\ntraining +not recorded", adapter_files.describe(file))


def test_a_kill_between_the_two_files_loses_no_summary(file, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(adapter_files, "save_aside", killed)
        adapter_files.note_validation(file, 2.5, calibration_error=[0.2, 0.1])
    assert adapter_files.read_training(file)["calibration_error"] == [0.2, 0.1]
    adapter_files.note_validation(file, 2.5)
    adapter_files.verify(file)
    assert adapter_files.read_training(file)["best_epoch"] == 6


def spoil(file, what):
    state = adapter_files.read_adapter(file)
    record = identity.from_tensor(state["identity"])
    match what:
        case "missing":
            del state["prompts"]
        case "unexpected":
            state["more"] = torch.zeros(2)
        case "shape":
            state["prompts"] = state["prompts"][:, :3].clone()
        case "nan":
            state["prompts"][0, 0, 0] = torch.nan
        case "base":
            record["base"] = "0" * 64
        case "method":
            record["method"] = "lora"
        case "labels":
            record["labels"] = ["bright", "dark", "grey"]
        case "a key of no network":
            record["rank"] = 4
        case "a key that is not recorded":
            record["amp"] = False
        case "backbone":
            record["backbone"] = ["lite_medsam"]
    state["identity"] = raw(record)
    state = {key: tensor.clone() for key, tensor in state.items()}  # they were read through a map of the file
    for path, save in ((file, torch.save), (file.with_suffix(".safetensors"), safetensors.torch.save_file)):
        save(state, path)


def raw(record):
    """As a record's tensor, whatever it holds."""
    return torch.frombuffer(bytearray(json.dumps(record).encode().ljust(identity.LENGTH)), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("missing", "lacks prompts"),
        ("unexpected", "no such adapter has, more"),
        ("shape", "size mismatch for prompts"),
        ("nan", "NaN.*prompts"),
        ("base", "weights 000000000000"),
        ("method", "'lora'.*medsa, ptsam, ssam"),
        ("labels", "size mismatch for prompts"),
        ("a key of no network", "'rank', which is not known"),
        ("a key that is not recorded", "'amp', which is not known"),
        ("backbone", "backbone is .'lite_medsam'"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_verify_says_what_is_wrong(file, capsys, what, said, suffix):
    assert main(["verify", str(file.with_suffix(suffix))]) == 0 and capsys.readouterr().out.endswith(": ok\n")
    spoil(file, what)
    assert main(["verify", str(file.with_suffix(suffix))]) == 1
    with pytest.raises(InputError, match=said):
        adapter_files.verify(file.with_suffix(suffix))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_verify_names_two_files_that_differ(file, small, suffix):
    state = small.state_dict()
    torch.save(state | {"prompts": state["prompts"] + 1e-6}, file)
    with pytest.raises(InputError, match=r"model\.safetensors beside it differ, in prompts"):
        adapter_files.verify(file.with_suffix(suffix))


def test_verify_names_a_header_that_lies(file, small):
    header = {"identity": json.dumps(small.describe() | {"labels": ["liver"]})}
    state = {key: value.contiguous() for key, value in small.state_dict().items()}
    safetensors.torch.save_file(state, file.with_suffix(".safetensors"), header)
    with pytest.raises(InputError, match="header describes another adapter"):
        adapter_files.verify(file)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_named_whichever_is_asked_about(file, suffix):
    damaged = file.with_suffix(suffix)
    damaged.write_bytes(damaged.read_bytes()[:-999])
    for asked in (file, file.with_suffix(".safetensors")):
        with pytest.raises(InputError, match=f"(?s){damaged.name} .*damaged"):
            adapter_files.verify(asked)


def test_a_kill_while_the_second_file_is_written_leaves_whole_files(file, small, monkeypatch):
    before = file.read_bytes()

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(adapter_files, "save_aside", die)
    state = small.state_dict()
    with pytest.raises(KeyboardInterrupt):
        adapter_files.write_adapter(state | {"prompts": state["prompts"] + 1}, file)
    assert file.read_bytes() == before
    assert torch.equal(adapter_files.read_adapter(file.with_suffix(".safetensors"))["prompts"], state["prompts"] + 1)
