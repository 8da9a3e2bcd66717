"""A trained adapter as a bundle of its own: what the zoo checks, and training that a server continues."""

from __future__ import annotations

import json
import os
import shutil

import monai.bundle
import pytest
import torch
from bundle_runner import ROOT, SMALL, run, volumes

import sam_monai
from sam_monai import InputError
from sam_monai.__main__ import main
from sam_monai.bundle import folder as bundles
from sam_monai.bundle import package
from sam_monai.bundle.configuration import check_weights
from sam_monai.networks import adapter_files
from sam_monai.training.cases import content, known_cases
from sam_monai.training.checkpoints import Checkpoints
from sam_monai.training.handlers import is_due

METHODS = ("ssam", "ptsam", "medsa")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return volumes(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module", params=METHODS)
def packaged(request, data, tmp_path_factory):
    """A bundle made of an adapter trained for a moment, with settings that are not the default ones."""
    folder = tmp_path_factory.mktemp(request.param)
    where = {"dataset_dir": str(data), "ckpt_dir": f"{folder}/models", "output_dir": f"{folder}/output"}
    own = {"ptsam": {"tokens": 3}, "medsa": {"ratio": 0.125}}.get(request.param, {})
    run(request.param, "train", orientation="axial", **where, **own, **SMALL | {"epochs": 1})
    return package.package(ROOT / "bundles" / request.param, folder / "mine", folder / "models/model.pt")


def test_a_bundle_is_shown_by_its_folder_and_has_no_data_to_take_for_granted(packaged, capsys, monkeypatch, tmp_path):
    assert main(["show", str(packaged)]) == 0 and "bright" in capsys.readouterr().out
    assert main(["show", str(packaged / "models/model.pt")]) == 0
    monkeypatch.chdir(tmp_path)
    for command in ("segment", "train", "evaluate"):
        assert main([command, "--bundle", str(packaged)]) == 1
        assert "this bundle has no data of its own: give " in capsys.readouterr().err


def test_missing_weights_are_named_by_the_key_that_asks_for_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SAM_MONAI_CACHE", str(tmp_path / "empty"))
    asked = {"backbone": "lite_medsam", "checkpoint": None, "text_encoder": "minilm", "text_checkpoint": None}
    check_weights(monai.bundle.ConfigParser(asked))
    for key, name in {"backbone": "sam_vit_b", "text_encoder": "clip"}.items():
        with pytest.raises(InputError, match=rf"the weights {name}.* are not on this machine"):
            check_weights(monai.bundle.ConfigParser(asked | {key: name}))


def served(bundle, cases, validation, **overrides):
    """MONAI Label's way to train a bundle."""
    train = json.loads((bundle / "configs/train.json").read_text())
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(bundle / "models/model.pt"),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    monai.bundle.run(
        run_id="run",
        init_id=None,
        final_id=None,
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs/train.json"),
        **{
            "bundle_root": str(bundle),
            "train#trainer#max_epochs": 2,
            "train#dataset#data": cases,
            "validate#dataset#data": validation,
            "device": torch.device("cpu"),
            "train#handlers": [loader, *train["train"]["handlers"]],
            **overrides,
        },
    )


def case(data, name):
    return {"image": str(data / f"images/{name}.nii.gz"), "label": str(data / f"labels/{name}.nii.gz")}


def test_the_zoo_finds_nothing_wrong(packaged, capsys):
    before = sorted(packaged.rglob("*"))
    assert main(["verify_bundle", str(packaged)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and all(line.startswith("ok ") for line in lines)
    assert sorted(packaged.rglob("*")) == before


def test_the_package_is_about_its_adapter(packaged):
    metadata = bundles.read_metadata(packaged)
    train = json.loads((packaged / "configs/train.json").read_text())
    assert bundles.metadata_labels(metadata) == ["bright", "dark"] == train["labels"]
    assert "bright" in metadata["label_classes"] and metadata["adapter"]["image_size"] == 32 == train["image_size"]
    assert train["dataset_dir"] is None and train["orientation"] == "axial" and train["scale"] == "whole"
    record = bundles.record(packaged, packaged / "models/model.pt")
    own = set(train) & set(record)
    assert all(train[key] == record[key] for key in own - {"scale"}) and {"backbone", "depth_attention"} < own
    if record["method"] != "ssam":
        assert {"ptsam": "tokens", "medsa": "ratio"}[record["method"]] in own
    adapter_files.verify(packaged / "models/model.pt")
    assert adapter_files.read_training(packaged / "models/model.pt") is not None


def test_a_server_trains_the_very_network_on(packaged, data, tmp_path, monkeypatch):
    """One labelled case and none to validate with, from another working directory; what was learned is kept."""
    bundle = shutil.copytree(packaged, tmp_path / "served")
    monkeypatch.chdir(tmp_path)
    before = adapter_files.read_adapter(bundle / "models/model.pt")
    still = {"learning_rate": 0.0, "prompt_learning_rate": 0.0, "weight_decay": 0.0}
    served(bundle, [case(data, "d")], [], **still)
    assert not adapter_files.differences(before, adapter_files.read_adapter(bundle / "models/model.pt"))
    served(bundle, [case(data, "d")], [])
    adapter_files.verify(bundle / "models/model.pt")
    assert adapter_files.differences(before, adapter_files.read_adapter(bundle / "models/model.pt"))
    training = adapter_files.read_training(bundle / "models/model.pt")
    assert (training["epochs"], training["best_epoch"], training["validation_dice"]) == (2, 2, None)
    assert (training["training_cases"], training["validation_cases"]) == (1, 0)
    assert (bundle / "output/training_cases.txt").read_text() == "d.nii.gz\n"


@pytest.mark.parametrize("packaged", ["ptsam"], indirect=True)
class TestOfOneMethod:
    def test_an_adapter_that_is_trained_on_is_known_by_all_cases_that_it_has_seen(self, packaged, data, tmp_path):
        bundle = shutil.copytree(packaged, tmp_path / "served")
        adapter = bundle / "models/model.pt"
        first = known_cases(adapter)
        served(bundle, [case(data, "d")], [])
        second = known_cases(adapter)
        assert second[0] == first[0] | {content(case(data, "d")["image"])} and second[2] >= first[2] != set()
        served(bundle, [case(data, "d")], [])
        assert known_cases(adapter)[0] == second[0]

    def test_a_server_has_the_adapter_before_until_there_is_another(self, packaged, data, tmp_path, monkeypatch):
        """It would answer with an untrained network, and train one anew."""
        bundle, there, save = shutil.copytree(packaged, tmp_path / "served"), [], Checkpoints.save

        def watched(self, engine):
            save(self, engine)
            there.append((self.folder / "model.pt").is_file() and adapter_files.read_training(self.folder / "model.pt"))

        monkeypatch.setattr(Checkpoints, "save", watched)
        before = adapter_files.read_training(bundle / "models/model.pt")
        served(bundle, [case(data, "d")], [], **{"train#trainer#max_epochs": 3})
        assert there[:2] == [before, before] and there[2]["best_epoch"] == 3
        assert (next((bundle / "models").glob("replaced_*")) / "model.pt").is_file()

    def test_a_short_training_by_a_server_validates(self, packaged, data, tmp_path, capsys):
        bundle = shutil.copytree(packaged, tmp_path / "served")
        served(bundle, [case(data, "d")], [case(data, "c")])
        training = adapter_files.read_training(bundle / "models/model.pt")
        assert training["validation_cases"] == 1 and 0 <= training["validation_dice"] <= 1

    @pytest.mark.parametrize("epochs", [20, 400])
    def test_the_rate_of_a_servers_training_falls_to_its_end_and_it_is_validated_on_the_way(
        self, packaged, data, tmp_path, epochs
    ):
        bundle = shutil.copytree(packaged, tmp_path / "served")
        config = {"train#trainer#max_epochs": epochs, "train#dataset#data": [case(data, "d")], "epochs": None,
                  "validate#dataset#data": [case(data, "c")], "bundle_root": str(bundle)}  # fmt: skip
        workflow = monai.bundle.ConfigWorkflow(str(bundle / "configs/train.json"), logging_file=False, **config)
        workflow.initialize()
        schedule = workflow.parser.get_parsed_content("lr_scheduler").lr_lambdas[0]
        assert schedule(epochs - 1) < 0.02 < schedule(epochs // 2)
        interval = workflow.parser.get_parsed_content("train#interval")
        assert sum(is_due(interval, epoch, epochs) for epoch in range(1, epochs + 1)) == 6
        given = monai.bundle.ConfigWorkflow(
            str(bundle / "configs/train.json"), logging_file=False, **config | {"val_interval": 1}
        )
        given.initialize()
        assert given.parser.get_parsed_content("train#interval") == 1

    def test_names_are_taken_as_they_are(self, packaged, data, tmp_path):
        network = adapter_files.load_network(packaged / "models/model.pt")
        labels = ["tooth #11", "a @b"]
        other = type(network)("lite_medsam", labels=labels, image_size=32, preprocessing=network.preprocessing)
        adapter_files.write_adapter(other.state_dict(), tmp_path / "model.pt")
        bundle = package.package(packaged, tmp_path / "teeth", tmp_path / "model.pt")
        parser = monai.bundle.ConfigParser(monai.bundle.ConfigParser.load_config_file(f"{bundle}/configs/train.json"))
        assert parser.get_parsed_content("labels") == labels

    def test_it_is_found_from_within_its_configs(self, packaged, data, tmp_path, monkeypatch):
        monkeypatch.chdir(packaged / "configs")
        workflow = monai.bundle.ConfigWorkflow("train.json", logging_file=False, dataset_dir=str(data))

        def asked(self):
            return bundles.root("elsewhere")

        assert os.path.samefile(asked(workflow), packaged)

    def test_the_learning_rate_never_rises_again(self, packaged, data, tmp_path):
        """Where a server trains for longer than the schedule was made for."""
        bundle = shutil.copytree(packaged, tmp_path / "served")
        config = {"epochs": 2, "train#trainer#max_epochs": 4, "train#dataset#data": [case(data, "d")],
                  "validate#dataset#data": [], "bundle_root": str(bundle)}  # fmt: skip
        workflow = monai.bundle.ConfigWorkflow(str(bundle / "configs/train.json"), logging_file=False, **config)
        workflow.initialize()
        schedule = workflow.parser.get_parsed_content("lr_scheduler").lr_lambdas[0]
        rates = [schedule(epoch) for epoch in range(8)]
        assert rates == sorted(rates, reverse=True) and rates[2] > 0.1 and max(rates[4:]) < 1e-6

    def test_it_runs_from_its_folder_and_from_where_it_was_made(self, packaged, data, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        output = package.package(packaged, "m@de/bundle")
        for folder, files in ((tmp_path, "m@de/bundle/configs"), (tmp_path / output, "configs")):
            monkeypatch.chdir(folder)
            for name in ("train", "inference"):
                workflow = monai.bundle.ConfigWorkflow(
                    f"{files}/{name}.json", workflow_type=None, logging_file=False, dataset_dir=str(data)
                )
                workflow.initialize()
                assert (folder / workflow.parser.get_parsed_content("bundle_root") / "models/model.pt").is_file()

    def test_without_cases_it_says_what_to_give(self, packaged):
        config = str(packaged / "configs/train.json")
        with pytest.raises(InputError, match="no data of its own: give --dataset_dir"):
            initialised(config, bundle_root=str(packaged))

    def test_other_labels_than_its_own_are_refused_with_both(self, packaged, tmp_path):
        other = volumes(tmp_path / "data", names=("bright", "dim"))
        with pytest.raises(InputError, match=r"bright, dim.*bright, dark"):
            initialised(str(packaged / "configs/train.json"), bundle_root=str(packaged), dataset_dir=str(other))

    def test_every_problem_is_a_line(self, packaged, tmp_path, capsys):
        bundle = shutil.copytree(packaged, tmp_path / "broken")
        (bundle / "LICENSE").unlink()
        (bundle / "models/model.pt").unlink()
        for name, change in {
            "metadata": {"version": "9.9", "required_packages_version": {"nibabel": "99.0", "no_such_package": "1.0"}},
            "train": {"device": "$no_such_name"},
        }.items():
            file = bundle / f"configs/{name}.json"
            content = json.loads(file.read_text()) | change
            if name == "metadata":
                content["network_data_format"]["outputs"]["pred"]["num_channels"] = 7
            file.write_text(json.dumps(content))
        assert main(["verify_bundle", str(bundle)]) == 1
        said = capsys.readouterr()
        failed = [line for line in said.out.splitlines() if line.startswith("FAILED")]
        assert [line.split(":")[0].removeprefix("FAILED").strip() for line in failed] == [
            "documents", "metadata", "requirements", "network", "weights", "properties of train",
            "properties of train with evaluate",
        ]  # fmt: skip
        for what in ("LICENSE", "changelog", "nibabel 99.0", "no_such_package is not installed", "`7`", "no_such_name"):
            assert what in said.out
        assert said.err.startswith("error: ") and "7 of 8 checks" in said.err

    def test_a_folder_in_use_is_left_alone(self, packaged, tmp_path):
        (tmp_path / "kept").write_text("x")
        with pytest.raises(InputError, match="exists already"):
            package.package(packaged, tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["kept"]

    def test_another_methods_adapter_is_refused_and_nothing_is_left(self, packaged, tmp_path):
        with pytest.raises(InputError, match="one of ptsam"):
            package.package(ROOT / "bundles/ssam", tmp_path / "mine", packaged / "models/model.pt")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("label", ["$__import__('os').abort()", "@seed", "%configs/train.json", "a @#b"])
    def test_a_label_that_a_configuration_would_run_is_refused(self, packaged, tmp_path, label):
        state = adapter_files.read_adapter(packaged / "models/model.pt")
        record = sam_monai.networks.identity.from_tensor(state["identity"]) | {"labels": [label, "dark"]}
        with pytest.raises(InputError, match="would run"):
            sam_monai.networks.identity.to_tensor(record)
        data = json.dumps(record).encode().ljust(sam_monai.networks.identity.LENGTH)
        torch.save(state | {"identity": torch.frombuffer(bytearray(data), dtype=torch.uint8)}, tmp_path / "model.pt")
        with pytest.raises(InputError, match="would run"):
            package.package(packaged, tmp_path / "mine", tmp_path / "model.pt")
        assert not (tmp_path / "mine").exists()


def initialised(config, **overrides):
    workflow = monai.bundle.ConfigWorkflow(config, logging_file=False, **overrides)
    try:
        workflow.initialize()
    except RuntimeError as error:
        raise sam_monai.errors.input_error_in(error) or error from None


def test_a_bundle_made_of_one_for_labels_alone_trains_with_prompts_where_its_adapter_takes_them(tmp_path):
    settings = dict(spatial_dims=3, intensity="mr", ct_window=[-160, 240], orientation="axial", spacing=None,
                    channels=None, scale="whole")  # fmt: skip
    source = ROOT / "bundles/medsa"
    for name, prompted in (("one", False), ("two", True)):
        network = sam_monai.MedSA(labels=["a"], image_size=32, preprocessing=settings, prompted=prompted)
        adapter_files.write_adapter(network.state_dict(), tmp_path / "t/model.pt")
        source = package.package(source, tmp_path / name, tmp_path / "t/model.pt")
        train, metadata = (json.loads((source / f"configs/{file}.json").read_text()) for file in ("train", "metadata"))
        shipped = json.loads((ROOT / "bundles/medsa/configs/train.json").read_text())["draws"]
        assert train["draws"] == (shipped if prompted else 0) and ("click" in metadata["task"]) is prompted
