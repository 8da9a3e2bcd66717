"""What a user of the command line sees when something is wrong: one line, and a status that says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import monai.bundle
import pytest
from bundle_runner import ROOT, SMALL, run, volumes, write_json
from folder_maker import nnunet
from monai_command import config_files

import sam_monai
from sam_monai import InputError
from sam_monai.__main__ import main
from sam_monai.bundle import command_line, front
from sam_monai.bundle import folder as bundles
from sam_monai.errors import told
from sam_monai.networks import adapter_files

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
PROGRAM = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return volumes(tmp_path_factory.mktemp("data") / "data")


def last_line(*words, cwd=ROOT) -> tuple[int, str]:
    done = subprocess.run([*PROGRAM, *map(str, words)], cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


# -- MONAI's program ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, line",
    [
        (["bundles/ssam/configs/train.json", "--epochs", "abc"], "error: the key epochs is 'abc'; give a whole number"),
        (["bundles/medsa/configs/evaluate.json"], "error: this configuration is only an overlay"),
        (["bundles/ptsam/configs/inference.json", "--output_dir", "README.md/x"], "README.md/x: cannot be written"),
    ],
)
def test_a_mistake_ends_in_one_line(words, line):
    status, said = last_line(*words)
    assert status == 1 and said.startswith("error: ") and line in said


def test_a_folder_that_cannot_be_written_is_found_out_before_the_data_are_read(data, tmp_path):
    (tmp_path / "file").write_text("x")
    train, where = config_files("ssam", "train"), {"dataset_dir": f"{tmp_path}/nowhere", "bundle_root": str(tmp_path)}
    for key in ("ckpt_dir", "output_dir"):
        for path in (f"{tmp_path}/file", f"{tmp_path}/file/x/y", f"{tmp_path}/{'n' * 300}"):
            with pytest.raises(RuntimeError) as error:
                monai.bundle.run(config_file=train, **where, **{key: path})
            assert f"the key {key} needs another folder" in str(told(error.value))
    for config in (["inference"], ["train", "evaluate"]):
        with pytest.raises(RuntimeError) as error:
            monai.bundle.run(config_file=config_files("ssam", *config), **where, output_dir=f"{tmp_path}/file/x")
        assert "the key output_dir needs another folder" in str(told(error.value))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_to_look_at_a_bundle_asks_for_no_folder(tmp_path):
    workflow = monai.bundle.ConfigWorkflow(
        config_files("ssam", "inference"), workflow_type="infer", logging_file=False, output_dir="/proc/none"
    )
    workflow.initialize()


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_training_says_how_to_go_on_and_does(number, status, workers, data, tmp_path):
    settings = {**SMALL, "epochs": 5000, "val_interval": 5000, "dataset_dir": data, "ckpt_dir": tmp_path / "m",
                "output_dir": tmp_path / "o", "num_workers": workers}  # fmt: skip
    words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    command = [*PROGRAM, *config_files("ssam", "train"), *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=ENVIRONMENT, start_new_session=True)  # fmt: skip
    while not (tmp_path / "m/model_resume.pt").is_file():
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    os.killpg(process.pid, number)  # as a terminal does, to the workers too
    said = process.communicate(timeout=400)[1]
    assert process.returncode == status and "Traceback" not in said, said
    assert said.strip().splitlines()[-1] == "interrupted; run the same command with --resume True to go on"
    assert not list((tmp_path / "m").glob(".*"))


DROPPED = """
import os, signal
from sam_monai.bundle import command_line
command_line.stop_in_a_line(resumed=False)
class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000): pass
Dropping()
raise RuntimeError("DataLoader worker exited unexpectedly")
"""


def test_what_fails_after_a_signal_whose_exception_python_dropped_is_not_told():
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 143, done.stderr
    assert done.stderr.strip() == "interrupted; run the same command again to go on"


@pytest.mark.slow
def test_a_training_interrupted_before_an_epoch_ended_does_not_go_on_with_another(data, tmp_path):
    """The state that lies there is of a training that ended, whose adapter would be lost."""
    state = tmp_path / "m/model_resume.pt"
    state.parent.mkdir()
    state.touch()
    os.utime(state, (1, 1))
    settings = {**SMALL, "epochs": 5000, "dataset_dir": data, "ckpt_dir": tmp_path / "m", "output_dir": tmp_path / "o"}
    words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    command = [*PROGRAM, *config_files("ssam", "train"), *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=ENVIRONMENT, start_new_session=True)  # fmt: skip
    while not (tmp_path / "o/plan.json").is_file() and not (tmp_path / "m/.in_use").is_file():
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=400)[1]
    assert (
        said.strip().splitlines()[-1]
        == "interrupted; run the same command again: no epoch had ended, so it starts anew"
    )


def test_an_adapter_of_another_kind_of_images_is_named(data, tmp_path, caplog):
    where = {"ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"}
    run("ptsam", "train", dataset_dir=str(data), **where, **SMALL | {"epochs": 1})
    other = shutil.copytree(data, tmp_path / "ct")
    write_json(other, modality={"0": "CT"})
    monai.bundle.run(config_file=config_files("ptsam", "inference"), dataset_dir=str(other), logging_file=False,
                     adapter=f"{tmp_path}/m/model.pt", output_dir=f"{tmp_path}/masks")  # fmt: skip
    assert "holds images of the kind ct, and the adapter was trained on images of the kind mr" in caplog.text
    caplog.clear()
    partly = nnunet(tmp_path / "nnunet")
    (partly / "labelsTr" / "case_2.nii.gz").unlink()  # an image that is to be segmented, not to be trained on
    monai.bundle.run(config_file=config_files("ptsam", "inference"), dataset_dir=str(partly), logging_file=False,
                     adapter=f"{tmp_path}/m/model.pt", output_dir=f"{tmp_path}/others")  # fmt: skip
    assert "holds images of the kind ct" in caplog.text
    masks = {mask.name for mask in (tmp_path / "others").glob("*_seg.nii.gz")}
    assert masks == {"case_2_0000_seg.nii.gz", "new_0000_seg.nii.gz"}


@pytest.mark.parametrize("bundle", ["ssam", "medsa"])
def test_another_methods_adapter_is_named_in_inference_and_evaluation(bundle, data, tmp_path):
    where = {"dataset_dir": str(data), "output_dir": f"{tmp_path}/o"}
    run("ptsam", "train", ckpt_dir=f"{tmp_path}/m", **where, **SMALL | {"epochs": 1})
    with pytest.raises(InputError, match="one of ptsam"):
        run(bundle, "inference", adapter=f"{tmp_path}/m/model.pt", **where)
    with pytest.raises(InputError, match="one of ptsam"):
        run(bundle, "train", "evaluate", ckpt_dir=f"{tmp_path}/m", **where)


# -- our own commands --------------------------------------------------------------------------------------------------

GOOD = json.loads((ROOT / "bundles/ssam/configs/metadata.json").read_text())
PLACES = ("adapter", "network_data_format")
METADATA = {
    "a list": "[]", "a number": "3", "null": "null", "nothing": "", "broken": '{"adapter": ',
    "not UTF-8": b'{"a": "\xff"}',
    "deep": "[" * 100_000, "deep objects": '{"a":' * 5000 + "1" + "}" * 5000, "empty": "{}",
    **{f"no {place}": json.dumps({k: v for k, v in GOOD.items() if k != place}) for place in PLACES},
    **{f"adapter {value!r}": json.dumps(GOOD | {"adapter": value}) for value in (None, [], "x", {},
                                                                                 {"preprocessing": 1})},
    **{f"format {value!r}": json.dumps(GOOD | {"network_data_format": value}) for value in (None, [], {"inputs": 3})},
}  # fmt: skip


@pytest.mark.parametrize("content", METADATA.values(), ids=METADATA)
def test_metadata_of_any_shape_are_named(content, tmp_path, capsys):
    bundle = shutil.copytree(ROOT / "bundles/ssam", tmp_path / "b", ignore=shutil.ignore_patterns("models", "output"))
    file = bundle / "configs/metadata.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        bundles.record(bundle, "none.pt")
    assert str(file) in str(error.value) and len(str(error.value)) < 600
    network = sam_monai.PTSAM("lite_medsam", labels=["x"], image_size=32)
    adapter_files.write_adapter(network.state_dict(), tmp_path / "model.pt")
    assert main(["package", str(bundle), str(tmp_path / "mine"), "--adapter", str(tmp_path / "model.pt")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and not (tmp_path / "mine").exists()


def test_metadata_that_are_a_folder_are_named(tmp_path):
    (tmp_path / "configs/metadata.json").mkdir(parents=True)
    with pytest.raises(InputError, match="metadata.json: cannot be read"):
        bundles.read_metadata(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ["show", "{}/folder"], ["show", "{}/none.pt"], ["show", "{}/text.pt"], ["verify", "{}/text.safetensors"],
        ["verify_bundle", "{}/none"], ["keys", "{}/folder"], ["series", "{}/none"], ["merge", "{}/text.pt", "{}/x.pth"],
        ["export", "{}/none.pt", "{}/x.onnx"], ["package", "{}/folder", "{}/new"], ["show", "{}/" + "n" * 300],
        ["package", str(ROOT / "bundles/ssam"), "{}/text.pt/new", "--adapter", "{}/text.pt"], ["download", "none"],
        ["package", str(ROOT / "bundles/ssam"), "{}/" + "n" * 300, "--adapter", "{}/text.pt"],
    ],
)  # fmt: skip
def test_what_the_system_refuses_is_one_line(words, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("no adapter")
    assert main([word.format(tmp_path) for word in words]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said


def test_an_adapter_may_be_named_by_its_bundles_folder(monkeypatch, tmp_path):
    ran: list[str] = []
    monkeypatch.setattr(front, "run", ran.extend)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b" / "models").mkdir(parents=True)
    (tmp_path / "b/models/model.pt").touch()
    assert main(["segment", ".", "--adapter", "b"]) == 0
    assert ran[ran.index("--adapter") + 1] == "b/models/model.pt"
    assert front.in_folder("ssam") == str(ROOT / "bundles/ssam/models/model.pt")  # a name, in a clone
    (tmp_path / "ssam").mkdir()
    assert front.in_folder("ssam") == str(ROOT / "bundles/ssam/models/model.pt")  # as train and package take it
    assert front.in_folder("./ssam") == "./ssam/models/model.pt"
    monkeypatch.setattr(front, "is_own", lambda _: False)  # as of a training from a wheel
    assert front.in_folder("ssam") == "ssam/models/model.pt"


def test_monais_options_of_tracking_are_known_where_it_is_asked_for():
    words = ["run", "--config_file", str(config_files("ssam", "train")), "--experiment_name", "liver"]
    with pytest.raises(InputError, match="unknown key --experiment_name"):
        command_line.refuse_unknown_keys(words)
    command_line.refuse_unknown_keys([*words, "--tracking", "mlflow"])


def test_whether_a_state_was_written_is_seen_whatever_the_clock_of_its_disk_says(tmp_path):
    file = tmp_path / "model_resume.pt"
    assert command_line.written_at(file) is None
    file.write_text("x")
    os.utime(file, (1, 1))
    before = command_line.written_at(file)
    (tmp_path / "new").write_text("y")
    os.utime(tmp_path / "new", (1, 1))
    os.replace(tmp_path / "new", file)
    assert before is not None and command_line.written_at(file) not in (None, before)
