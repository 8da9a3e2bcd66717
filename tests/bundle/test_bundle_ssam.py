"""The S-SAM bundle as its users run it: train, infer, evaluate, resume; and what it says of bad input."""

from __future__ import annotations

import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import ROOT, SMALL, oblique, run, volumes, write_json
from bundle_tester import BundleTester
from PIL import Image

from sam_monai import InputError
from sam_monai.__main__ import main
from sam_monai.bundle import command_line
from sam_monai.files import save_aside
from sam_monai.networks import identity
from sam_monai.networks.adapter_files import read_adapter


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset of volumes and the folder where the bundle was trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    data = volumes(folder / "data")
    run("ssam", "train", dataset_dir=str(data), ckpt_dir=f"{folder}/models", output_dir=f"{folder}/output", **SMALL)
    return folder


class TestSSAMBundle(BundleTester):
    bundle = "ssam"
    most_bytes = 1_000_000

    @pytest.fixture(scope="class")
    def trained(self, trained):
        return trained


def test_training_learns_what_is_bright(tmp_path):
    volumes(tmp_path / "data", names=("bright ball",))
    settings = SMALL | {"epochs": 16, "val_interval": 16, "samples": 2}
    where = {"dataset_dir": f"{tmp_path}/data", "ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"}
    workflow = run("ssam", "train", **where, **settings)
    assert workflow.parser.get_parsed_content("validate#evaluator").state.best_metric > 0.6


def test_a_kill_during_a_save_leaves_the_previous_file(tmp_path, monkeypatch):
    save_aside({"a": torch.ones(3)}, tmp_path / "model.pt")

    def die_halfway(obj, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die_halfway)
    with pytest.raises(KeyboardInterrupt):
        save_aside({"a": torch.zeros(3)}, tmp_path / "model.pt")
    assert torch.load(tmp_path / "model.pt", weights_only=True)["a"].eq(1).all()


# -- pictures, patches -------------


def test_volumes_of_two_channels_train_and_are_drawn_once_one_is_picked(tmp_path):
    data = volumes(tmp_path / "data")
    for file in (data / "images").iterdir():
        array = np.asarray(nib.load(file).dataobj)
        nib.save(nib.Nifti1Image(np.stack([array, -array], -1), oblique()), file)
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"}
    run("ssam", "train", channels=[0], **where, **SMALL | {"epochs": 1})
    assert (tmp_path / "o/validation/c.png").is_file()


def test_volumes_train_in_patches(trained, tmp_path):
    run("ssam", "train", dataset_dir=f"{trained}/data", ckpt_dir=f"{tmp_path}/m", output_dir=f"{tmp_path}/o",
        scale="patch", **SMALL | {"epochs": 1})  # fmt: skip
    record = identity.from_tensor(read_adapter(tmp_path / "m/model.pt")["identity"])
    assert record["preprocessing"]["scale"] == "patch"


def test_a_volume_of_one_slice_trains(tmp_path):
    volumes(tmp_path / "data", shape=(40, 36, 1), affine=np.diag([1.0, 1, 5, 1]))
    run("ssam", "train", dataset_dir=f"{tmp_path}/data", ckpt_dir=f"{tmp_path}/m", output_dir=f"{tmp_path}/o",
        **SMALL | {"epochs": 1})  # fmt: skip
    assert (tmp_path / "m/model.pt").is_file() and (tmp_path / "o/validation/c.png").is_file()


# -- the bundle among its kind --------------


def test_merging_an_adapter_of_tiny_vit_is_refused_by_the_command(trained, tmp_path, capsys):
    assert main(["merge", f"{trained}/models/model.pt", f"{tmp_path}/sam.pth"]) == 1
    assert capsys.readouterr().err.startswith("error: only a ViT merges") and not list(tmp_path.iterdir())


def test_merging_replaces_no_file(trained, capsys):
    adapter = trained / "models/model.pt"
    before = adapter.read_bytes()
    assert main(["merge", str(adapter), str(adapter)]) == 1
    assert "model.pt is there already" in capsys.readouterr().err and adapter.read_bytes() == before


# -- bad input ----------


def spoil(folder, what: str) -> dict:
    """Do one thing wrong; keys to override, if that is the wrong thing."""
    image, label = folder / "images/a.nii.gz", folder / "labels/a.nii.gz"
    array = np.asarray(nib.load(image).dataobj)
    match what:
        case "no dataset.json":
            (folder / "dataset.json").unlink()
            (folder / "images").rename(folder / "scans")
        case "broken json":
            (folder / "dataset.json").write_text('{"labels": ')
        case "label beyond the list":
            write_json(folder, labels={"0": "background", "1": "bright"})
        case "another shape":
            nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), oblique()), label)
        case "another affine":
            nib.save(nib.Nifti1Image(np.asarray(nib.load(label).dataobj), np.eye(4)), label)
        case "not a number":
            array[3, 3, 3] = np.nan
            nib.save(nib.Nifti1Image(array, oblique()), image)
        case "constant":
            nib.save(nib.Nifti1Image(np.full_like(array, 7), oblique()), image)
        case "one pixel":
            for path in (image, label):
                nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj)[:1, :1], oblique()), path)
        case "two channels":
            nib.save(nib.Nifti1Image(np.stack([array, array], -1), oblique()), image)
        case "truncated":
            image.write_bytes(image.read_bytes()[:2000])
        case "no such backbone":
            return {"backbone": "vit_q"}
        case "weights of another backbone":
            return {"backbone": "mobile_sam", "checkpoint": str(ROOT / "pyproject.toml")}
    return {}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no dataset.json", "scans/, rename that to images/"),
        ("broken json", r"dataset\.json.*line 1"),
        ("label beyond the list", r"\.nii\.gz.*2"),
        ("another shape", r"a\.nii\.gz"),
        ("another affine", r"a\.nii\.gz.*affine"),
        ("not a number", r"a\.nii\.gz.*NaN"),
        ("constant", r"a\.nii\.gz.*every intensity is 7"),
        ("one pixel", r"a\.nii\.gz"),
        ("two channels", r"a\.nii\.gz.*channels"),
        ("truncated", r"a\.nii\.gz"),
        ("no such backbone", "vit_q"),
        ("weights of another backbone", r"pyproject\.toml"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, what, said):
    data = volumes(tmp_path / "data")
    overrides = spoil(data, what)
    with pytest.raises(InputError, match=f"(?is){said}") as error:
        run(
            "ssam",
            "train",
            dataset_dir=str(data),
            ckpt_dir=f"{tmp_path}/m",
            output_dir=f"{tmp_path}/o",
            **SMALL,
            **overrides,
        )
    assert len(str(error.value)) > 30 and not (tmp_path / "m").exists()


def test_a_picture_is_not_segmented_by_an_adapter_for_volumes(trained, tmp_path):
    Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(60, 50)).save(tmp_path / "p.png")
    with pytest.raises(InputError, match=r"p\.png has 2 spatial axes"):
        run("ssam", "inference", dataset_dir=f"{tmp_path}/p.png", adapter=f"{trained}/models/model.pt",
            output_dir=f"{tmp_path}/o")  # fmt: skip


def test_files_of_one_name_get_masks_of_their_own(trained, tmp_path):
    for folder in ("p1", "p2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.2.840.nii.gz").write_bytes((trained / "data/images/d.nii.gz").read_bytes())
    pair = {"image": "a.nii.gz", "label": "b.nii.gz"}
    files = ["p1/1.2.840.nii.gz", "p2/1.2.840.nii.gz"]
    write_json(
        tmp_path, labels={"0": "background", "1": "x"}, test=files, training=[pair, {**pair, "image": "c.nii.gz"}]
    )
    run(
        "ssam", "inference", dataset_dir=str(tmp_path), adapter=f"{trained}/models/model.pt", output_dir=f"{tmp_path}/o"
    )
    assert {p.name for p in (tmp_path / "o").glob("*_seg.nii.gz")} == {"1.2.840_seg.nii.gz", "p2_1.2.840_seg.nii.gz"}


def test_a_longer_run_goes_on_at_the_longer_runs_learning_rate(trained, tmp_path):
    where = {"dataset_dir": f"{trained}/data", "ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"}
    run("ssam", "train", **where, **SMALL)
    workflow = run("ssam", "train", resume=True, **where, **SMALL | {"epochs": 4})
    rates = workflow.parser.get_parsed_content("optimizer").param_groups[0]["lr"]
    assert rates == pytest.approx(0.0, abs=1e-8)
    assert torch.load(tmp_path / "m/model_resume.pt", weights_only=True)["epoch"] == 4


def test_an_adapter_of_renamed_labels_is_refused_with_the_known_ones(trained, tmp_path):
    data = volumes(tmp_path / "data")
    write_json(data, labels={"0": "background", "1": "shiny", "2": "dark"})
    with pytest.raises(InputError, match="bright, dark"):
        where = {"dataset_dir": str(data), "ckpt_dir": f"{trained}/models", "output_dir": f"{tmp_path}/o"}
        run("ssam", "train", "evaluate", **where)
    with pytest.raises(InputError, match="bright, dark"):
        run("ssam", "inference", dataset_dir=f"{trained}/data", adapter=f"{trained}/models/model.pt", labels=["shiny"],
            output_dir=f"{tmp_path}/o")  # fmt: skip


def test_a_misspelt_key_is_refused_and_the_nearest_named():
    train = "bundles/ssam/configs/train.json"
    arguments = ["run", "--config_file", str(ROOT / train)]
    command_line.refuse_unknown_keys(
        [*arguments, "--epochs", "3", "--train#trainer#max_epochs", "4", "--run_id", "run"]
    )
    command_line.refuse_unknown_keys([*arguments, "--train#handlers#0#_disabled_", "True"])
    with pytest.raises(InputError, match="--epochz.*--epochs"):
        command_line.refuse_unknown_keys([*arguments, "--epochz", "3"])
    with pytest.raises(InputError, match="trainr"):
        command_line.refuse_unknown_keys([*arguments, "--train#trainr#max_epochs=4"])
    with pytest.raises(
        InputError, match="--draws here: it is a key of the bundle medsa: run the configuration of medsa"
    ):
        command_line.refuse_unknown_keys([*arguments, "--draws", "0"])


def test_the_command_line_ends_with_the_cause_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/train.json"]
    environment = os.environ | {"SAM_MONAI_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "--dataset_dir", str(tmp_path / "nowhere"), "--ckpt_dir", str(tmp_path / "models")],
        cwd=ROOT / "bundles/ssam", capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode != 0 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "nowhere" in last and not (tmp_path / "models").exists()
