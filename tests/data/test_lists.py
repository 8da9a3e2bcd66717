"""A list of cases that says something twice is not guessed at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sam_monai.data import check_dataset, read_dataset
from sam_monai.errors import InputError

LABEL = np.random.default_rng(0).integers(0, 2, (9, 9, 3)).astype(np.uint8)
CASES = [{"image": f"{name}.nii", "label": f"l{name}.nii"} for name in "abc"]


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate("abc"):
        image = np.random.default_rng(seed).random(LABEL.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"{name}.nii")
        nib.save(nib.Nifti1Image(LABEL, np.eye(4)), tmp_path / f"l{name}.nii")
    return tmp_path


def notes(folder, training, validation=CASES[2:]) -> list[str]:
    content = {"labels": {"0": "background", "1": "x"}, "training": training, "validation": validation}
    (folder / "dataset.json").write_text(json.dumps(content))
    return check_dataset(read_dataset(folder))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"labels": {"0": "background", "1": "x"}, "training": [], "training": []}', "'training'"),
        ('{"labels": {"0": "background", "1": "x", "1": "y"}, "training": []}', "'1'"),
        (
            '{"labels": {"0": "background", "1": "x"}, "training": [{"image": "a", "label": "", "label": ""}]}',
            "'label'",
        ),
    ],
)
def test_a_key_that_is_there_twice_is_named(tmp_path, text, key):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=f"dataset.json.*the key {key} is there twice"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("labels", [["fo\u0301o", "f\u00f3o"], ["Background", "x"], ["x", "\uff38"]])
def test_labels_that_people_cannot_tell_apart_are_refused(tmp_path, labels):
    content = {"labels": {"0": "background"} | {str(i): name for i, name in enumerate(labels, 1)}, "training": CASES}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="same name twice"):
        read_dataset(tmp_path)


def test_an_image_that_is_listed_twice_or_is_a_label_too_is_refused(folder):
    (folder / "link.nii").symlink_to(folder / "a.nii")
    again = [*CASES[:2], {"image": "link.nii", "label": "lb.nii"}]
    for training, said in (([*CASES[:2], CASES[0]], "twice"), (again, "twice")):
        with pytest.raises(InputError, match=f"a.nii: is listed {said}"):
            notes(folder, training)
    with pytest.raises(InputError, match="c.nii: is listed twice"):
        notes(folder, CASES[:2], CASES[2:] * 2)
    with pytest.raises(InputError, match="lb.nii: is listed as an image and as a label"):
        notes(folder, [CASES[0], {"image": "lb.nii", "label": "lb.nii"}])


def test_copies_and_shared_labels_are_notes(folder):
    assert notes(folder, CASES[:2]) == []
    shutil.copy(folder / "c.nii", folder / "copy.nii")
    (found,) = notes(folder, [CASES[0], {"image": "copy.nii", "label": "lb.nii"}])
    assert "copy.nii and" in found and "hold the same image" in found
    (found,) = notes(folder, [CASES[0], {"image": "b.nii", "label": "la.nii"}])
    assert found.endswith("la.nii is the label of 2 cases")


def test_a_csv_that_cannot_be_parsed_is_a_line(tmp_path):
    (tmp_path / "list.csv").write_text(f"image,label\n{'x' * 200_000},l\n")
    with pytest.raises(InputError, match="list.csv: cannot be read as CSV"):
        read_dataset(tmp_path / "list.csv")


# -- a CSV, whatever wrote it ------------------------------------------------------------------------------------------


def split_of(folder, *rows: str, encoding: str = "utf-8") -> tuple[str, str]:
    """The names of the cases that a CSV has for training and for validation."""
    (folder / "list.csv").write_bytes("\r\n".join(rows).encode(encoding))
    dataset = read_dataset(folder / "list.csv")
    parts = ("".join(Path(case["image"]).stem for case in cases) for cases in (dataset.training, dataset.validation))
    return next(parts), next(parts)


SPLIT = ["{0}.nii,l{0}.nii,train", "{0}.nii,l{0}.nii,val", "{0}.nii,l{0}.nii,train"]
ROWS = [row.format(name) for row, name in zip(SPLIT, "abc", strict=True)]


@pytest.mark.parametrize("column", ["split", "Set", "subset", "partition", "dataset"])
def test_a_split_is_taken_from_its_column_whatever_it_is_called(folder, column):
    """Else another split is drawn, and what the authors left out is trained on."""
    assert split_of(folder, f"image,label,{column}", *ROWS) == ("ac", "b")
    assert split_of(folder, f"image,label,{column}", *ROWS, encoding="utf-16") == ("ac", "b")
    assert split_of(folder, "sep=;", f"image;label;{column}", *(row.replace(",", ";") for row in ROWS)) == ("ac", "b")


def test_folds_and_patients_are_taken_from_their_columns(folder):
    plain = [f"{name}.nii,l{name}.nii" for name in "abc"]
    assert split_of(folder, "image,label,fold", *(f"{row},{n}" for row, n in zip(plain, "101", strict=True))) == (
        "ac",
        "b",
    )
    assert (
        split_of(folder, "image,label,split,fold", *(f"{row},{n}" for row, n in zip(ROWS, "012", strict=True)))[1]
        == "b"
    )
    for column in ("patient", "Subject_ID", "patient id"):
        rows = (f"{row},{n}" for row, n in zip(plain, ("p1", "p2", "p2"), strict=True))
        assert split_of(folder, f"image,label,{column}", *rows) == ("a", "bc")


def test_where_every_image_is_of_another_patient_nobody_is_told_to_see_to_that(folder, caplog):
    plain = [f"{name}.nii,l{name}.nii" for name in "abc"]
    for cells, advised in (("123", False), (("1", "2", ""), True)):
        caplog.clear()
        with caplog.at_level("INFO"):
            split_of(folder, "image,label,patient", *(f"{row},{n}" for row, n in zip(plain, cells, strict=True)))
        assert "no split is stated, so the last case validates" in caplog.text
        assert ("list the validation cases yourself" in caplog.text) == advised


@pytest.mark.parametrize(
    ("columns", "more", "said"),
    [
        ("image,label,split,label", "xxx", "has the column label twice"),
        ("image,label,split,fold", ("1.0",) * 3, "row 2 has the split '1.0'"),
        ("image,label,set,phase", ("train", "val", "test"), "the columns set and phase each name a split"),
    ],
)
def test_columns_that_can_be_read_in_two_ways_are_refused(folder, columns, more, said):
    with pytest.raises(InputError, match=f"list.csv: {said}"):
        split_of(folder, columns, *(f"{row},{cell}" for row, cell in zip(ROWS, more, strict=True)))


def test_a_column_of_one_word_alone_is_no_split(folder):
    assert split_of(folder, "image,label,set,phase", *(f"{row},test" for row in ROWS)) == ("ac", "b")


@pytest.mark.parametrize(("key", "meant"), [("val", "validation"), ("Validation", "validation"), ("testing", "test")])
def test_a_list_of_cases_under_a_name_that_is_not_read_is_refused(folder, key, meant):
    """Else its cases are left out, and others are set aside in their place."""
    content = {"labels": {"0": "background", "1": "x"}, "training": CASES[:2], key: CASES[2:]}
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f'dataset.json: has the list "{key}".*call it "{meant}"'):
        read_dataset(folder)
    (folder / "dataset.json").write_text(json.dumps(content | {key: []}))
    assert len(read_dataset(folder).validation) == 1


# -- rows that do not belong together ----------------------------------------------------------------------------------


def sized(folder: Path, names: str, labels: str, *shapes: tuple[int, int, int]) -> Path:
    """Volumes of one shape each, with a list in which they have the labels of ``labels``, and these names."""
    for number, shape in enumerate(shapes):
        image = np.random.default_rng(number).random(shape).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / names.format(number))
        nib.save(nib.Nifti1Image((image > 0.5).astype(np.uint8), np.eye(4)), folder / labels.format(number))
    return folder


def unfit(folder: Path, names: str, labels: str, order: list[int]) -> list[str]:
    rows = [f"{names.format(i)},{labels.format(other)}" for i, other in enumerate(order)]
    (folder / "list.csv").write_text("\n".join(["image,label", *rows]))
    with pytest.raises(InputError) as error:
        check_dataset(read_dataset(folder / "list.csv"))
    return [line.rpartition("; ")[2] for line in str(error.value).splitlines()]


def test_a_label_that_fits_another_image_says_which(tmp_path):
    names, labels = "scan{}.nii", "mask{}.nii"
    sized(tmp_path, names, labels, (9, 9, 3), (9, 10, 3), (9, 11, 3), (9, 11, 3))
    said = unfit(tmp_path, names, labels, [1, 0, 2, 3])
    assert said == [f"it fits scan{i}.nii: are the rows or files shifted?" for i in (1, 0)]
    said = unfit(tmp_path, names, labels, [2, 1, 0, 3])
    assert said == ["save the label on the grid of its image", "it fits scan0.nii: are the rows or files shifted?"]


def test_a_label_that_fits_several_images_is_told_by_its_name(tmp_path):
    names, labels = "{}.nii", "{}_mask.nii"
    sized(tmp_path, names, labels, (9, 9, 3), (9, 10, 3), (9, 10, 3))
    assert unfit(tmp_path, names, labels, [2, 1, 0]) == [
        f"it fits {i}.nii: are the rows or files shifted?" for i in (2, 0)
    ]
    sized(tmp_path, "new.nii", "2_mask.nii", (9, 12, 3))
    assert unfit(tmp_path, names, labels, [2, 1, 0])[0] == "it is named like 2.nii: are the rows or files shifted?"


def test_a_label_that_lies_where_another_image_does_says_so(tmp_path):
    sized(tmp_path, "scan{}.nii", "mask{}.nii", (9, 9, 3), (9, 9, 3))
    for name in ("scan1.nii", "mask1.nii"):
        data = np.asarray(nib.load(tmp_path / name).dataobj).copy()
        nib.save(nib.Nifti1Image(data, np.diag([1, 1, 2, 1.0])), tmp_path / name)
    said = unfit(tmp_path, "scan{}.nii", "mask{}.nii", [1, 0])
    assert said == [f"it fits scan{i}.nii: are the rows or files shifted?" for i in (1, 0)]
