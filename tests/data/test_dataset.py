from __future__ import annotations

import logging
from pathlib import Path

import pytest
from dataset_maker import case, write

from sam_monai.data import images_to_segment, read_dataset
from sam_monai.data.channels_of_images import intensity_taken
from sam_monai.errors import InputError


def test_paths_become_absolute_and_of_other_keys_only_the_fold_is_kept(tmp_path, monkeypatch):
    training = [{**case(0), "fold": 3, "pred": "$x", "_target_": "os.system"}]
    write(tmp_path, training=training, test=["imagesTs/a.nii.gz", {"image": "b.nii.gz", "fold": 1}])
    monkeypatch.chdir(tmp_path.parent)
    dataset = read_dataset(tmp_path.name)
    assert dataset.training == [
        {"image": f"{tmp_path}/imagesTr/0.nii.gz", "label": f"{tmp_path}/labelsTr/0.nii.gz", "fold": 3}
    ]
    assert dataset.test == [{"image": f"{tmp_path}/imagesTs/a.nii.gz"}, {"image": f"{tmp_path}/b.nii.gz"}]
    assert dataset.folder == tmp_path and dataset.name == "made"


@pytest.mark.parametrize(
    "labels",
    [{"2": "tumour", "0": "background", "1": "liver"}, {"tumour": 2, "background": 0, "liver": 1}],
    ids=["decathlon", "nnunet"],
)
def test_labels_are_ordered_by_value_in_either_form(tmp_path, labels):
    assert read_dataset(write(tmp_path, labels=labels)).labels == ("liver", "tumour")


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {},
        ["background", "liver"],
        {"0": "background"},
        {"1": "liver"},
        {"0": "background", "2": "liver"},
        {"0": "background", "1": "liver", "2": "liver"},
        {"0": "background", "1": ""},
        {"0": "background", "liver": "1"},
        {"background": 0, "liver": 1, "tumour": 1},
        {"background": 0, "whole tumour": [1, 2], "core": 2},
        {"background": 0, "ignore": 1, "liver": 2},
        {"background": 0, "ignore": 1},
        {"background": False, "liver": True},
    ],
)
def test_labels_that_are_not_0_to_L_are_refused(tmp_path, labels):
    with pytest.raises(InputError, match=r"dataset\.json.*label"):
        read_dataset(write(tmp_path, labels=labels))


@pytest.mark.parametrize("labels", [{"0": "liver", "1": "tumour"}, {"liver": 0, "background": 1}])
def test_a_structure_is_not_lost_as_the_background(tmp_path, labels):
    with pytest.raises(InputError, match=r"gives the value 0 to 'liver'"):
        read_dataset(write(tmp_path, labels=labels))


@pytest.mark.parametrize("name", ["Background", "BG", "back ground", "", "unlabelled", "Other", "Hintergrund", "背景"])
def test_the_background_has_its_usual_names(tmp_path, name):
    assert read_dataset(write(tmp_path, labels={"0": name, "1": "liver"})).labels == ("liver",)


def test_without_validation_a_seeded_fifth_is_set_aside_and_named(tmp_path, caplog):
    write(tmp_path, validation=None)
    with caplog.at_level(logging.INFO):
        dataset = read_dataset(tmp_path)
    assert len(dataset.validation) == 2 and len(dataset.training) == 8
    assert dataset.reserved == tuple(Path(c["image"]).name for c in dataset.validation)
    assert all(name in caplog.text for name in dataset.reserved)
    everything = {c["image"] for c in dataset.training + dataset.validation}
    assert everything == {f"{tmp_path}/imagesTr/{n}.nii.gz" for n in range(10)}
    assert read_dataset(tmp_path) == dataset
    assert len({read_dataset(tmp_path, seed=s).reserved for s in range(8)}) > 1


@pytest.mark.parametrize("number", [2, 3, 7])
def test_the_split_leaves_a_case_on_either_side(tmp_path, number):
    dataset = read_dataset(write(tmp_path, validation=[], training=[case(n) for n in range(number)]))
    assert dataset.training and dataset.validation


def test_a_fold_is_validated_on_and_the_others_are_trained_on(tmp_path, caplog):
    write(tmp_path, training=[{**case(n), "fold": n % 3} for n in range(7)], validation=None)
    each = [read_dataset(tmp_path, fold=fold) for fold in range(3)]
    names = [[Path(c["image"]).name for c in dataset.validation] for dataset in each]
    assert names == [["0.nii.gz", "3.nii.gz", "6.nii.gz"], ["1.nii.gz", "4.nii.gz"], ["2.nii.gz", "5.nii.gz"]]
    for dataset in each:
        assert len(dataset.training) + len(dataset.validation) == 7 and not dataset.reserved
        assert not {c["image"] for c in dataset.training} & {c["image"] for c in dataset.validation}
    with caplog.at_level(logging.INFO):
        first = read_dataset(tmp_path)
    assert "fold 0 validates: 0.nii.gz, 3.nii.gz, 6.nii.gz" in caplog.text
    assert first.validation == each[0].validation and first.reserved == tuple(names[0])  # an adapter knows its own
    with pytest.raises(InputError, match="fold is 3.*0, 1, 2"):
        read_dataset(tmp_path, fold=3)
    write(tmp_path)
    with pytest.raises(InputError, match="states which cases validate, so there is no fold 0"):
        read_dataset(tmp_path, fold=0)


@pytest.mark.parametrize("fold", ["0", 0.0, True])
def test_folds_that_are_no_whole_numbers_are_refused_and_not_left_out(tmp_path, fold):
    write(tmp_path, training=[{**case(n), "fold": fold if n % 2 else 1} for n in range(6)], validation=None)
    for given in (None, 1):
        with pytest.raises(InputError, match=f'"fold" is {fold!r}; give whole numbers'):
            read_dataset(tmp_path, fold=given)


def test_with_validation_nothing_is_set_aside(tmp_path):
    dataset = read_dataset(write(tmp_path))
    assert dataset.reserved == () and len(dataset.training) == 10


def test_train_cases_takes_the_first_ones_after_the_split(tmp_path):
    every = read_dataset(write(tmp_path, validation=None))
    few = read_dataset(tmp_path, train_cases=3)
    assert few.training == every.training[:3] and few.validation == every.validation
    for wrong in (9, 0, -1, True, 2.0):
        with pytest.raises(InputError, match="train_cases"):
            read_dataset(tmp_path, train_cases=wrong)


def test_a_seed_draws_the_same_training_cases_every_time(tmp_path):
    every = read_dataset(write(tmp_path))
    drawn = [read_dataset(tmp_path, 4, train_cases_seed=seed).training for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and drawn[0] != every.training[:4]
    assert all(len(cases) == 4 and all(case in every.training for case in cases) for cases in drawn)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": None}, "training"),
        ({"training": []}, "training"),
        ({"training": {"0": case(0)}}, "training"),
        ({"training": ["a.nii.gz"]}, "entry 0"),
        ({"training": [case(0), {"image": "a.nii.gz"}]}, "entry 1"),
        ({"training": [{"image": [], "label": "l.nii.gz"}]}, "entry 0"),
        ({"training": [{"image": ["t1.nii.gz", 2], "label": "l.nii.gz"}]}, "entry 0"),
        ({"training": [{"image": ["t1.nii.gz", "t1.nii.gz"], "label": "l.nii.gz"}]}, "lists a file of its image twice"),
        ({"training": [{"image": "t1.nii.gz", "label": ["l.nii.gz"]}]}, "entry 0"),
        ({"training": [case(0), {"image": ["t1.nii.gz", "t2.nii.gz"], "label": "l.nii.gz"}]}, r"has 2 files"),
        ({"training": [case(0)], "validation": None}, "add a second case"),
        ({"training": [case(10), {**case(9), "image": "imagesTr/../imagesTr/11.nii.gz"}]}, "list others for training"),
        ({"validation": ["a.nii.gz"]}, '"validation"'),
        ({"test": [1]}, '"test"'),
        ({"modality": {"0": 1}}, "modality"),
    ],
)
def test_wrong_entries_are_named(tmp_path, changes, said):
    with pytest.raises(InputError, match=said) as error:
        read_dataset(write(tmp_path, **changes))
    assert "dataset.json" in str(error.value) and "\n" not in str(error.value)


def test_a_validation_case_is_not_trained_on_even_if_it_is_listed(tmp_path, caplog):
    dataset = read_dataset(write(tmp_path, training=[case(10), case(0), case(1)]), train_cases=2)
    assert [Path(c["image"]).name for c in dataset.training] == ["0.nii.gz", "1.nii.gz"]
    assert "10.nii.gz" in caplog.text


def test_missing_folder_missing_file_and_broken_json_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no dataset\.json"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": {},\n "training": [1,, 2]}')
    with pytest.raises(InputError, match="line 2, column 17"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(InputError, match="one JSON object"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "suffix", "intensity"),
    [
        ({"0": "CT"}, ".nii.gz", "ct"),
        ({"0": "contrast-enhanced ct scan"}, ".png", "ct"),
        ({"0": "MRI"}, ".nii.gz", "mr"),
        ({"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, ".nii.gz", "mr"),
        ({"0": "RGB"}, ".jpg", "picture"),
        ({"0": "R", "1": "G", "2": "B"}, ".png", "picture"),
        ("Dermoscopy", ".jpg", "picture"),
        (["colour fundus photograph"], ".jpg", "picture"),
    ],
)
def test_intensity_follows_the_modality(tmp_path, caplog, text, suffix, intensity):
    with caplog.at_level(logging.INFO):
        dataset = read_dataset(write(tmp_path, modality=text, training=[case(0, suffix)]))
        assert intensity_taken(dataset) == dataset.intensity == intensity
    assert not caplog.text


@pytest.mark.parametrize(("suffix", "intensity"), [(".PNG", "picture"), (".nii.gz", "mr"), (".nrrd", "mr")])
@pytest.mark.parametrize("text", [{"0": "OCT"}, "CT or MR", None])
def test_an_unknown_modality_is_decided_by_the_file_type_and_logged(tmp_path, caplog, text, suffix, intensity):
    with caplog.at_level(logging.INFO):
        dataset = read_dataset(write(tmp_path, modality=text, training=[case(0, suffix)]))
        assert intensity_taken(dataset) == dataset.intensity == intensity
    assert intensity in caplog.text


def test_channel_names_of_nnunet_count_as_modality(tmp_path):
    assert read_dataset(write(tmp_path, modality=None, channel_names={"0": "CT"})).intensity == "ct"


def test_images_to_segment_prefers_test_over_validation(tmp_path):
    write(tmp_path, test=["imagesTs/a.nii.gz"])
    assert images_to_segment(tmp_path) == [{"image": f"{tmp_path}/imagesTs/a.nii.gz"}]
    write(tmp_path, test=[])
    assert [Path(c["image"]).name for c in images_to_segment(tmp_path)] == ["10.nii.gz", "11.nii.gz"]
    assert images_to_segment(tmp_path / "dataset.json") == images_to_segment(tmp_path)
    assert all(c.keys() == {"image"} for c in images_to_segment(tmp_path))
