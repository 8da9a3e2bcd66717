from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from sam_monai.data import check_dataset, examine, read_dataset
from sam_monai.errors import InputError

RNG = np.random.default_rng(0)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    if path.suffix == ".png":
        Image.fromarray(array.astype(np.uint8)).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def volumes(tmp_path) -> Path:
    """Two training cases, t0 and t1, one of validation, v0, with labels 0..2."""
    return make(tmp_path, ".nii.gz", (16, 12, 9))


@pytest.fixture
def pictures(tmp_path) -> Path:
    return make(tmp_path, ".png", (16, 12))


def make(folder: Path, suffix: str, shape: tuple[int, ...], training: int = 2) -> Path:
    def cases(names: list[str]) -> list[dict[str, str]]:
        for name in names:
            save(folder / f"{name}{suffix}", RNG.integers(0, 200, shape).astype(np.float32))
            save(folder / f"{name}_label{suffix}", RNG.integers(0, 3, shape).astype(np.uint8))
        return [{"image": f"{name}{suffix}", "label": f"{name}_label{suffix}"} for name in names]

    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "training": cases([f"t{n}" for n in range(training)]),
        "validation": cases(["v0"]),
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def problem(folder: Path, *said: str, **options) -> None:
    """The check finds one problem, in one line that says all of `said`."""
    with pytest.raises(InputError) as error:
        check_dataset(read_dataset(folder), **options)
    message = str(error.value)
    assert "\n" not in message and all(text in message for text in said), message
    assert ";" in message or ": " in message.partition(": ")[2]


def test_a_dataset_in_order_has_no_problem_and_no_note(volumes):
    assert check_dataset(read_dataset(volumes)) == []


def test_pictures_in_order_have_no_problem_and_no_note(pictures):
    assert check_dataset(read_dataset(pictures)) == []


@pytest.mark.parametrize("name", ["t1", "t1_label", "v0", "v0_label"])
def test_a_missing_file_is_named(volumes, name):
    (volumes / f"{name}.nii.gz").unlink()
    problem(volumes, f"{name}.nii.gz: no such file", "copy it there or remove it")


def test_a_truncated_file_is_named(volumes):
    path = volumes / "t0_label.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    problem(volumes, "t0_label.nii.gz: cannot be read", "copy it again")


def test_a_label_of_another_shape_is_named_with_both_shapes(volumes):
    save(volumes / "v0_label.nii.gz", np.zeros((16, 12, 8), np.uint8))
    problem(volumes, "v0_label.nii.gz", "16 x 12 x 8", "16 x 12 x 9", "grid")


def test_a_label_lying_elsewhere_is_named(volumes):
    affine = np.diag([1, 1, 1, 1.0])
    affine[2, 3] = 0.05
    save(volumes / "t0_label.nii.gz", np.ones((16, 12, 9), np.uint8), affine)
    assert check_dataset(read_dataset(volumes)) == []
    affine[2, 3] = 0.2
    save(volumes / "t0_label.nii.gz", np.ones((16, 12, 9), np.uint8), affine)
    problem(volumes, "t0_label.nii.gz: its affine differs", "t0.nii.gz")


@pytest.mark.parametrize("shape", [(1, 2), (16, 7), (7, 16)])
def test_a_tiny_picture_is_refused(pictures, shape):
    save(pictures / "t0.png", np.arange(np.prod(shape)).reshape(shape))
    save(pictures / "t0_label.png", np.zeros(shape))
    with pytest.raises(InputError, match=rf"t0\.png: is only {shape[0]} x {shape[1]}"):
        check_dataset(read_dataset(pictures))


def test_a_volume_of_one_slice_is_fine(tmp_path):
    assert check_dataset(read_dataset(make(tmp_path, ".nii.gz", (16, 12, 1)))) == []


def test_a_label_value_beyond_the_labels_is_named(volumes):
    save(volumes / "t1_label.nii.gz", np.full((16, 12, 9), 3, np.uint8))
    problem(volumes, "t1_label.nii.gz: holds the values 3", "0 to 2")


def test_a_nifti_of_two_axes_is_named(volumes):
    image = np.random.default_rng(0).uniform(size=(20, 20)).astype(np.float32)
    case = read_dataset(volumes).training[0]
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), case["image"])
    nibabel.save(nibabel.Nifti1Image((image > 0.5).astype(np.uint8), np.eye(4)), case["label"])
    with pytest.raises(InputError, match="has two axes.*depth 1"):
        check_dataset(read_dataset(volumes))


def test_pictures_and_volumes_do_not_mix(volumes):
    content = json.loads((volumes / "dataset.json").read_text())
    content["training"].append({"image": "p.png", "label": "p_label.png"})
    (volumes / "dataset.json").write_text(json.dumps(content))
    save(volumes / "p.png", RNG.integers(0, 200, (16, 12)))
    save(volumes / "p_label.png", np.ones((16, 12)))
    problem(volumes, "p.png: is a 2D picture", "two datasets")


def test_grey_and_colour_do_not_mix_unless_channels_picks(pictures):
    save(pictures / "t1.png", RNG.integers(0, 200, (16, 12, 3)))
    problem(pictures, "t1.png", "3 channel", "key channels")
    assert check_dataset(read_dataset(pictures), channels=[0, 0, 0]) == []


def test_all_problems_are_named_at_once_one_a_line(volumes):
    (volumes / "t0.nii.gz").unlink()
    (volumes / "t0_label.nii.gz").write_bytes(b"")
    save(volumes / "v0.nii.gz", np.zeros((16, 12, 9), np.float32))
    save(volumes / "v0_label.nii.gz", np.full((16, 12, 9), 0.5, np.float32))
    with pytest.raises(InputError) as error:
        check_dataset(read_dataset(volumes))
    lines = str(error.value).splitlines()
    assert [Path(line.partition(":")[0]).name for line in lines] == [
        "t0.nii.gz",
        "t0_label.nii.gz",
        "v0.nii.gz",
        "v0_label.nii.gz",
    ]


def test_more_than_twenty_problems_are_counted(tmp_path):
    make(tmp_path, ".png", (16, 12), training=25)
    for n in range(25):
        (tmp_path / f"t{n}.png").unlink()
    with pytest.raises(InputError) as error:
        check_dataset(read_dataset(tmp_path))
    lines = str(error.value).splitlines()
    assert len(lines) == 21 and lines[-1] == "and 5 more"


def test_empty_labels_and_unseen_labels_are_notes(pictures, caplog):
    save(pictures / "t0_label.png", np.zeros((16, 12)))
    save(pictures / "t1_label.png", np.ones((16, 12)))
    with caplog.at_level(logging.INFO):
        notes = check_dataset(read_dataset(pictures))
    assert len(notes) == 2 and "t0_label.png" in notes[0] and '"tumour"' in notes[1]
    assert all(note in caplog.text for note in notes)


def test_training_labels_without_any_foreground_are_an_error(pictures):
    for name in ("t0", "t1"):
        save(pictures / f"{name}_label.png", np.zeros((16, 12)))
    problem(pictures, str(pictures), "no training label")


def test_of_a_test_image_only_existence_is_asked(pictures):
    content = json.loads((pictures / "dataset.json").read_text())
    content["test"] = ["a.png"]
    (pictures / "dataset.json").write_text(json.dumps(content))
    problem(pictures, "a.png: no such file")
    (pictures / "a.png").write_bytes(b"no image")
    assert check_dataset(read_dataset(pictures)) == []


# -- cases that somebody else gives -------------------


def given(folder: Path, name: str) -> dict[str, str]:
    return {"image": str(folder / f"{name}.nii.gz"), "label": str(folder / f"{name}_label.nii.gz")}


def test_cases_given_are_checked_in_the_place_of_the_datasets_own(volumes, tmp_path):
    dataset = read_dataset(volumes)
    save(tmp_path / "t1.nii.gz", np.full((16, 12, 9), np.nan, np.float32))
    (tmp_path / "v0.nii.gz").unlink()
    other = tmp_path / "other"
    other.mkdir()
    make(other, ".nii.gz", (16, 12, 9))
    for cases in ([given(other, "t0")], [given(other, "t0"), given(tmp_path, "t0")]):
        assert check_dataset(dataset, labels=dataset.labels, cases=cases) == []
        assert check_dataset(read_dataset(None), labels=["liver", "tumour"], cases=cases) == []
    with pytest.raises(InputError, match=r"t1\.nii\.gz.*NaN"):
        check_dataset(read_dataset(None), labels=["liver", "tumour"], cases=[given(tmp_path, "t1")])


def test_values_beyond_the_labels_of_given_cases_are_named(volumes):
    with pytest.raises(InputError, match=r"t0_label\.nii\.gz"):
        check_dataset(read_dataset(None), labels=["liver"], cases=[given(volumes, "t0")])


def test_some_of_the_datasets_own_cases_mean_the_whole_dataset(volumes):
    dataset = read_dataset(volumes)
    save(volumes / "v0.nii.gz", np.full((16, 12, 9), np.nan, np.float32))
    with pytest.raises(InputError, match=r"v0\.nii\.gz"):
        check_dataset(dataset, labels=list(dataset.labels), cases=dataset.training[:1])


@pytest.mark.parametrize("cases", [None, []])
def test_no_cases_at_all(cases):
    with pytest.raises(InputError, match="no data of its own: give --dataset_dir"):
        check_dataset(read_dataset(None), labels=["liver"], cases=cases)


def test_cases_without_label_and_labels_without_names_are_refused(volumes):
    case = given(volumes, "t0")
    with pytest.raises(InputError, match='"image" and "label"'):
        check_dataset(read_dataset(None), labels=["liver"], cases=[{"image": case["image"]}])
    with pytest.raises(InputError, match="key labels"):
        check_dataset(read_dataset(None), labels=[], cases=[case])


def test_other_labels_than_the_datasets_are_refused_with_both(volumes):
    dataset = read_dataset(volumes)
    for labels in (["liver"], ["tumour", "liver"]):
        with pytest.raises(InputError, match=f"labels liver, tumour, the key labels is {', '.join(labels)}"):
            check_dataset(dataset, labels=labels, cases=dataset.training)


def test_without_a_folder_there_are_no_cases_and_nothing_says_their_dimension():
    dataset = read_dataset(None)
    assert not (dataset.training or dataset.validation or dataset.test or dataset.labels)
    with pytest.raises(InputError, match="dataset_dir"):
        _ = dataset.spatial_dims


def test_a_label_that_is_a_mere_rim_of_another_in_some_cases_is_named(tmp_path, caplog):
    organ = np.zeros((24, 24), np.uint8)
    organ[2:14, 2:14] = 1
    both, rim = organ.copy(), np.pad(organ[1:, 1:], ((0, 1), (0, 1))).astype(np.uint8)
    both[16:22, 4:20] = 2
    rim = np.where((rim > 0) & (organ == 0), 2, organ).astype(np.uint8)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, label in {"a": both, "b": rim, "c": both, "d": both}.items():
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24)).astype(np.uint8)).save(
            tmp_path / "images" / f"{name}.png"
        )
        Image.fromarray(label).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "dataset.json").write_text(json.dumps(
        {"labels": {"0": "background", "1": "colon", "2": "ileum"}, "modality": {"0": "MR"},
         "training": [{"image": f"images/{n}.png", "label": f"labels/{n}.png"} for n in "abc"],
         "validation": [{"image": "images/d.png", "label": "labels/d.png"}]}
    ))  # fmt: skip
    check_dataset(read_dataset(tmp_path))
    assert 'in 1 of the 4 masks that hold "ileum" it is only a rim' in caplog.text and "b.png" in caplog.text
    assert 'hold "colon"' not in caplog.text


@pytest.mark.parametrize("codes", ["SLA", "LPS"])
def test_labels_are_measured_as_they_lie_on_their_images(tmp_path, codes):
    """Whatever the order of their own axes."""
    found = []
    for turned in (False, True):
        folder, affine, cases = tmp_path / str(turned), np.diag([1.0, 1, 4, 1]), []
        folder.mkdir()
        rng = np.random.default_rng(0)
        for name in "abc":
            nibabel.save(
                nibabel.Nifti1Image(rng.normal(100, 20, (40, 48, 12)).astype("f4"), affine), folder / f"{name}.nii.gz"
            )
            mask = np.zeros((40, 48, 12), np.uint8)
            mask[5:12, 10:30, 3:9] = 1
            drawn = nibabel.Nifti1Image(mask, affine)
            turn = nibabel.orientations.ornt_transform(*map(nibabel.orientations.axcodes2ornt, ("RAS", codes)))
            nibabel.save(drawn.as_reoriented(turn) if turned else drawn, folder / f"{name}_l.nii.gz")
            cases.append({"image": f"{name}.nii.gz", "label": f"{name}_l.nii.gz"})
        content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "x"}}
        (folder / "dataset.json").write_text(json.dumps(content | {"training": cases[:2], "validation": cases[2:]}))
        fingerprint = examine(read_dataset(folder)).fingerprint
        assert fingerprint is not None
        found.append(dataclasses.replace(fingerprint, seconds=0.0))
    assert found[0] == found[1]
