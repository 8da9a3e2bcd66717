"""A dataset.json is data: of whatever shape, it is read or refused in one line, and nothing in it is run."""

from __future__ import annotations

import json

import pytest
from dataset_maker import case, write

from sam_monai.data import read_dataset
from sam_monai.errors import InputError


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "3", "null", '"a"', "{", "[" * 5000, '{"labels": ' * 3000, "9" * 5000,
        '{"labels": {"' + "9" * 5000 + '": "a"}}',
        b"\xff\xfe{}", b"\x00\x01", "NaN",
    ],
    ids=str,
)  # fmt: skip
def test_a_dataset_json_of_any_shape_is_answered_in_one_line(tmp_path, text):
    (tmp_path / "dataset.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"dataset\.json") as error:
        read_dataset(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


ODD = [
    None,
    True,
    3,
    0.5,
    "",
    "text",
    [],
    [1],
    {},
    {"a": 1},
    {"_target_": "os.system"},
    [[["x"]]],
    "n" * 300,
    "a\0b",
    "\ud800",
]


@pytest.mark.parametrize("key", ["name", "modality", "channel_names", "labels", "training", "validation", "test"])
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_value_of_any_type_under_any_key_is_data_or_refused(tmp_path, key, value):
    write(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text()) | {key: value}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    try:
        dataset = read_dataset(tmp_path)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        assert isinstance(dataset.name, str) and all(isinstance(name, str) for name in dataset.labels)
        for case in dataset.training + dataset.validation + dataset.test:
            assert set(case) <= {"image", "label"} and all(isinstance(path, str) for path in case.values())


@pytest.mark.parametrize("value", ODD[:11] + ODD[13:], ids=repr)
@pytest.mark.parametrize("part", ["image", "label"])
def test_a_path_of_any_type_is_refused(tmp_path, part, value):
    if value == "text":
        value = 5
    with pytest.raises(InputError, match="entry 0"):
        read_dataset(write(tmp_path, training=[{**case(0), part: value}, case(1)]))


@pytest.mark.parametrize(
    "name",
    ["$import os", "  $x", "@network", "%x#y", "%", "_target_", "_requires_", "_import_", "a @x#y", "a%b#c", "a@::b"],
)
@pytest.mark.parametrize("form", [lambda name: {"0": "background", "1": name}, lambda name: {"background": 0, name: 1}])
def test_labels_that_a_configuration_would_run_are_refused_where_they_are_read(tmp_path, name, form):
    with pytest.raises(InputError, match=r"dataset\.json: the label .* would run or look up.*rename it"):
        read_dataset(write(tmp_path, labels=form(name)))


def test_labels_with_such_signs_inside_are_names(tmp_path):
    labels = {"0": "background", "1": "a$", "2": "50 % stenosis", "3": "_target", "4": "a@b"}
    assert read_dataset(write(tmp_path, labels=labels)).labels == tuple(labels.values())[1:]


@pytest.mark.parametrize("name", ["n" * 300, "a\nb", "a\x00b", "\ud800", "\u202eabc"])
def test_a_label_that_cannot_be_shown_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="is not a valid name"):
        read_dataset(write(tmp_path, labels={"0": "background", "1": name}))


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path):
    (tmp_path / "dataset.json").mkdir()
    with pytest.raises(InputError, match=r"its dataset\.json is no file"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("value", [5, 20240517, True, "", ["a"], 1.5])
def test_a_folder_that_is_no_path_is_refused(value):
    with pytest.raises(InputError, match="key dataset_dir"):
        read_dataset(value)


@pytest.mark.parametrize("key", ["seed", "train_cases_seed", "fold"])
@pytest.mark.parametrize("value", ["abc", -1, 1.5, True, [0]])
def test_a_number_that_is_none_is_refused(tmp_path, key, value):
    with pytest.raises(InputError, match=f"key {key}"):
        read_dataset(write(tmp_path), **{key: value})
