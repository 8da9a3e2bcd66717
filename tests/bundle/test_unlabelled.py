"""Images without labels: an adapter's own masks of them are trained on, and nothing that would flatter is."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import ROOT, SMALL, run, volumes, write_json
from network_tester import tiny_backbone

from sam_monai import InputError, MedSA
from sam_monai.bundle.unlabelled import MOST, check_teacher, chosen, starting_as_teacher, with_pseudo_labels
from sam_monai.data import read_dataset
from sam_monai.data.channels import FILES
from sam_monai.errors import told
from sam_monai.networks.adapter_files import write_adapter
from sam_monai.training.cases import content, known_cases


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset of volumes, a folder of one without a label, and an adapter that finds what is bright."""
    folder = tmp_path_factory.mktemp("trained")
    data = volumes(folder / "data", names=("bright ball",))
    (folder / "more").mkdir()
    shutil.move(data / "images/d.nii.gz", folder / "more/d.nii.gz")
    write_json(data, test=[])
    where = {"dataset_dir": str(data), "ckpt_dir": f"{folder}/m", "output_dir": f"{folder}/o"}
    run("ssam", "train", **where, **SMALL | {"epochs": 16, "val_interval": 16, "samples": 2})
    return folder


@pytest.fixture
def again(trained, tmp_path):
    """The keys of a second training, of copies of what the first one left."""
    shutil.copytree(trained / "m", tmp_path / "m")
    where = {"dataset_dir": f"{trained}/data", "unlabelled": f"{trained}/more"}
    return where | {"ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"} | SMALL


SETTINGS = {"bundle_root": f"{ROOT}/bundles/ssam", "channels": None, "device": "cpu"}


def taught(trained, tmp_path, unlabelled, adapter="m/model.pt"):
    """The cases that are added to the dataset."""
    data = read_dataset(trained / "data")
    found = with_pseudo_labels(data, unlabelled, trained / adapter, tmp_path / "o", SETTINGS)
    assert found.training[: len(data.training)] == data.training and found.validation == data.validation
    return found.training[len(data.training) :]


def test_training_goes_on_with_the_masks_that_its_adapter_gave_images_without_labels(again, trained, tmp_path):
    workflow = run("ssam", "train", **again)
    assert (tmp_path / "o/training_cases.txt").read_text() == "a.nii.gz\nb.nii.gz\nd.nii.gz\n"
    image, mask = nib.load(trained / "more/d.nii.gz"), nib.load(tmp_path / "o/pseudo_labels/d_seg.nii.gz")
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
    found, bright = np.asarray(mask.dataobj) > 0, np.asarray(image.dataobj) > 140
    assert 2 * (found & bright).sum() / (found.sum() + bright.sum()) > 0.3
    case = workflow.parser.get_parsed_content("train#dataset").data[-1]
    assert case == {"image": f"{trained}/more/d.nii.gz", "label": f"{tmp_path}/o/pseudo_labels/d_seg.nii.gz"}
    held = torch.load(tmp_path / "o/pseudo_labels/teacher.pt", weights_only=True)
    before = torch.load(trained / "m/model.pt", weights_only=True)
    assert all(torch.equal(held[key], before[key]) for key in before)
    after = torch.load(tmp_path / "m/model.pt", weights_only=True)
    assert not all(torch.equal(after[key], before[key]) for key in before)
    assert (
        content(trained / "more/d.nii.gz") in known_cases(tmp_path / "m/model.pt")[0]
    )  # so none evaluates it unawares


def test_training_starts_as_the_adapter_that_labelled_the_images_whatever_its_size(again, trained, tmp_path):
    run("ssam", "train", **again | {"epochs": 1, "learning_rate": 0, "prompt_learning_rate": 0, "image_size": 48})
    before, after = (torch.load(at / "m/model.pt", weights_only=True) for at in (trained, tmp_path))
    assert all(torch.equal(before[key], after[key]) for key in before if key != "identity")


def test_a_resumed_training_keeps_its_masks_though_its_adapter_has_changed(again, tmp_path):
    run("ssam", "train", **again | {"epochs": 1})
    mask = tmp_path / "o/pseudo_labels/d_seg.nii.gz"
    state, written = mask.stat().st_mtime_ns, (tmp_path / "o/pseudo_labels/teacher.pt").read_bytes()
    workflow = run("ssam", "train", **again | {"epochs": 2, "resume": True})
    assert workflow.parser.get_parsed_content("train#trainer").state.epoch == 2
    assert mask.stat().st_mtime_ns == state
    assert (tmp_path / "o/pseudo_labels/teacher.pt").read_bytes() == written


@pytest.mark.parametrize("left", [[], ["model.pt", "model.safetensors"]])
def test_a_training_that_was_killed_before_its_first_state_keeps_its_teacher(again, trained, tmp_path, left):
    """When the adapter that taught had been moved aside, and none or one of a single epoch lay in its place."""
    run("ssam", "train", **again | {"epochs": 1})
    taught_by = (tmp_path / "o/pseudo_labels/teacher.pt").read_bytes()
    for file in (tmp_path / "m").glob("model*"):
        if file.name not in left:
            file.unlink()
    run("ssam", "train", **again | {"epochs": 1, "resume": True})
    assert (tmp_path / "o/pseudo_labels/teacher.pt").read_bytes() == taught_by
    assert content(trained / "more/d.nii.gz") in known_cases(tmp_path / "m/model.pt")[0]


def test_cases_of_the_dataset_are_left_out_whatever_their_files_are_called(trained, tmp_path, capsys):
    folder = tmp_path / "mixed"
    shutil.copytree(trained / "more", folder)
    for name, other in {"a": "p", "c": "q"}.items():  # of the training and of the validation
        shutil.copy(trained / f"data/images/{name}.nii.gz", folder / f"{other}.nii.gz")
    assert [case["image"] for case in taught(trained, tmp_path, folder)] == [f"{folder}/d.nii.gz"]
    assert "2 of 3 images left out" in capsys.readouterr().out
    (folder / "d.nii.gz").unlink()
    with pytest.raises(InputError, match="no images but cases of the dataset"):
        taught(trained, tmp_path, folder)


def test_a_case_whose_other_channel_is_a_labelled_one_is_left_out(trained, tmp_path):
    files = [f"{trained}/more/d.nii.gz", f"{trained}/data/images/c.nii.gz"]
    data = read_dataset(trained / "data")
    data.validation[0] |= {"image": files[0], FILES: files}
    shutil.copytree(trained / "more", tmp_path / "more")
    shutil.copy(files[1], tmp_path / "more/v_0001.nii.gz")
    with pytest.raises(InputError, match="no images but cases of the dataset"):
        chosen(data, tmp_path / "more", [1])


def test_a_training_that_has_not_begun_takes_no_masks_of_another(again, trained, tmp_path):
    run("ssam", "train", **again | {"epochs": 1})
    with pytest.raises(InputError, match="there is no adapter yet"):
        with_pseudo_labels(
            read_dataset(trained / "data"), trained / "more", tmp_path / "new/model.pt", tmp_path / "o", SETTINGS
        )


def test_of_an_adapter_that_does_not_say_what_it_was_trained_on_nothing_is_learnt(trained, tmp_path):
    (tmp_path / "m").mkdir()
    shutil.copy(trained / "m/model.pt", tmp_path / "m/model.pt")
    with pytest.raises(InputError, match="does not say which cases"):
        check_teacher(tmp_path / "m/model.pt", read_dataset(trained / "data"))


def test_images_with_prompts_are_left_out_for_those_masks_hold_objects(trained, tmp_path):
    shutil.copytree(trained / "more", tmp_path / "more")
    (tmp_path / "more/d.nii.gz.prompts.json").write_text(json.dumps({"objects": [{"points": [[1, 1, 1]]}]}))
    with pytest.raises(InputError, match="or images with prompts"):
        taught(trained, tmp_path, tmp_path / "more")


def test_an_image_in_which_nothing_is_found_is_not_trained_on_as_background(trained, tmp_path, capsys):
    shutil.copytree(trained / "more", tmp_path / "more")
    image = nib.load(trained / "more/d.nii.gz")
    dark = np.random.default_rng(0).normal(0, 1, image.shape).astype(np.float32)
    dark[:2, :2] = np.asarray(image.dataobj).max()  # so that the rest is as dark as beside the labels
    nib.save(nib.Nifti1Image(dark, image.affine), tmp_path / "more/e.nii.gz")
    found = taught(trained, tmp_path, tmp_path / "more")
    assert [case["image"] for case in found] == [f"{tmp_path}/more/d.nii.gz"]
    assert "no label was found in e.nii.gz" in capsys.readouterr().out


def test_of_many_images_a_part_is_taken_that_is_spread_over_them(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("sam_monai.bundle.unlabelled.MOST", 1)
    assert MOST > 1
    (tmp_path / "more").mkdir()
    image = nib.load(trained / "more/d.nii.gz")
    for i in range(6):
        array = np.asarray(image.dataobj) + i
        nib.save(nib.Nifti1Image(array, image.affine), tmp_path / f"more/{i}.nii.gz")
    found = taught(trained, tmp_path, tmp_path / "more")
    assert [case["image"][-8:] for case in found] == ["0.nii.gz", "3.nii.gz"]


def test_an_adapter_that_knows_the_validation_cases_teaches_nothing(trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    listed = json.loads((trained / "data/dataset.json").read_text())
    pairs = [*listed["training"], *listed["validation"]]
    write_json(tmp_path / "data", training=pairs[1:], validation=pairs[:1])
    shutil.copytree(trained / "m", tmp_path / "m")
    shutil.copytree(trained / "more", tmp_path / "more")
    with pytest.raises(InputError, match="was trained on a.nii.gz, which validate here"):
        taught(tmp_path, tmp_path, tmp_path / "more")


def test_no_adapter_or_one_for_other_labels_is_refused(trained, tmp_path):
    with pytest.raises(InputError, match="there is no adapter yet"):
        taught(trained, tmp_path, trained / "more", "none/model.pt")
    shutil.copytree(trained / "data", tmp_path / "data")
    write_json(tmp_path / "data", labels={"0": "background", "1": "liver"})
    shutil.copytree(trained / "m", tmp_path / "m")
    with pytest.raises(InputError, match="is for the labels bright ball"):
        taught(tmp_path, tmp_path, trained / "more")


@pytest.mark.parametrize("prompted", [True, False])
def test_a_teacher_does_not_decide_whether_prompts_are_trained(tmp_path, prompted):
    teacher, network = (MedSA(tiny_backbone(), labels=["a"], prompted=kind) for kind in (prompted, not prompted))
    write_adapter(teacher.state_dict(), tmp_path / "pseudo_labels/teacher.pt")
    with pytest.raises(InputError, match="give both the same --draws"):
        starting_as_teacher(network, "more", tmp_path)


def test_folders_may_have_any_names(again, trained, tmp_path):
    shutil.copytree(trained / "more", tmp_path / "more#2")
    run("ssam", "train", **again | {"unlabelled": f"{tmp_path}/more#2", "output_dir": f"{tmp_path}/o#1"})
    assert (tmp_path / "o#1/pseudo_labels/d_seg.nii.gz").is_file()
    assert "d.nii.gz" in (tmp_path / "o#1/training_cases.txt").read_text()


def test_a_teacher_of_another_network_is_refused_by_what_differs(again):
    with pytest.raises((InputError, RuntimeError)) as refused:
        run("ssam", "train", **again, depth_attention=True)
    assert "made for depth_attention False; this network has depth_attention True" in str(told(refused.value))
