"""No case that was trained on is evaluated without a word."""

from __future__ import annotations

import csv
import json
import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import SMALL, run, volumes, write_json
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_training import Tiny

from sam_monai import InputError
from sam_monai.data import read_dataset
from sam_monai.data.voxels import voxels_of
from sam_monai.networks.adapter_files import describe, read_adapter, read_training, training_summary, write_adapter
from sam_monai.training.cases import NOTE, WHOLE, content, contents, evaluation_cases, overlap

SUMMARY = training_summary(3, 3, 0.5, 8, 2)


@pytest.fixture
def data(tmp_path):
    """Ten training cases and no list for validation."""
    folder = volumes(tmp_path / "data")
    items, rng = [], np.random.default_rng(0)
    for i in range(10):
        items.append({"image": f"images/{i}.nii.gz", "label": "labels/a.nii.gz", "fold": i % 5})
        image = nib.load(folder / "images/a.nii.gz")
        noise = rng.normal(size=image.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) + noise, image.affine), folder / items[-1]["image"])
    write_json(folder, training=items, validation=[], test=[])
    return folder


def adapter_of(dataset, path):
    """An adapter that says it was trained on a dataset's split."""
    hashes = {
        f"{part}_hashes": [case[1] for case in contents(getattr(dataset, part))] for part in ("training", "validation")
    }
    write_adapter(Tiny().state_dict(), path, SUMMARY | hashes)
    return path


def test_an_adapter_that_says_nothing_of_its_training_is_told_of(data, tmp_path, caplog):
    write_adapter(Tiny().state_dict(), tmp_path / "model.pt")
    found = evaluation_cases(data, tmp_path / "model.pt")
    assert f"does not say which cases it was trained on, so {len(found.validation)} of 10 are evaluated" in caplog.text
    caplog.clear()
    evaluation_cases(data, adapter_of(read_dataset(data), tmp_path / "other.pt"))
    evaluation_cases(data, tmp_path / "none.pt")
    assert "does not say" not in caplog.text


def split(dataset) -> tuple[set[str], set[str]]:
    return {case["image"] for case in dataset.training}, {case["image"] for case in dataset.validation}


@pytest.mark.parametrize("of_training", [{"seed": 1}, {"fold": 2}, {"seed": 3}])
@pytest.mark.parametrize("of_evaluation", [{}, {"seed": 5}, {"fold": 4}])
def test_the_split_of_the_training_is_evaluated_whatever_is_given(data, tmp_path, of_training, of_evaluation):
    trained = read_dataset(data, **of_training)
    found = evaluation_cases(data, adapter_of(trained, tmp_path / "model.pt"), **of_evaluation)
    assert split(found) == split(trained)
    assert overlap(found.validation, tmp_path / "model.pt") == {NOTE: "none"}


def test_a_dataset_that_moved_was_renamed_and_grew_is_still_known(data, tmp_path):
    trained = evaluation_cases(data, tmp_path / "none.pt", seed=1)
    adapter = adapter_of(trained, tmp_path / "model.pt")
    shutil.move(data, tmp_path / "elsewhere")
    content = json.loads((tmp_path / "elsewhere/dataset.json").read_text())
    for case in content["training"]:
        new = case["image"].replace("images/", "images/case")
        shutil.move(tmp_path / "elsewhere" / case["image"], tmp_path / "elsewhere" / new)
        case["image"] = new
    more = {"image": "images/b.nii.gz", "label": "labels/b.nii.gz"}
    write_json(tmp_path / "elsewhere", training=[*content["training"], more])
    found = evaluation_cases(tmp_path / "elsewhere", adapter)
    assert len(found.validation) == 2
    names = {image.rsplit("/", 1)[1] for image in split(trained)[1]}
    assert {image.rsplit("/case", 1)[1] for image in split(found)[1]} == names


def other_images(data, folder, number, times=1.5):
    """A folder of so many images of another, times a factor, in files of their own, and no list for validation."""
    shutil.copytree(data, folder)
    for i in range(number):
        image = nib.load(data / f"images/{i}.nii.gz")
        nib.save(nib.Nifti1Image(image.get_fdata() * times, image.affine), folder / f"images/{i}.nii.gz")
    items = [{"image": f"images/{i}.nii.gz", "label": "labels/a.nii.gz", "fold": i} for i in range(number)]
    write_json(folder, training=items, validation=[], test=[])
    return folder


def test_of_new_cases_all_are_evaluated_where_no_split_is_stated(data, tmp_path, caplog):
    adapter = adapter_of(evaluation_cases(data, tmp_path / "none.pt", seed=1), tmp_path / "model.pt")
    held = [voxels_of(nib.load(data / f"images/{i}.nii.gz").get_fdata()[None]) for i in range(10)]
    write_adapter(read_adapter(adapter), adapter, read_training(adapter) | {"training_voxels": held})
    again = other_images(data, tmp_path / "again", 4, times=1.0)
    assert len(evaluation_cases(again, adapter).validation) == 1
    new = other_images(data, tmp_path / "new", 4)
    with caplog.at_level(logging.WARNING):
        found = evaluation_cases(new, adapter)
    assert len(found.validation) == 4
    assert "all 4 cases, for the adapter was trained on none of them" in caplog.text
    assert len(evaluation_cases(new, adapter, fold=0).validation) == 1
    assert len(evaluation_cases(new, tmp_path / "none.pt").validation) == 1


def test_listed_validation_cases_are_evaluated_and_those_trained_on_are_named(data, tmp_path, caplog):
    trained = evaluation_cases(data, tmp_path / "none.pt", seed=1)
    adapter = adapter_of(trained, tmp_path / "model.pt")
    listed = [trained.training[0], trained.validation[0]]
    shutil.copy(listed[0]["image"], data / "images/other_name.nii.gz")
    listed[0] = {**listed[0], "image": f"{data}/images/other_name.nii.gz"}
    write_json(data, validation=listed)
    found = evaluation_cases(data, adapter)
    assert found.validation == listed
    with caplog.at_level(logging.WARNING):
        assert overlap(found.validation, adapter) == {NOTE: "other_name.nii.gz"}
    assert "1 of 2 cases evaluated were trained on" in caplog.text


def test_a_case_that_was_saved_again_in_another_format_is_known_by_what_it_shows(data, tmp_path, caplog):
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/models"}
    run("ptsam", "train", **where, output_dir=f"{tmp_path}/o", seed=1, **SMALL | {"epochs": 1})
    adapter = tmp_path / "models/model.pt"
    assert len(read_training(adapter)["training_voxels"]) == 8 and "voxels" not in describe(adapter)
    image = nib.load(evaluation_cases(data, adapter).training[0]["image"])
    nib.save(nib.Nifti1Image(image.get_fdata(), image.affine), data / "images/again.nii")
    write_json(data, validation=[{"image": "images/again.nii", "label": "labels/a.nii.gz"}])
    run("ptsam", "train", "evaluate", **where, output_dir=f"{tmp_path}/e")
    assert "1 of 1 cases evaluated were trained on" in caplog.text
    assert f"{NOTE}</td><td>again.nii</td>" in (tmp_path / "e/report.html").read_text()
    before = {key: value for key, value in read_training(adapter).items() if key != "training_voxels"}
    write_adapter(torch.load(adapter, weights_only=True), adapter, before)  # as an older version wrote it
    assert overlap([{"image": f"{data}/images/again.nii"}], adapter, {}) == {NOTE: "none"}


def test_a_label_in_which_one_voxel_was_corrected_is_another(tmp_path):
    """Of a large file that is not compressed a piece here and there says nothing of a stroke between."""
    (tmp_path / "a.nii").write_bytes(b"image")
    label = bytearray(3 * WHOLE)
    case, found = [{key: f"{tmp_path}/{name}.nii" for key, name in (("image", "a"), ("label", "b"))}], []
    for place in (None, *range(2**16 + 1, len(label), WHOLE // 7)):
        if place is not None:
            label[place] = 1
        (tmp_path / "b.nii").write_bytes(label)
        found.append(contents(case)[0])
    assert len({one[2] for one in found}) == len(found) and len({one[1] for one in found}) == 1


def test_a_split_of_which_every_case_was_trained_on_is_refused(data, tmp_path):
    trained = evaluation_cases(data, tmp_path / "none.pt", seed=1)
    every = [case[1] for case in contents([*trained.training, *trained.validation])]
    write_adapter(
        Tiny().state_dict(), tmp_path / "model.pt", SUMMARY | {"training_hashes": every, "validation_hashes": []}
    )
    with pytest.raises(InputError, match="every validation case of this split was trained on"):
        evaluation_cases(data, tmp_path / "model.pt", seed=2)


def test_other_data_and_adapters_that_do_not_say_are_evaluated_as_they_are_and_the_latter_said(data, tmp_path, caplog):
    drawn = evaluation_cases(data, tmp_path / "none.pt", seed=4)
    write_adapter(Tiny().state_dict(), tmp_path / "model.pt", SUMMARY | {"training_hashes": ["0" * 16]})
    assert evaluation_cases(data, tmp_path / "model.pt", seed=4) == drawn
    write_adapter(Tiny().state_dict(), tmp_path / "model.pt", SUMMARY | {"epochs": 3})
    assert evaluation_cases(data, tmp_path / "model.pt", seed=4) == drawn
    assert overlap(drawn.validation, tmp_path / "model.pt") == {NOTE: "not known"}
    assert "does not say which cases" in caplog.text


@pytest.mark.parametrize("key", ["training_hashes", "training_voxels"])
@pytest.mark.parametrize("hashes", ["abc", {"a": 1}, [3], ["$import os"], [["0" * 16]], ["0" * 17]])
def test_hashes_that_are_none_are_refused(data, tmp_path, key, hashes):
    with pytest.raises(InputError, match=key):  # where they are written already
        write_adapter(Tiny().state_dict(), tmp_path / "model.pt", SUMMARY | {key: hashes})
    write_adapter(Tiny().state_dict(), tmp_path / "model.pt", SUMMARY)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        words, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    words["training"] = json.dumps(json.loads(words["training"]) | {key: hashes})
    save_file(state, tmp_path / "model.safetensors", words)
    with pytest.raises(InputError, match=key):  # and where they are read
        evaluation_cases(data, tmp_path / "model.pt")


def test_content_tells_files_apart_wherever_they_differ_and_not_by_name(tmp_path):
    air = bytearray(3 * WHOLE)  # volumes that begin and end alike
    (tmp_path / "a.nii").write_bytes(air)
    air[len(air) // 2 : len(air) // 2 + 2**18] = b"x" * 2**18
    (tmp_path / "b.nii").write_bytes(air)
    shutil.copy(tmp_path / "a.nii", tmp_path / "c.nii")
    a, b, c = (content(tmp_path / f"{name}.nii") for name in "abc")
    assert a != b and a == c and len(a) == 16
    for name, data in {"a": b"1", "b": b"2"}.items():
        (tmp_path / f"{name}.raw").write_bytes(data)
        (tmp_path / f"{name}.mhd").write_text(f"NDims = 3\nElementDataFile = {name}.raw\n")
    (tmp_path / "a.raw").replace(tmp_path / "x.raw")
    (tmp_path / "c.nhdr").write_text("NRRD0004\ndata file: b.raw\n")
    before, other = content(tmp_path / "b.mhd"), content(tmp_path / "c.nhdr")
    (tmp_path / "b.raw").write_bytes(b"3")
    assert content(tmp_path / "c.nhdr") != other
    assert content(tmp_path / "b.mhd") != before and content(tmp_path / "a.mhd") != before


def test_the_bundle_evaluates_what_its_training_left_out_and_its_adapter_names_no_patient(data, tmp_path, caplog):
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/models"}
    run("ptsam", "train", **where, output_dir=f"{tmp_path}/o", seed=1, **SMALL | {"epochs": 1})
    run("ptsam", "train", "evaluate", **where, output_dir=f"{tmp_path}/e")
    tables = [list(csv.DictReader((tmp_path / n / "cases.csv").open())) for n in ("o", "e")]
    assert [row["case"] for row in tables[0]] == [row["case"] for row in tables[1]]
    assert f"{NOTE}</td><td>none</td>" in (tmp_path / "e/report.html").read_text()
    training = read_training(tmp_path / "models/model.pt")
    assert training is not None and len(training["training_hashes"]) == 8 and len(training["validation_hashes"]) == 2
    assert "hashes" not in describe(tmp_path / "models/model.pt")
    assert b".nii" not in (tmp_path / "models/model.safetensors").read_bytes()
    new = other_images(data, tmp_path / "new", 3)
    run("ptsam", "train", "evaluate", **where | {"dataset_dir": str(new)}, output_dir=f"{tmp_path}/n")
    with (tmp_path / "n/cases.csv").open() as file:
        assert sorted({row["case"] for row in csv.DictReader(file)}) == ["0", "1", "2"]
    listed = [
        {"image": "images/0.nii.gz", "label": "labels/a.nii.gz"},
        {"image": "images/1.nii.gz", "label": "labels/a.nii.gz"},
    ]
    write_json(data, validation=listed)
    run("ptsam", "train", "evaluate", **where, output_dir=f"{tmp_path}/e")
    report = (tmp_path / "e/report.html").read_text()
    assert f"{NOTE}</td>" in report and "were trained on" in caplog.text


def test_a_quick_training_touches_no_adapter_and_says_that_it_means_nothing(data, tmp_path, capsys):
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/models", "output_dir": f"{tmp_path}/o"}
    run("ptsam", "train", **where, **SMALL | {"epochs": 1})
    before = {file.name: file.read_bytes() for file in (tmp_path / "models").iterdir()}
    capsys.readouterr()
    run("ptsam", "train", **where, quick=True)
    after = {file.name: file.read_bytes() for file in (tmp_path / "models").iterdir() if file.is_file()}
    assert after == before and capsys.readouterr().out.strip().splitlines()[-1].startswith("this was a quick run")
    training = read_training(tmp_path / "models/quick/model.pt")
    assert training is not None and training["quick"] is True
    assert torch.load(tmp_path / "models/quick/model_resume.pt", weights_only=True)["epoch"] == 2


def test_an_evaluation_says_that_it_leaves_out_what_a_test_set_lists_for_training(data, tmp_path, caplog):
    """As the file that the command dataset writes does, with every fifth case for validation."""
    other = tmp_path / "trained_on"
    adapter = adapter_of(read_dataset(volumes(other)), tmp_path / "model.pt")
    items = [{"image": f"images/{i}.nii.gz", "label": "labels/a.nii.gz"} for i in range(10)]
    write_json(data, training=items[2:], validation=items[:2], test=[])
    assert len(evaluation_cases(data, adapter).validation) == 2
    assert "evaluated: the 2 cases that the dataset lists for validation" in caplog.text
    caplog.clear()
    evaluation_cases(other, adapter)
    assert "lists for validation" not in caplog.text
