"""Masks of labels that overlap, as files or channels: one label map, whose values stand for sets of labels."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_maker import SHAPE, image, mask, segmentations
from image_files import volume
from network_tester import tiny_backbone

from sam_monai import PTSAM, InputError
from sam_monai.data import LoadCased, check_dataset, examine, overlaps, read_dataset
from sam_monai.networks.identity import PREPARATION
from sam_monai.networks.regions import label_map_of, masks_of
from sam_monai.results.dataset_file import write_dataset
from sam_monai.training.cases import evaluation_cases

ROWS = {"heart": (0, 4), "lung": (2, 7)}  # in part in each other


def as_files(top: Path, **others: tuple[int, int]) -> Path:
    segmentations(top, 3, ())
    for at in top.iterdir():
        for name, rows in (ROWS | others).items():
            mask(at / f"segmentations/{name}.nii.gz", *rows)
    return top


def as_channels(top: Path, rows: dict[str, tuple[int, int]] = ROWS) -> Path:
    for i in range(3):
        image(top / f"images/c{i}.nii.gz")
        (top / "labels").mkdir(exist_ok=True)
        array = np.zeros((*SHAPE, len(rows)), np.uint8)
        for k, (first, last) in enumerate(rows.values()):
            array[first:last, ..., k] = 1
        volume(top / f"labels/c{i}.nii.gz", array)
    items = [{"image": f"images/c{i}.nii.gz", "label": f"labels/c{i}.nii.gz"} for i in range(3)]
    labels = {str(i): name for i, name in enumerate(("background", *rows))}
    (top / "dataset.json").write_text(json.dumps({"modality": "CT", "labels": labels, "training": items}))
    return top


@pytest.mark.parametrize("make", [as_files, as_channels])
def test_masks_that_overlap_are_regions_and_each_keeps_all_of_its_voxels(tmp_path, make):
    dataset = read_dataset(make(tmp_path))
    assert dataset.labels == ("heart", "lung") and dataset.regions == ((1, 3), (2, 3)) and dataset.apart
    fingerprint = examine(dataset).fingerprint
    assert fingerprint is not None and fingerprint.files == (3 if make is as_files else 2)
    label = LoadCased("label", labels=dataset.labels, regions=dataset.regions)(dataset.training[0])["label"]
    expected = np.zeros((2, *SHAPE), bool)
    expected[0, 0:4], expected[1, 2:7] = True, True
    assert np.array_equal(masks_of(label, 2, dataset.regions), expected)
    logits = torch.cat([torch.zeros(1, *SHAPE), torch.as_tensor(expected).float() - 0.5])
    assert torch.equal(label_map_of(logits, dataset.regions).float(), label.as_tensor())


@pytest.mark.parametrize("make", [as_files, as_channels])
def test_where_masks_do_not_overlap_labels_have_one_value_each(tmp_path, make):
    rows = {"heart": (0, 2), "lung": (2, 7)}
    dataset = read_dataset(as_files(tmp_path, **rows) if make is as_files else make(tmp_path, rows))
    assert dataset.regions is None and check_dataset(dataset) == []
    label = LoadCased("label", labels=dataset.labels)(dataset.training[0])["label"]
    assert label[0, :2].eq(1).all() and label[0, 2:7].eq(2).all() and label[0, 7:].eq(0).all()


@pytest.mark.parametrize("labels", [None, ["aorta", "vein"]])
def test_the_command_draws_and_lists_masks_in_channels(tmp_path, labels):
    rows = {"heart": (0, 2), "lung": (2, 7)}
    write_dataset(as_channels(tmp_path, rows), labels, output=tmp_path / "out")
    assert (tmp_path / "out/dataset.png").is_file()
    assert read_dataset(tmp_path / "out").labels == tuple(labels or rows)


def test_more_sets_of_labels_than_an_adapter_keeps_are_refused_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(overlaps, "MOST", 1)
    read_dataset(as_files(tmp_path))
    with pytest.raises(InputError, match="3 labels overlap in 3 ways.*take fewer"):
        read_dataset(as_files(tmp_path, vein=(0, 9)))


def test_of_a_few_labels_every_set_has_a_value_and_of_many_those_that_occur(tmp_path):
    three = read_dataset(as_files(tmp_path / "three", vein=(8, 9))).regions
    assert three is not None and len({value for region in three for value in region}) == 7
    combinations = [c for n in range(1, 4) for c in itertools.combinations(range(3), n)]
    logits = torch.tensor([[0.0, *(1.0 if i in c else -1.0 for i in range(3))] for c in combinations]).T
    found = masks_of(label_map_of(logits, three), 3, three)
    assert torch.equal(found, logits[1:] > 0)  # whatever sets a network finds, a mask holds them
    many = read_dataset(as_files(tmp_path / "many", **{f"v{i}": (8, 9) for i in range(5)})).regions
    assert many is not None and max(map(max, many)) == 7 + 2


def test_unlabelled_voxels_are_a_mask_of_their_own(tmp_path):
    dataset = read_dataset(as_files(tmp_path, ignore=(8, 9)))
    assert dataset.labels == ("heart", "lung") and dataset.regions == ((1, 3), (2, 3))
    assert dataset.training[0]["ignore"] == 4 and check_dataset(dataset) == []
    for at in tmp_path.glob("s*/segmentations"):
        mask(at / "ignore.nii.gz", 6, 9)
    with pytest.raises(InputError, match=r"ignore\.nii\.gz: overlaps with lung\.nii\.gz in 24 voxels"):
        check_dataset(read_dataset(tmp_path))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((*SHAPE, 3), np.uint8), "has 3 channels"),
        (np.full((*SHAPE, 2), 2, np.uint8), r"\(channel 0, heart\): holds the values 2, known are 0 to 1"),
        (np.ones((9, 8, 2, 2), np.uint8), "is 9 x 8 x 2, its image"),
    ],
)
def test_channels_that_are_no_masks_of_the_labels_are_refused_in_a_line(tmp_path, array, said):
    dataset = read_dataset(as_channels(tmp_path))
    volume(tmp_path / "labels/c1.nii.gz", array)
    with pytest.raises(InputError, match=said) as error:
        check_dataset(dataset)
    assert "\n" not in str(error.value)


def test_an_evaluation_takes_the_values_of_the_adapter(tmp_path, monkeypatch):
    (tmp_path / "model.pt").touch()
    record = {"preprocessing": {"regions": [[1, 3, 4], [2, 3, 4]]}}
    assert PREPARATION["regions"].fits([[1, 3], [2, 3]])
    monkeypatch.setattr("sam_monai.training.cases.read_adapter", lambda path: {"identity": None})
    monkeypatch.setattr("sam_monai.training.cases.from_tensor", lambda tensor: record)
    monkeypatch.setattr("sam_monai.training.cases.known_cases", lambda path: (set(), set(), set()))
    assert evaluation_cases(as_files(tmp_path / "data"), tmp_path / "model.pt").regions == [[1, 3, 4], [2, 3, 4]]


def test_an_evaluation_knows_labels_that_overlap_in_ways_that_training_did_not_show(tmp_path, monkeypatch):
    others = {f"v{i}": (8, 9) for i in range(5)}
    trained = read_dataset(as_files(tmp_path / "trained", **others)).regions
    record = {"preprocessing": {"regions": json.loads(json.dumps(trained))}}
    (tmp_path / "model.pt").touch()
    monkeypatch.setattr("sam_monai.training.cases.read_adapter", lambda path: {"identity": None})
    monkeypatch.setattr("sam_monai.training.cases.from_tensor", lambda tensor: record)
    monkeypatch.setattr("sam_monai.training.cases.known_cases", lambda path: (set(), set(), set()))
    new = evaluation_cases(as_files(tmp_path / "new", **others | {"v0": (3, 9)}), tmp_path / "model.pt")
    assert trained is not None and new.regions is not None and check_dataset(new) == []
    assert all(region[: len(old)] == old for region, old in zip(new.regions, trained, strict=True))
    label = LoadCased("label", labels=new.labels, regions=new.regions)(new.validation[0])["label"]
    held = masks_of(label, len(new.labels), new.regions).flatten(1).any(1)
    assert held.all() and int(label.max()) > max(map(max, trained))
    adapter = PTSAM(tiny_backbone(), labels=new.labels, preprocessing={"regions": trained}).state_dict()
    PTSAM(tiny_backbone(), labels=new.labels, preprocessing={"regions": new.regions}).load_state_dict(adapter)
    with pytest.raises(InputError, match="here they have"):  # fewer sets are other values
        adapter = PTSAM(tiny_backbone(), labels=new.labels, preprocessing={"regions": new.regions}).state_dict()
        PTSAM(tiny_backbone(), labels=new.labels, preprocessing={"regions": trained}).load_state_dict(adapter)


def test_a_written_dataset_json_is_read_as_the_same(tmp_path, caplog):
    folder = as_files(tmp_path)
    with caplog.at_level(logging.ERROR):
        write_dataset(folder)
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"0": "background", "1": "heart", "2": "lung"}
    assert read_dataset(folder).regions == ((1, 3), (2, 3))
