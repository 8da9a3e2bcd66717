"""Images of several channels: in one file, in a file for each, found by name; what lacks one is refused by its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_maker import AFFINE as DICOM_AFFINE
from dicom_maker import blob, write_series
from folder_maker import image, label, nnunet
from image_files import AFFINE, picture, volume
from monai.transforms import Compose

from sam_monai import InputError
from sam_monai.data import LoadCased, channels, check_dataset, examine, images_to_segment, read_dataset
from sam_monai.data.preparing import preparing
from sam_monai.inference.outputs import Outputs
from sam_monai.inference.records import fingerprint
from sam_monai.results.dataset_file import write_dataset

NAMES = ("CT", "T2", "ADC")
RNG = np.random.default_rng(0)
SETTINGS = {"spatial_dims": 3, "intensity": "mr", "ct_window": [-160, 240], "orientation": "coarsest", "spacing": None,
            "channels": None, "scale": "whole", "image_channels": 3, "channel_names": list(NAMES)}  # fmt: skip


def stack(*paths: Path) -> np.ndarray:
    return np.stack([np.asarray(LoadCased("image")({"image": str(path)})["image"][0]) for path in paths])


def load(case, names=NAMES, **options) -> np.ndarray:
    case = case if isinstance(case, dict) else {"image": str(case)}
    return np.asarray(LoadCased("image", channel_names=names, **options)(case)["image"])


def decathlon(top: Path, modality, times: int, number: int = 3) -> Path:
    """Volumes with a fourth dimension, as of BRATS."""
    items = []
    for i in range(number):
        (top / "imagesTr").mkdir(parents=True, exist_ok=True)
        volume(top / f"imagesTr/{i}.nii.gz", RNG.integers(1, 200, (9, 8, 3, times)).astype(np.int16))
        label(top / f"labelsTr/{i}.nii.gz")
        items.append({"image": f"imagesTr/{i}.nii.gz", "label": f"labelsTr/{i}.nii.gz"})
    content = {"modality": modality, "labels": {"0": "background", "1": "a", "2": "b"}, "training": items[:-1]}
    (top / "dataset.json").write_text(json.dumps({**content, "validation": items[-1:]}))
    return top


def test_channels_are_named_by_their_numbers_whatever_the_order_of_their_names(tmp_path):
    folder = nnunet(tmp_path, channels=3)
    content = json.loads((folder / "dataset.json").read_text())
    content["channel_names"] = dict(reversed(content["channel_names"].items()))
    (folder / "dataset.json").write_text(json.dumps(content))
    assert read_dataset(folder).channels == NAMES and read_dataset(folder).intensity == ["ct", "mr", "mr"]


def test_cases_of_several_channels_may_have_numbers_of_four_digits(tmp_path):
    for i in range(3):
        volume(tmp_path / f"case_{i:04d}.nii.gz", RNG.integers(1, 200, (9, 8, 3, 2)).astype(np.int16))
    assert load(tmp_path / "case_0001.nii.gz", names=("T1", "T2")).shape == (2, 9, 8, 3)


# -- data sets ---------------------------------------------------------------------------------------------------------


def test_nnunets_files_of_a_case_are_the_channels_of_its_image(tmp_path):
    folder = nnunet(tmp_path, channels=3)
    dataset = read_dataset(folder)
    assert dataset.channels == NAMES and dataset.intensity == ["ct", "mr", "mr"]
    case = dataset.training[0]
    assert [path[-12:-7] for path in case["channel_files"]] == ["_0000", "_0001", "_0002"]
    expected = stack(*map(Path, case["channel_files"]))
    assert np.array_equal(load(case), expected)
    assert np.array_equal(load(case["image"]), expected)  # as a server gives it, by a path alone
    assert np.array_equal(load(case["channel_files"][2]), expected)
    assert np.array_equal(load(case, ("ADC", "CT"), channels=[2, 0]), expected[[2, 0]])
    assert np.array_equal(load(case["image"], ("ADC", "CT"), channels=[2, 0]), expected[[2, 0]])
    assert np.array_equal(load(case, None, channels=[1]), expected[[1]])
    assert check_dataset(dataset) == [] and examine(dataset).fingerprint.channels == 3
    assert len(dataset.test[0]["channel_files"]) == 3


def test_a_fourth_dimension_that_is_named_holds_channels(tmp_path):
    dataset = read_dataset(decathlon(tmp_path / "a", {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, 4))
    assert dataset.channels == ("FLAIR", "T1w", "t1gd", "T2w") and dataset.intensity == "mr"
    assert check_dataset(dataset) == [] and load(dataset.training[0], dataset.channels).shape == (4, 9, 8, 3)
    with pytest.raises(InputError, match=r'0\.nii\.gz: has 4 time points.*"channel_names"'):
        check_dataset(read_dataset(decathlon(tmp_path / "b", {"0": "MRI"}, 4)))
    with pytest.raises(InputError, match=r"0\.nii\.gz: has 3 channels where 2 are needed, T2, ADC"):
        check_dataset(read_dataset(decathlon(tmp_path / "c", {"0": "T2", "1": "ADC"}, 3)))


def test_three_channels_are_colours_where_they_are_called_so_and_else_a_mixture(tmp_path):
    for text, found in (({"0": "R", "1": "G", "2": "B"}, ()), ({"0": "T1", "1": "T2", "2": "PD"}, ("T1", "T2", "PD"))):
        assert read_dataset(decathlon(tmp_path / str(len(found)), text, 3)).channels == found


def test_a_list_of_files_in_a_dataset_json(tmp_path):
    items = []
    for i in range(3):
        files = [image(tmp_path / f"{kind}/{i}.nii.gz") for kind in ("t1", "pet")]
        label(tmp_path / f"labels/{i}.nii.gz")
        items.append({"image": [str(f.relative_to(tmp_path)) for f in files], "label": f"labels/{i}.nii.gz"})
    content = {"labels": {"0": "background", "1": "a", "2": "b"}, "training": items}
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"channel_names": {"0": "T1", "1": "PET"}}))
    dataset = read_dataset(tmp_path)
    assert dataset.channels == ("T1", "PET") and check_dataset(dataset) == []
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert read_dataset(tmp_path).channels == ("channel 0", "channel 1")
    items[1]["image"].append("t1/0.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"1\.nii\.gz has 3 files where .* has 2; list a file for each channel"):
        read_dataset(tmp_path)


def test_pictures_of_stains_beside_masks_become_a_dataset_with_names(tmp_path):
    for i in range(6):
        for k in range(2):
            (tmp_path / "images").mkdir(exist_ok=True)
            picture(tmp_path / f"images/c{i}_000{k}.png", RNG.integers(0, 200, (9, 8), np.uint8))
        label(tmp_path / f"masks/c{i}.png")
    assert read_dataset(tmp_path).channels == ("channel 0", "channel 1")
    write_dataset(tmp_path, modality="DAPI,GFP")
    dataset = read_dataset(tmp_path)
    assert dataset.channels == ("DAPI", "GFP") and dataset.intensity == "picture" and check_dataset(dataset) == []


def test_cases_from_elsewhere_are_trained_on_by_the_names_given(tmp_path):
    dataset = read_dataset(nnunet(tmp_path, channels=3))
    bare = [{key: case[key] for key in ("image", "label")} for case in dataset.training]
    found = examine(read_dataset(None), labels=dataset.labels, cases=bare, channel_names=NAMES)
    assert found.notes == []
    with pytest.raises(InputError, match="its images have the channels CT, T2, ADC, and the adapter takes T2, CT, ADC"):
        examine(dataset, channel_names=("T2", "CT", "ADC"))


# -- what cannot be right ----------------------------------------------------------------------------------------------


def spoil(top: Path, kind: str) -> Path:
    case = top / "imagesTr" / "case_0_0001.nii.gz"
    arrays = {"size": (9, 8, 4), "place": (9, 8, 3), "several": (9, 8, 3, 2)}
    case.unlink()
    if kind in arrays:
        volume(case, RNG.random(arrays[kind]).astype(np.float32), AFFINE + moved() * (kind == "place"))
    elif kind == "empty":
        volume(case, np.zeros((9, 8, 3), np.float32))
    elif kind == "broken":
        case.write_bytes(b"x")
    return top / "imagesTr" / "case_0_0000.nii.gz"


def moved() -> np.ndarray:
    shift = np.zeros((4, 4))
    shift[0, 3] = 2.0
    return shift


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", r"case_0_0001\.nii\.gz: no such file, and it would hold the channel T2 of case_0_0000\.nii\.gz"),
        ("size", r"case_0_0001\.nii\.gz: is 9 x 8 x 4, and .*_0000\.nii\.gz, another channel of it, is 9 x 8 x 3"),
        ("place", r"case_0_0001\.nii\.gz: lies up to 4 voxels from its other channel"),
        ("empty", r"case_0_0001\.nii\.gz: every intensity is 0"),
        ("several", r"case_0_0001\.nii\.gz: has 2 channels, and it is one of 3 files of a channel each"),
        ("broken", r"case_0_0001\.nii\.gz: cannot be read"),
    ],
)
def test_a_channel_that_does_not_fit_is_named_by_its_file(tmp_path, kind, said):
    with pytest.raises(InputError, match=said) as error:
        load(spoil(nnunet(tmp_path, 2, channels=3), kind))
    assert "\n" not in str(error.value)


def test_other_images_than_the_adapters_are_refused_where_they_are_loaded(tmp_path):
    folder = nnunet(tmp_path, 2, channels=2)
    case = read_dataset(folder).training[0]
    for wanted, said in ((None, "has 2 channel files where images of one channel or of colours"), (NAMES, "2 channel")):
        with pytest.raises(InputError, match=said):
            load(case, wanted)
    with pytest.raises(InputError, match=r"a\.nii\.gz: has 1 channel where 3 are needed, CT, T2, ADC"):
        load(image(tmp_path / "a.nii.gz"))
    with pytest.raises(InputError, match=r"channels is \[0\]; give 2"):
        LoadCased("image", channels=[0], channel_names=("a", "b"))
    with pytest.raises(InputError, match=r"give 1 or 3 indices"):
        LoadCased("image", channels=[0, 1])


def test_a_file_of_all_channels_with_files_named_like_channels_beside_it_is_refused(tmp_path):
    for i in range(3):
        shape = (9, 8, 3, 3) if i == 1 else (9, 8, 3)
        volume(tmp_path / f"case_{i:04d}.nii.gz", RNG.random(shape).astype(np.float32))
    with pytest.raises(InputError, match="holds 3 channels, and the files beside it are named as if each held one"):
        load(tmp_path / "case_0001.nii.gz")
    (tmp_path / "case_0002.nii.gz").unlink()
    assert load(tmp_path / "case_0001.nii.gz").shape == (3, 9, 8, 3)


# -- inference ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_files_is_put_together_by_number_and_by_name_and_lacking_ones_are_named(tmp_path):
    for name in ("a_0000", "a_0001", "a_0002", "b_CT", "b_t2", "b_ADC", "c_0000", "c_0002"):
        image(tmp_path / "in" / f"{name}.nii.gz")
    volume(tmp_path / "in" / "d.nii.gz", RNG.random((9, 8, 3, 3)).astype(np.float32))
    found = images_to_segment(tmp_path / "in", spatial_dims=3, channel_names=NAMES)
    assert [Path(case["image"]).name for case in found] == ["a_0000.nii.gz", "b_CT.nii.gz", "d.nii.gz"]
    assert [load(case).shape for case in found] == [(3, 9, 8, 3)] * 3
    ((path, reason),) = found.passed_over
    assert path.endswith("c_0000.nii.gz") and "c_0001.nii.gz: no such file" in reason and "channel T2" in reason
    assert len(images_to_segment(tmp_path / "in", spatial_dims=3)) == 9  # for an adapter of grey images


@pytest.mark.parametrize("taken", [[0, 1], [0, 2], [1, 2]])
def test_an_image_is_segmented_once_whichever_of_its_channels_are_taken(tmp_path, taken):
    for i in range(3):
        image(tmp_path / f"a_{i:04d}.nii.gz")
    found = images_to_segment(tmp_path, spatial_dims=3, channel_names=[NAMES[i] for i in taken], channels=taken)
    assert [Path(case["image"]).name for case in found] == [f"a_{taken[0]:04d}.nii.gz"]


def test_a_file_of_a_channel_that_is_not_taken_is_passed_over_and_not_tried_as_an_image(tmp_path):
    for name in ("a_CT", "a_T2", "a_ADC", "a_b_CT", "a_b_ADC"):
        image(tmp_path / f"{name}.nii.gz")
    volume(tmp_path / "a_all.nii.gz", RNG.random((9, 8, 3, 2)).astype(np.float32))
    found = images_to_segment(tmp_path, spatial_dims=3, channel_names=("CT", "ADC"))
    assert [Path(case["image"]).name for case in found] == ["a_CT.nii.gz", "a_all.nii.gz", "a_b_CT.nii.gz"]
    ((path, reason),) = found.passed_over
    assert path.endswith("a_T2.nii.gz") and "of the image of a_CT.nii.gz, which has CT, ADC" in reason


@pytest.mark.parametrize("number", [0, 1])
def test_an_adapter_of_one_channel_takes_its_file_of_each_image_and_not_the_others(tmp_path, number, caplog):
    """Those of other channels would get masks of a network that knows nothing of them."""
    made = {name: image(tmp_path / f"{name}.nii.gz") for name in ("a_0000", "a_0001", "b_0000", "b_0001", "c_0000")}
    volume(tmp_path / "d_0000.nii.gz", RNG.random((9, 8, 3, 2)).astype(np.float32))
    found = images_to_segment(tmp_path, spatial_dims=3, channels=[number])
    names = [Path(case["image"]).name.removesuffix(".nii.gz") for case in found]
    assert names == [["a_0000", "b_0000", "c_0000", "d_0000"], ["a_0001", "b_0001", "d_0000"]][number]
    assert "2 files such as a_000" in caplog.text and f"takes channel {number}" in caplog.text
    lacking = [reason for _, reason in found.passed_over]
    assert not lacking if number == 0 else len(lacking) == 1 and "c_0001.nii.gz: no such file" in lacking[0]
    for case, name in zip(found, names, strict=True):
        if name in made:
            expected = LoadCased("image")({"image": str(made[name])})["image"]
            assert LoadCased("image", channels=[number])(case)["image"].equal(expected)
    assert images_to_segment(made["a_0001"], channels=[0]) == [{"image": str(made["a_0001"])}]  # what is asked for
    (case,) = images_to_segment(tmp_path / "a_0000.nii.gz", channels=[1])
    assert case["image"] == str(made["a_0001"])
    (case,) = images_to_segment(tmp_path / "c_0000.nii.gz", channels=[1])
    with pytest.raises(InputError, match=r"c_0000\.nii\.gz: has one channel, 0, and the key channels.*CASE_0001"):
        LoadCased("image", channels=[1])(case)


@pytest.mark.parametrize(("first", "number", "channels"), [(1, 8, [0]), (0, 9, [0]), (0, 5, None), (0, 5, [0, 0, 0])])
def test_numbers_of_images_are_not_taken_for_those_of_channels(tmp_path, first, number, channels):
    for i in range(number):
        image(tmp_path / f"patient_{first + i:04d}.nii.gz")
    assert len(images_to_segment(tmp_path, spatial_dims=3, channels=channels)) == number


def test_images_with_numbers_for_names_are_not_taken_for_channels_of_one(tmp_path):
    for i in range(4):
        volume(tmp_path / f"img_{i:04d}.nii.gz", RNG.random((9, 8, 3, 3)).astype(np.float32))
    assert len(images_to_segment(tmp_path, spatial_dims=3, channel_names=NAMES)) == 4


def test_a_dataset_with_other_channels_is_not_segmented(tmp_path):
    folder = nnunet(tmp_path, channels=3)
    assert len(images_to_segment(folder, channel_names=NAMES)[0]["channel_files"]) == 3
    assert len(images_to_segment(folder, channels=[0])) == 1
    assert len(images_to_segment(folder, channel_names=("ADC", "CT"), channels=[2, 0])) == 1
    for wanted in (None, NAMES[::-1], NAMES[:2], ("CT", "T2", "PET")):
        with pytest.raises(
            InputError, match=r"dataset\.json: its images have the channels CT, T2, ADC, and the adapter"
        ):
            images_to_segment(folder, channel_names=wanted)


def test_a_study_is_done_anew_where_one_of_its_channels_has_changed(tmp_path):
    case = {"image": str(image(tmp_path / "a_0000.nii.gz"))}
    image(tmp_path / "a_0001.nii.gz")
    before = fingerprint(*channels.files_of(case, ("T1", "T2")))
    volume(tmp_path / "a_0001.nii.gz", RNG.random((9, 8, 7)).astype(np.float32))
    assert fingerprint(*channels.files_of(case, ("T1", "T2"))) != before


def test_a_picture_of_results_is_not_taken_for_a_channel(tmp_path):
    """That of an image is named by its first channel, and lies where the images do."""
    for name in ("p1_T1", "p1_T2", "p2_T1", "p2_T2"):
        image(tmp_path / f"{name}.nii.gz")
    before = images_to_segment(tmp_path, spatial_dims=3, channel_names=("T1", "T2"))
    for case in before:
        Outputs(tmp_path).write("a picture", Path(case["image"].replace(".nii.gz", ".png")), case["image"])
    after = images_to_segment(tmp_path, spatial_dims=3, channel_names=("T1", "T2"))
    assert [case for case in after if case in before] == before and not after.passed_over


# -- intensities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", ["mr", ["ct", "mr", "mr"]])
def test_each_channel_is_scaled_by_itself(tmp_path, kinds):
    ranges = ((-1000, 1000), (0, 5), (0, 30000))
    for i, (low, high) in enumerate(ranges):
        volume(tmp_path / f"a_{i:04d}.nii.gz", RNG.uniform(low, high, (12, 10, 4)).astype(np.float32))
    settings = SETTINGS | {"intensity": kinds}
    case = {"image": str(tmp_path / "a_0000.nii.gz")}
    ready = Compose([LoadCased("image", channel_names=NAMES), *preparing(settings)])(case)["image"]
    assert ready.shape[0] == 3 and [float(channel.max()) for channel in ready] == pytest.approx([1, 1, 1])
    assert [float(channel.min()) for channel in ready] == pytest.approx([0, 0, 0])
    inside = float(((ready[0] > 0) & (ready[0] < 1)).float().mean())  # of the window, or of the channel's own range
    assert inside < 0.4 if kinds != "mr" else inside > 0.9


def test_the_channels_that_are_chosen_bring_their_kinds():
    kinds = ["ct", "mr", "mr"]
    for chosen, found in ((None, kinds), ([0], "ct"), ([2, 1], "mr"), ([0, 0, 0], "ct"), ([1, 0], ["mr", "ct"])):
        assert channels.kinds_taken(kinds, chosen) == found
        assert channels.kinds_taken("mr", chosen) == "mr"
    with pytest.raises(InputError, match="channels 0 to 2"):
        channels.kinds_taken(kinds, [3])
    for chosen, found in ((None, list(NAMES)), ([0], None), ([2, 0], ["ADC", "CT"]), ([0, 0, 0], None)):
        assert channels.taken(NAMES, chosen) == found


def test_kinds_that_are_not_as_many_as_channels_are_refused():
    for names in (None, ["a", "b", "c"]):
        with pytest.raises(InputError, match="the key intensity lists 2 kinds"):
            preparing(SETTINGS | {"intensity": ["ct", "mr"], "channel_names": names})


@pytest.mark.parametrize("channels", [[1, 2], [1, 0], [3]])
def test_files_that_are_taken_are_compared_with_their_own_names(tmp_path, channels):
    names, cases = ("flair", "t1", "t1ce", "t2"), []
    for case in "abc":
        files = [image(tmp_path / f"{case}_{name}.nii.gz").name for name in names]
        cases.append({"image": files, "label": label(tmp_path / f"{case}_seg.nii.gz").name})
    content = {"channel_names": dict(enumerate(names)), "labels": {"0": "background", "1": "a", "2": "b"}}
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"training": cases[:2], "validation": cases[2:]}))
    assert check_dataset(read_dataset(tmp_path), channels=channels) == []


def test_each_channel_is_of_the_kind_that_its_own_words_or_header_say(tmp_path):
    for case in range(3):
        for name, modality in (("one", "CT"), ("two", "PT")):
            write_series(tmp_path / f"{case}_{name}", blob((9, 8, 3), case), DICOM_AFFINE, Modality=modality)
        label(tmp_path / f"{case}_seg.nii.gz")
    cases = [{"image": [f"{i}_one", f"{i}_two"], "label": f"{i}_seg.nii.gz"} for i in range(3)]
    content: dict = {"labels": {"0": "background", "1": "a", "2": "b"}, "training": cases[:2], "validation": cases[2:]}
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"channel_names": {"0": "one", "1": "uptake"}}))
    assert read_dataset(tmp_path).intensity == ["ct", "mr"]
    stated = {"modality": {"0": "MR", "1": "CT"}, "channel_names": {"0": "first", "1": "second"}}
    (tmp_path / "dataset.json").write_text(json.dumps(content | stated))
    assert read_dataset(tmp_path).intensity == ["mr", "ct"]
