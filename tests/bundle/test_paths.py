"""The folder that was named is the folder that is used, whatever Python or MONAI would make of its name."""

from __future__ import annotations

import os
import subprocess
import sys

import fire
import pytest
from bundle_runner import ROOT, volumes
from monai.bundle import ConfigParser, ConfigWorkflow
from monai_command import FILES, begun, config_files

from sam_monai.bundle.command_line import arguments
from sam_monai.bundle.keys import PATHS
from sam_monai.bundle.typed import literal
from sam_monai.data import read_dataset

NAMES = ["2024_05_17", "20240517", "scans#2", "a space", "at@sign", "seed@seed", "100%", "cash$", "it's", 'a"b', '"q"',
         "[a]", "[1, 2]", "a,b", "(a)", "{a}", "{a: b}", "ünïcode", "\ufb01le", "日本", "0012", "1e5", "True", "0x10",
         "a::b", "a@#b", "a%#b", "~x", "a=b", "...", "b'x'", "back\\slash", "a\\#b", "-1", "1-2", "#",
         "a#", "' '", "nan", "n" * 250]  # fmt: skip
EVALUATED = ["$x", "@x", "None", "False"]  # meant as what they are to MONAI, unless there is a file of that name


def keys_of(workflow) -> list[str]:
    return [key for key in PATHS if key in workflow.parser]


def words(name: str, config: str, bundle: str) -> list[str]:
    merged = ConfigParser.load_config_files(config_files(bundle, *FILES[config]))
    return [f"--{key}={name}" for key in PATHS if key in merged]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", ["train", "inference"])
def test_a_typed_path_is_taken_as_it_is(name, config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    workflow = begun(monkeypatch, "ssam", config, *words(name, config, "ssam"))
    assert len(keys_of(workflow)) > 4
    assert {workflow.parser.get_parsed_content(key) for key in keys_of(workflow)} == {name}


@pytest.mark.parametrize("bundle", ["ssam", "ptsam", "medsa"])
@pytest.mark.parametrize("config", list(FILES))
def test_every_bundle_and_overlay_takes_paths_as_they_are(bundle, config, monkeypatch):
    for name in ("2024_05_17", "scans#2"):
        workflow = begun(monkeypatch, bundle, config, *words(name, config, bundle))
        assert {workflow.parser.get_parsed_content(key) for key in keys_of(workflow)} == {name}


@pytest.mark.parametrize("name", EVALUATED)
def test_what_monai_would_compute_is_a_path_where_there_is_one(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    workflow = begun(monkeypatch, "ptsam", "train", *words(name, "train", "ptsam"))
    assert {workflow.parser.get_parsed_content(key) for key in keys_of(workflow)} == {name}


@pytest.mark.parametrize("name", ["$results", "@results"])
def test_an_expression_that_fails_says_how_a_folder_of_that_name_is_written(name, monkeypatch):
    with pytest.raises(RuntimeError) as error:
        begun(monkeypatch, "ssam", "train", f"--output_dir={name}")
    assert f"written ./{name}" in str(error.value.__cause__)
    workflow = begun(monkeypatch, "ssam", "train", f"--output_dir=./{name}", "--ckpt_dir=$@output_dir + '/models'")
    assert workflow.parser.get_parsed_content("ckpt_dir") == f"./{name}/models"


def test_none_is_null_and_false_is_false_where_the_key_may_be(monkeypatch):
    workflow = begun(monkeypatch, "ptsam", "train", "--checkpoint", "None", "--embedding_cache", "False")
    assert workflow.parser["checkpoint"] is None and workflow.parser["embedding_cache"] is False
    assert begun(monkeypatch, "ptsam", "train", "--output_dir", "None").parser["output_dir"] == "None"


@pytest.mark.parametrize("name", NAMES)
def test_a_program_gives_paths_as_they_are(name, tmp_path):
    if "@#" in name or "%#" in name:
        pytest.skip("MONAI alters relative references before a bundle is asked")
    workflow = ConfigWorkflow(config_files("ssam", "inference"), workflow_type="infer", logging_file=False,
                              dataset_dir=f"/data/{name}", adapter=f"{name}/model.pt")  # fmt: skip
    workflow.initialize()
    name = name.replace("::", "#")  # MONAI does not tell them apart
    assert workflow.parser.get_parsed_content("dataset_dir") == f"/data/{name}"
    assert workflow.parser.get_parsed_content("adapter") == f"{name}/model.pt"


def test_a_program_is_told_where_two_folders_are_one_to_monai(tmp_path):
    for name in ("a#b", "a::b"):
        (tmp_path / name).mkdir()
    files = config_files("ssam", "inference")
    with pytest.raises(RuntimeError) as error:
        ConfigWorkflow(files, logging_file=False, dataset_dir=f"{tmp_path}/a#b").initialize()
    assert "pathlib.Path" in str(error.value.__cause__)
    workflow = ConfigWorkflow(files, logging_file=False, dataset_dir=tmp_path / "a::b")
    workflow.initialize()
    assert workflow.parser.get_parsed_content("dataset_dir") == tmp_path / "a::b"


@pytest.mark.parametrize("name", [*NAMES, *EVALUATED, "%x", "a\nb"])
def test_a_literal_is_the_text_itself(name):
    parser = ConfigParser({"path": literal(name), "twice": "$@path + @path"})
    assert parser.get_parsed_content("path") == name and parser.get_parsed_content("twice") == 2 * name


@pytest.mark.parametrize(
    "line",
    ["run --a 1 --b", "run --a=1=2 --b --c 3", "run x -a 1 --b -5", "run --key-one 1 -two=2", "run --a 1 --a 2", "--a",
     "run --x#y 3 --+z 4"],
)  # fmt: skip
def test_a_command_line_is_read_as_fire_reads_it(line, monkeypatch):
    seen = []
    monkeypatch.setattr(fire.parser, "DefaultParseValue", lambda value: value)
    fire.Fire(lambda *others, **given: seen.append((given, list(others))), command=line.split())
    assert arguments(line.split()) == seen[0]


@pytest.mark.slow
def test_a_training_reads_the_very_folder(tmp_path):
    names = {"2024_05_17": "dated", "20240517": "number", "scans": "plain", "scans#2": "second"}
    for name, label in names.items():
        volumes(tmp_path / name, names=(label,))
    for name, output in (("2024_05_17", "1_0"), ("scans#2", "2_0")):
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", *config_files("ssam", "train")]
        done = subprocess.run(
            [*command, "--dataset_dir", name, "--ckpt_dir", f"out#{name}", "--output_dir", output, "--quick", "True"],
            cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert (tmp_path / f"out#{name}/quick/model.pt").is_file() and (tmp_path / output / "cases.csv").is_file()
        assert names[name] in (tmp_path / output / "cases.csv").read_text()


def test_a_path_from_home_is_one_at_every_key_and_a_name_with_a_tilde_is_a_name(monkeypatch, tmp_path):
    """A shell leaves ``~/`` as it is behind ``--key=``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    workflow = begun(monkeypatch, "ssam", "train", *words("~/run 1", "train", "ssam"))
    for key in keys_of(workflow):
        assert workflow.parser.get_parsed_content(key) == f"{tmp_path}/run 1"
    volumes(tmp_path / "~root")
    assert read_dataset("~root").folder == tmp_path / "~root" == read_dataset("~/~root").folder
