"""What travels is data: nothing that is planted in an adapter, a record, metadata, a dataset or a resume file runs."""

from __future__ import annotations

import copy
import json
import shutil

import monai.bundle
import pytest
import torch
from bundle_runner import ROOT, SMALL, run, volumes, write_json
from monai.bundle import ConfigParser
from safetensors import safe_open
from safetensors.torch import save_file

from sam_monai import InputError
from sam_monai.__main__ import main
from sam_monai.bundle import folder as bundles
from sam_monai.bundle import keys
from sam_monai.errors import told
from sam_monai.inference import pipeline
from sam_monai.prompts.monai_label import clicks_of_request

CANARY = "canary"
RUNS = f"__import__('pathlib').Path('{CANARY}').touch()"
PLANTS = [
    {"_target_": "os.system", "command": f"touch {CANARY}"},
    {"_target_": "os.system", "_requires_": f"${RUNS}", "_disabled_": f"${RUNS}", "command": f"touch {CANARY}"},
    {"_mode_": "callable", "_target_": "os.mkdir", "_args_": [CANARY]},
    [{"_target_": "os.system", "command": f"touch {CANARY}"}],
    f"${RUNS}",
    [f"${RUNS}"],
    f" ${RUNS}",
    f"@{CANARY}",
    "%planted.json#a",
    "$import planted",
    f"a @{CANARY}#b",
    f"_{CANARY}_",
]
FILE = {"planted.py": f"open('{CANARY}', 'w')", "planted.json": json.dumps({"a": f"${RUNS}"})}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    volumes(folder / "data")
    where = {"dataset_dir": f"{folder}/data", "ckpt_dir": f"{folder}/models", "output_dir": f"{folder}/output"}
    run("ptsam", "train", **where, **SMALL | {"epochs": 1})
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with files that planted values name; afterwards nothing has run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, content in FILE.items():
        (tmp_path / name).write_text(content)
    yield tmp_path
    assert not (tmp_path / CANARY).exists()


def record_of(path) -> dict:
    return json.loads(bytes(torch.load(path, weights_only=True)["identity"].tolist()))


def write(path, record: dict, training=None) -> None:
    """Both files of an adapter with a record that our own writer would refuse."""
    state = torch.load(path, weights_only=True)
    data = json.dumps(record).encode().ljust(len(state["identity"]))
    state["identity"] = torch.frombuffer(bytearray(data), dtype=torch.uint8).clone()
    torch.save(state, path)
    header = {"format": "pt", "identity": json.dumps(record)}
    header |= {} if training is None else {"training": json.dumps(training)}
    save_file(state, path.with_suffix(".safetensors"), header)


def places(value, path=()):
    """Every place inside: of a key, of an item, and one that is new."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))
    if isinstance(value, dict):
        yield (*path, "train")
        yield (*path, "_target_")


def planted(value, path, plant):
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = plant
    return changed


def answers(*command: str) -> bool:
    """Whether a command did its work; it never ends in anything but a line."""
    return main(list(command)) == 0


def resolve(bundle) -> None:
    """What MONAI makes of a bundle's configurations, short of data and networks."""
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(bundle / f"configs/{name}.json")
        parser.read_meta(bundle / "configs/metadata.json")
        parser["dataset_dir"] = None
        parser["plan"] = {
            "scale": "whole",
            "spacing": None,
            "image_size": 64,
            "batch_size": 1,
            "epochs": 1,
            "val_interval": 1,
            "mirror": "none",
            "checkpointing": False,
        }
        for key in ("record", *keys.KEYS):
            if key in parser:
                parser.get_parsed_content(key)


def test_no_field_of_a_record_runs(trained, here):
    source = here / "models/model.pt"
    shutil.copytree(trained / "models", here / "models")
    clean = record_of(source)
    made = 0
    for number, path in enumerate(places(clean)):
        for plant in PLANTS:
            write(source, planted(clean, path, plant))
            answers("show", str(source))
            output = here / f"mine{number}"
            if answers("package", str(ROOT / "bundles/ptsam"), str(output), "--adapter", str(source)):
                made += 1
                resolve(output)
                shutil.rmtree(output)
            assert not (here / CANARY).exists(), (path, plant)
    write(source, clean)
    assert answers("package", str(ROOT / "bundles/ptsam"), str(here / "mine"), "--adapter", str(source))
    resolve(here / "mine")


@pytest.mark.parametrize("command", ["verify", "merge", "export"])
def test_no_command_runs_what_a_record_holds(command, trained, here):
    source = here / "models/model.pt"
    shutil.copytree(trained / "models", here / "models")
    clean = record_of(source)
    paths = [("backbone",), ("image_size",), ("tokens",), ("labels", 0), ("preprocessing", "spacing")]
    for path in paths[: 3 if command == "export" else None]:  # an export takes long where it is not refused
        for plant in (PLANTS[0], PLANTS[4], PLANTS[9]):
            write(source, planted(clean, path, plant))
            answers(command, str(source), *(["out.onnx"] if command != "verify" else []))


def test_no_field_of_a_header_runs(trained, here):
    source = here / "models/model.pt"
    shutil.copytree(trained / "models", here / "models")
    clean = record_of(source)
    with safe_open(source.with_suffix(".safetensors"), "pt") as file:
        training = json.loads(file.metadata()["training"])
    for path in places(training):
        for plant in PLANTS:
            write(source, clean, planted(training, path, plant))
            answers("show", str(source.with_suffix(".safetensors")))
            answers("package", str(ROOT / "bundles/ptsam"), "mine", "--adapter", str(source))
            shutil.rmtree("mine", ignore_errors=True)
    write(source, clean, training)
    assert answers("package", str(ROOT / "bundles/ptsam"), "mine", "--adapter", str(source))


def test_no_field_of_metadata_reaches_a_configuration(here):
    bundle = shutil.copytree(ROOT / "bundles/ptsam", here / "bundle", ignore=shutil.ignore_patterns("models", "output"))
    file = bundle / "configs/metadata.json"
    clean = json.loads(file.read_text())
    paths = [p for p in places(clean) if p[0] in ("adapter", "network_data_format")]
    for path in paths:
        for plant in PLANTS:
            file.write_text(json.dumps(planted(clean, path, plant)))
            try:
                record = bundles.record(bundle, "none.pt")
                assert PLANTS[0] not in record.values() and f"${RUNS}" not in json.dumps(record)
            except InputError as error:
                assert str(file) in str(error)


def test_no_field_of_a_dataset_runs_in_training_evaluation_or_inference(trained, here):
    data = shutil.copytree(trained / "data", here / "data")
    clean = json.loads((data / "dataset.json").read_text())
    paths = [("labels", "1"), ("name",), ("modality", "0"), ("training", 0, "image"), ("training", 0, "label"),
             ("training", 0, "_target_"), ("validation", 0, "fold"), ("test", 0), ("_target_",)]  # fmt: skip
    for path in paths:
        for plant in (PLANTS[0], PLANTS[4]):
            write_json(data, **clean)
            (data / "dataset.json").write_text(json.dumps(planted(clean, path, plant)))
            for configs in (("train",), ("train", "evaluate"), ("inference",)):
                where = {"adapter": f"{trained}/models/model.pt"}
                if configs[0] == "train":  # SMALL leaves nothing to plan by timing steps
                    where = SMALL | {"ckpt_dir": f"{trained}/models"}
                files = [str(ROOT / f"bundles/ptsam/configs/{name}.json") for name in configs]
                kind = "infer" if configs[0] == "inference" else "train"
                workflow = monai.bundle.ConfigWorkflow(files, workflow_type=kind, logging_file=False,
                                                       dataset_dir=str(data), output_dir="out", **where)  # fmt: skip
                try:
                    workflow.initialize()
                    workflow.parser.get_parsed_content("dataset" if kind == "infer" else "train#dataset#data")
                    workflow.parser.get_parsed_content("network_def")
                except (RuntimeError, InputError) as error:
                    assert told(error), error
                assert not (here / CANARY).exists(), (path, plant)


@pytest.mark.parametrize("what", ["network", "optimizer", "epoch", "history", "lr_scheduler"])
def test_no_field_of_a_resume_file_runs(what, trained, here):
    models = shutil.copytree(trained / "models", here / "models")
    state = torch.load(models / "model_resume.pt", weights_only=True)
    where = {"dataset_dir": f"{trained}/data", "ckpt_dir": str(models), "output_dir": "out", "resume": True}
    torch.save(state | {what: PLANTS[1]}, models / "model_resume.pt")
    with pytest.raises(Exception):  # noqa: B017 - what it says is the concern of those who resume
        run("ptsam", "train", **where, **SMALL)


@pytest.mark.parametrize("plant", [PLANTS[0], PLANTS[4]])
def test_no_field_of_a_manifest_runs(plant, trained, here):
    fields = ("image", "made by", "error", "state", "mask", "voxels", "millilitres", "seconds", "_target_")
    (here / "images").mkdir()
    for field in fields:
        shutil.copy(trained / "data/images/d.nii.gz", here / f"images/{field.replace(' ', '')}.nii.gz")
    where = {"dataset_dir": "images", "adapter": f"{trained}/models/model.pt", "output_dir": "out", "pictures": 0}
    run("ptsam", "inference", **where)
    for field in fields:
        file = here / f"out/manifest/{field.replace(' ', '')}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {field: plant}))
    lists = list((here / "out/written").glob("*.jsonl"))
    for file in lists:
        file.write_text(json.dumps({"file": plant, "case": plant, "sha256": plant}) + "\n" + file.read_text())
    assert lists
    try:
        run("ptsam", "inference", **where)
    except (RuntimeError, InputError) as error:
        assert told(error), error


def test_no_field_of_a_server_request_runs(trained, here):
    prepare = pipeline.preprocessing((), record_of(trained / "models/model.pt")["preprocessing"])
    request = {"image": f"{trained}/data/images/d.nii.gz", "foreground": [[1, 2, 3]]}
    prepare(dict(request))
    keys_ = ("image", "foreground", "background", "scribbles", "lasso", "label", "device", "model", "_target_")
    for plant in PLANTS:
        for planted_ in ({key: plant} for key in keys_):
            try:
                clicks_of_request(prepare(request | planted_)["image"])
            except (RuntimeError, InputError) as error:
                assert told(error), (planted_, error)
            assert not (here / CANARY).exists(), planted_


@pytest.mark.parametrize("plant", [PLANTS[0], PLANTS[4], PLANTS[8]])
def test_no_command_runs_what_lies_in_a_folder_that_it_reads(plant, trained, here, capsys):
    models = shutil.copytree(trained / "models", here / "models")
    record = record_of(models / "model.pt")
    for key in ("labels", "method", "backbone"):
        write(models / "model.pt", record | {key: [plant] if key == "labels" else plant})
        answers("adapters", str(here))
    for one in ("a", "b"):
        shutil.copytree(trained / "output", here / one)
        text = plant if isinstance(plant, str) else json.dumps(plant)
        rows = (here / one / "cases.csv").read_text().replace("bright", '"' + text.replace('"', '""') + '"')
        (here / one / "cases.csv").write_text(rows)
        for about in (here / one).glob("*.json"):
            about.write_text(json.dumps({**json.loads(about.read_text()), "images": plant, "unit": plant}))
    answers("compare", "a", "b")
    data = shutil.copytree(trained / "data", here / "data")
    clean = json.loads((data / "dataset.json").read_text())
    for path in [("labels", "1"), ("modality", "0"), ("training", 0, "image"), ("channel_names",)]:
        (data / "dataset.json").write_text(json.dumps(planted(clean, path, plant)))
        answers("dataset", "data", "--output", "written")
        if path[0] == "labels":  # else it plans, which takes long
            answers("plan", "data", "--steps", "1")
    assert "Traceback" not in capsys.readouterr().err
