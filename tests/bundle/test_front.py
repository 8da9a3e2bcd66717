"""sam-monai train, segment and evaluate: the line that they stand for, and mistakes answered at once."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import fire
import monai.bundle
import pytest
from bundle_runner import ROOT, volumes
from monai_command import BEGIN

from sam_monai.__main__ import COMMANDS, main
from sam_monai.backbones.weights import KNOWN_WEIGHTS
from sam_monai.bundle import command_line, front, keys, shipped
from sam_monai.data import slicing
from sam_monai.inference import openvino_encoder
from sam_monai.networks import fields

PYTHON = [sys.executable, "-m", "sam_monai"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
FOLDERS = ["2024_05_17", "scans#2", "a space", "[a]", "a,b", "it's", 'a"b', "$x", "@x", "%x", "%x.json", "None",
           "False", "a=b", "日本", "True", "1e5", "a::b", "..."]  # fmt: skip


@pytest.fixture
def ran(monkeypatch):
    """The words that MONAI's program would have been started with."""
    words = []
    monkeypatch.setattr(front, "run", words.extend)
    monkeypatch.setattr(front, "refuse_missing_adapter", lambda *_: None)
    return words


def workflow(monkeypatch, words):
    """What MONAI makes of them, up to and with the first step of ``initialize``."""
    words = [*words, *BEGIN]
    monkeypatch.setattr(sys, "argv", [str(Path(monai.bundle.__file__).with_name("__main__.py")), *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back afterwards
    monkeypatch.setattr(command_line, "stop_in_a_line", lambda **_: None)
    made = []
    fire.Fire({"run": lambda **given: made.append(monai.bundle.create_workflow(**given))}, command=words)
    return made[0]


def copied(folder: Path, bundle: str = "ssam") -> Path:
    return shutil.copytree(ROOT / "bundles" / bundle, folder, ignore=shutil.ignore_patterns("models", "output"))


@pytest.mark.parametrize(
    "words",
    [["segment", "."], ["evaluate", ".", "--ckpt_dir", "none"], ["segment", "--adapter", "none.pt"],
     ["segment", "--bundle_root", "none"]],
)  # fmt: skip
def test_without_an_adapter_nothing_is_begun(words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(front, "run", lambda words: None)
    assert main([*words, "--bundle", str(copied(tmp_path / "b"))]) == 1
    said = capsys.readouterr().err.strip()
    assert re.fullmatch(r"error: there is no trained adapter at \S+\.pt: train one by `sam-monai train FOLDER`.*", said)
    (tmp_path / "a.pt").touch()
    assert main(["segment", ".", "--adapter", "a.pt"]) == 0
    (tmp_path / "b/models").mkdir()
    assert main(["segment", ".", "--adapter", "b"]) == 1 and "b/models/model.pt: train one" in capsys.readouterr().err
    (tmp_path / "a.pt").rename(tmp_path / "b/models/model.pt")
    assert main(["segment", ".", "--adapter", "b"]) == 0


def test_paths_from_home_are_known_to_the_command_itself(ran, monkeypatch, tmp_path):
    """A shell leaves ``~/`` as it is behind ``--key=``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    bundle = copied(tmp_path / "b")
    (bundle / "models").mkdir()
    (bundle / "models/model.pt").touch()
    monkeypatch.undo()
    monkeypatch.setattr(front, "run", ran.extend)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["segment", "~/b/docs", "--bundle=~/b", "--adapter=~/b", "--output_dir=~/o"]) == 0
    assert ran[ran.index("--adapter") + 1] == f"{tmp_path}/b/models/model.pt"
    assert ran[ran.index("--output_dir") + 1] == f"{tmp_path}/o"
    assert ran[ran.index("--dataset_dir") + 1] == f"{tmp_path}/b/docs"


def test_what_is_no_command_is_told_what_was_meant(capsys):
    assert main(["trian"]) == 1 and "did you mean train?" in capsys.readouterr().err
    assert main(["qqq"]) == 1 and "lists all of them" in capsys.readouterr().err
    assert main(["--version"]) == 0 and "monai" in capsys.readouterr().out
    assert main(["help"]) == 0 and "segment" in capsys.readouterr().out
    assert main(["help", "train"]) == 0 and "--minutes" in capsys.readouterr().out


# -- the line ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command, config",
    [("train", "bundles/medsa/configs/train.json"), ("segment", "bundles/medsa/configs/inference.json"),
     ("evaluate", "['bundles/medsa/configs/train.json', 'bundles/medsa/configs/evaluate.json']")],
)  # fmt: skip
def test_a_command_stands_for_a_line_of_monais_program(command, config, ran, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = [command, "bundles", "--bundle", "medsa", "--image_size", "64", "--amp=False", "--labels", "['a b', 'c']"]
    assert main(words) == 0
    assert ran == ["run", "--config_file", config, "--dataset_dir", "bundles", "--image_size", "64", "--amp", "False",
                   "--labels", "['a b', 'c']"]  # fmt: skip


def test_the_line_is_printed_as_it_can_be_typed(monkeypatch, capsys):
    started = []
    monkeypatch.setattr(front.runpy, "run_module", lambda name, **_: started.append([name, *sys.argv[1:]]))
    monkeypatch.setattr(sys, "argv", ["sam-monai"])
    assert main(["train", "--labels", "['a b']"]) == 0
    line = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert line[:3] == ["python", "-m", "monai.bundle"] and started == [line[2:]]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("command", ["train", "segment", "evaluate"])
def test_the_named_folder_and_the_named_bundle_are_used(name, command, ran, monkeypatch, tmp_path):
    """Whatever fire or MONAI would make of their names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    bundle = copied(tmp_path / f"bundles of {name}" / name)
    assert main([command, name, f"--bundle={bundle.relative_to(tmp_path)}", f"--output_dir={name}"]) == 0
    made = workflow(monkeypatch, ran)
    for key in ("dataset_dir", "output_dir"):
        assert os.path.samefile(made.parser.get_parsed_content(key), name)
    assert os.path.samefile(made.config_root_path, bundle / "configs")


def test_a_folder_for_results_need_not_be_there(ran, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["train", ".", "--output_dir", "%new", "--ckpt_dir", "$@output_dir + '/models'"]) == 0
    parser = workflow(monkeypatch, ran).parser
    assert [parser.get_parsed_content(key) for key in ("output_dir", "ckpt_dir")] == ["./%new", "./%new/models"]


def test_a_bundle_whose_folder_cannot_be_used_keeps_nothing_there(ran, monkeypatch, tmp_path, capsys):
    """That of an installed package, and one that cannot be written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "site/sam_monai")
    copied(tmp_path / "site/sam_monai/_bundles/ssam")
    places = {
        "train": {"ckpt_dir": "ssam/models", "output_dir": "ssam/output"},
        "segment": {"adapter": "ssam/models/model.pt", "output_dir": "ssam/output/inference"},
        "evaluate": {"ckpt_dir": "ssam/models", "output_dir": "ssam/output/evaluation"},
    }
    for command, expected in places.items():
        ran.clear()
        assert main([command, "site"]) == 0
        parser = workflow(monkeypatch, ran).parser
        assert {key: parser.get_parsed_content(key) for key in expected} == expected
        said = capsys.readouterr().out
        assert all(f"{key} is {place}" in said for key, place in expected.items())
    for typed, expected in {
        ("--ckpt_dir", "mine"): {"ckpt_dir": "mine", "output_dir": "ssam/output"},
        ("--quick", "True"): {"ckpt_dir": "ssam/models", "output_dir": "ssam/output/quick"},
        ("--bundle_root", str(ROOT / "bundles/ssam")): {"ckpt_dir": str(ROOT / "bundles/ssam/models")},
    }.items():
        ran.clear()
        assert main(["train", "site", *typed]) == 0
        parser = workflow(monkeypatch, ran).parser
        assert {key: parser.get_parsed_content(key) for key in expected} == expected
    other = copied(tmp_path / "read_only")
    for writable in (True, False):
        ran.clear()
        monkeypatch.setattr(front.os, "access", lambda path, mode, answer=writable: answer)
        assert main(["train", "site", "--bundle", str(other)]) == 0
        assert ("--ckpt_dir" in ran) is not writable


@pytest.mark.parametrize("command", ["segment", "evaluate"])
def test_a_bundle_that_may_only_be_read_is_used_with_its_own_adapter(command, ran, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shared = copied(tmp_path / "share/liver")
    for holds in (shared, tmp_path / "liver"):  # the latter is another one, trained here
        (holds / "models").mkdir(parents=True)
        (holds / "models/model.pt").write_text("x")
    monkeypatch.setattr(front.os, "access", lambda path, mode: False)
    assert main([command, ".", "--bundle", str(shared)]) == 0
    assert ran[ran.index("--output_dir") + 1].startswith("liver/output")
    assert "--adapter" not in ran and "--ckpt_dir" not in ran  # so it is that of the configuration's own folder


def test_of_trust_is_spoken_in_one_line_and_where_it_is_a_question(ran, tmp_path, capsys):
    copied(tmp_path / "mine")
    for bundle, said in (("ssam", 0), (str(tmp_path / "mine"), 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert main(["segment", str(tmp_path), "--bundle", bundle]) == 0
            monai.bundle.ConfigWorkflow(ran[2], logging_file=False)
        assert capsys.readouterr().out.count("use only bundles that you trust") == said and not caught
        ran.clear()
        main(["plan", str(tmp_path), "--bundle", bundle])  # which runs the configuration too
        assert capsys.readouterr().out.count("use only bundles that you trust") == said


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, said",
    [
        (["train", ".", "--imag_size", "3"], "unknown key --imag_size: did you mean --image_size?"),
        (["segment", ".", "--epochs", "3"], "unknown key --epochs here: it is a key of sam-monai train"),
        (["train", ".", "--draws", "0"], "it is a key of the bundle medsa: add --bundle medsa"),
        (["plan", ".", "--draws", "0"], "it is a key of the bundle medsa: add --bundle medsa"),
        (["train", ".", "--train#trainer#max_epochz#x", "3"], "unknown key --train#trainer#max_epochz#x"),
        (["train", ".", "--epochs", "abc"], "the key epochs is 'abc'; give a whole number from 1 on"),
        (["train", ".", "--spacing", "1,1,0"], "the key spacing is (1, 1, 0)"),
        (["train", ".", "--output_dir", ""], "the key output_dir is ''"),
        (["train", ".", "--amp"], None),
        (["train", ".", "--epochs", "%file.json"], "MONAI would read from another file"),
        (["train", "nowhere"], "nowhere: no such file or folder"),
        (["train", "%nowhere"], "%nowhere: no such file or folder"),
        (["train", "$nowhere"], "$nowhere: no such file or folder"),
        (["train", "b.ZIP"], "b.ZIP: unpack it first"), (["segment", ".", "--bundle", "b.ZIP"], "unpack it first"),
        (["plan", "b.ZIP"], "b.ZIP: unpack it first"),
        (["segment", "mine"], "mine is a bundle and not a folder of images or of DICOM studies, or one file: "
         "sam-monai segment FOLDER --bundle mine"),
        (["train", ".", "two"], "'two' stands alone"), (["train", "two", "."], "two: no such"),
        (["train", ".", "--dataset_dir", "."], "two folders are given"), (["train", ".", "--", "--epochs", "3"], "--"),
        (["train", ".", "--config_file", "x.json"], "train reads the configuration of --bundle"),
        (["train", ".", "--bundle"], "--bundle needs a value"), (["train", "--epochs"], "--epochs needs a value"),
        (["segment", ".", "--adapter", "--quick", "True"], "--adapter needs a value"),
        (["train", ".", "--bundle", "unet"], "medsa, ptsam, ssam"),
        (["train", ".", "--val_intervals", "1"], "--val_interval?"),
        (["train", ".", "-minutes", "6"], "keys begin with two dashes: --minutes"),
        (["train", ".", "--args_file", "none.json"], "none.json: cannot be read (No such file"),
        (["train", ".", "--args_file", "broken.json"], "broken.json: cannot be read"),
        (["train", ".", "--args_file", "broken.yaml"], "broken.yaml: cannot be read"),
        (["train", ".", "--args_file", "list.yaml"], "list.yaml: holds no object"),
        (["train", ".", "--args_file", "args.json"], "unknown key --epochz: did you mean --epochs?"),
        (["train", ".", "--args_file", "values.yaml"], "the key epochs is 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(words, said, ran, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    copied(tmp_path / "mine")
    (tmp_path / "b.ZIP").touch()
    for name, text in {"broken.json": "{", "broken.yaml": "a: [", "list.yaml": "- 1", "args.json": '{"epochz": 1}',
                       "values.yaml": "epochs: 0"}.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    assert main(words) == (0 if said is None else 1)
    line = capsys.readouterr().err.strip()
    assert (line == "") if said is None else (line.startswith("error: ") and said in line and "\n" not in line)
    assert bool(ran) is (said is None)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"a": 1}', b"\xff", "[" * 100_000, None])
@pytest.mark.parametrize("name", ["train.json", "evaluate.json", "metadata.json"])
def test_a_bundles_broken_file_is_named(content, name, ran, tmp_path, capsys):
    file = copied(tmp_path / "mine") / "configs" / name
    file.unlink() if content is None else file.write_bytes(content if isinstance(content, bytes) else content.encode())
    if (name, content) == ("evaluate.json", '{"a": 1}'):
        return  # an overlay may hold anything
    assert main(["evaluate", str(tmp_path), "--bundle", str(tmp_path / "mine")]) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith(f"error: {file}") and "\n" not in line and not ran


@pytest.mark.parametrize(
    "words",
    [[], ["--help"], ["train", "--help"], ["segment", "-h"], ["train", ".", "--imag_size", "3"], ["weights"],
     ["evaluate", "nowhere"], ["train", ".", "--epochs", "abc"], ["keys", "ssam"], ["new", "ssam", "."]],
)  # fmt: skip
def test_an_answer_does_not_wait_for_torch(words, tmp_path):
    (tmp_path / "file").touch()
    for heavy in ("torch", "monai", "numpy"):
        (tmp_path / "heavy" / heavy).mkdir(parents=True)
        (tmp_path / "heavy" / heavy / "__init__.py").write_text(f"raise SystemExit('{heavy} is imported')")
    environment = ENVIRONMENT | {"PYTHONPATH": f"{tmp_path / 'heavy'}:{ROOT}"}
    done = subprocess.run([*PYTHON, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "is imported" not in done.stderr and "Traceback" not in done.stderr
    assert done.returncode == int("error: " in done.stderr)


def test_an_import_goes_without_a_package_that_is_found_again_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with front.without("wave"), pytest.raises(ImportError):
        importlib.import_module("wave")
    module = importlib.import_module("wave")
    with front.without("wave"):
        assert importlib.import_module("wave") is module


def test_without_a_command_each_is_a_line(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    for name in (*front.FRONTS, *(command.__name__ for command in COMMANDS)):
        assert len([line for line in said.splitlines() if line.split()[:1] == [name] and len(line.split()) > 3]) == 1


def test_a_start_is_told_in_our_words_alone(tmp_path):
    volumes(tmp_path / "scans")
    words = ["plan", "scans", "--steps", "2"]
    done = subprocess.run([*PYTHON, *words], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    bars = [line for line in re.split(r"[\r\n]+", done.stderr) if line and "checking cases" not in line]
    assert done.stdout.startswith("plan for scans") and bars == []


def test_help_lists_the_keys_of_the_bundle(ran, capsys):
    assert main(["train", "--bundle", "ptsam", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--tokens  (default: 8)" in said and "--ratio" not in said and not ran
    heads = [line for line in said.splitlines()[5:] if line.isupper()]
    assert heads == ["DATA", "TIME", "NETWORK", "SCALE", "TRAINING", "MASKS", "DEVICE AND FOLDERS"]
    assert main(["segment", "--help"]) == 0
    said = capsys.readouterr().out
    assert "TIME" not in said and said.index("RESULTS") < said.index("--mask_format")
    assert "--image_size  (default: as trained)" in said


def test_names_that_are_written_twice_are_the_same():
    """Where the command line must not wait for what imports torch."""
    assert set(fields.PLANES) == set(slicing.PLANES) and keys.ENGINES == openvino_encoder.ENGINES
    options = set(inspect.signature(monai.bundle.run).parameters) - {"override"}
    assert options == {*front.OPTIONS, "config_file"} and KNOWN_WEIGHTS
    for bundle in shipped.names():
        for name, one in front.FRONTS.items():
            files = [ROOT / f"bundles/{bundle}/configs/{config}.json" for config in one.configs]
            assert front.merged(files).keys() == monai.bundle.ConfigParser.load_config_files(files).keys(), name


# -- all of it ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_new_bundle_is_trained_segments_and_is_measured(tmp_path):
    volumes(tmp_path / "my scans")
    small = ["--quick", "True", "--ckpt_dir", "m", "--output_dir"]
    for words in (
        ["new", "ptsam", "my bundle"],
        ["train", "my scans", "--bundle", "my bundle", *small, "trained"],
        ["segment", "my scans", "--bundle", "my bundle", "--adapter", "m/quick/model.pt", "--output_dir", "masks"],
        ["evaluate", "my scans", "--bundle", "my bundle", *small, "measured"],
    ):
        done = subprocess.run([*PYTHON, *words], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        told = done.stdout + done.stderr
        assert not [word for word in (" - INFO - ", "Warning", "nvImageCodec") if word in told], told
    assert (tmp_path / "masks/d_seg.nii.gz").is_file() and (tmp_path / "measured/cases.csv").is_file()
    assert json.loads((tmp_path / "my bundle/configs/train.json").read_text())
