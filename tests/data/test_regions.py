"""nnU-Net's regions, as a folder states them: read, examined, written again, or refused in one line."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from dicom_maker import AFFINE, blob, write_segmentation, write_series
from folder_maker import SHAPE, mask, nnunet, segmentations
from image_files import volume

from sam_monai.data import LoadCased, check_dataset, examine, read_dataset
from sam_monai.data.dicom_seg import is_segmentation
from sam_monai.data.overlaps import found_overlaps
from sam_monai.data.sides import mirrored_with_sides
from sam_monai.data.unlabelled import UNLABELLED
from sam_monai.errors import InputError
from sam_monai.networks.regions import masks_of
from sam_monai.results.dataset_file import write_dataset
from sam_monai.training.samples import mirroring

NESTED = {"background": 0, "whole tumour": [1, 2], "core": 2}
ORDER = "regions_class_order"


def test_regions_of_an_nnunet_folder_are_labels_with_several_values(tmp_path):
    folder = nnunet(tmp_path, labels={"core": [2], "background": [0], "whole": [2, 1]}, **{ORDER: [2, 1]})
    with pytest.raises(InputError, match="mask would hold 1"):  # the core would be painted over
        read_dataset(folder)
    folder = nnunet(tmp_path, labels=NESTED, **{ORDER: [1, 2]})
    dataset = read_dataset(folder)
    assert dataset.labels == ("whole tumour", "core") and dataset.regions == ((1, 2), (2,))
    label = LoadCased("label", labels=dataset.labels, regions=dataset.regions)(dataset.training[0])["label"]
    assert set(label.unique().tolist()) == {0, 1, 2}
    whole, core = masks_of(label, 2, dataset.regions)
    assert whole.sum() == 2 * core.sum() > 0


def test_lists_of_one_value_each_are_plain_labels(tmp_path):
    dataset = read_dataset(nnunet(tmp_path, labels={"background": 0, "liver": [2], "tumour": [1]}))
    assert dataset.labels == ("tumour", "liver") and dataset.regions is None


def test_the_ignore_label_follows_the_values_of_regions(tmp_path):
    folder = nnunet(tmp_path, labels={"background": 0, "all": [1, 2], "core": [2], "ignore": 3}, **{ORDER: [1, 2]})
    array = np.zeros((9, 8, 3), np.uint8)
    array[:3], array[3:6], array[6:] = 1, 2, 3
    volume(folder / "labelsTr/case_0.nii.gz", array)
    dataset = read_dataset(folder)
    case = next(c for c in (*dataset.training, *dataset.validation) if c["label"].endswith("case_0.nii.gz"))
    label = LoadCased("label", labels=dataset.labels, regions=dataset.regions)(case)["label"]
    assert set(label.unique().tolist()) == {1, 2, UNLABELLED}
    assert int(masks_of(label, 2, dataset.regions).sum()) == (6 + 3) * 8 * 3


@pytest.mark.parametrize(
    ("labels", "order", "said"),
    [
        (NESTED, None, f'"{ORDER}" is missing, and there are 2 regions'),
        (NESTED, [1], rf'"{ORDER}" is \[1\], and there are 2 regions'),
        (NESTED, {"a": 1}, f'"{ORDER}" is .*, and there are 2 regions'),
        (NESTED, [1, 3], "'core' the value 3, which is none of its values"),
        (NESTED, [1, "2"], "'core' the value 2, which is none of its values"),
        (NESTED, [2, 2], "do not fit together: a voxel of value 1 is 'whole tumour', and a mask would hold 2"),
        (NESTED | {"core": [2, [1]]}, [1, 2], "'core' no whole number and no list of these"),
        (NESTED | {"core": []}, [1, 2], "'core' no whole number and no list of these"),
        (NESTED | {"core": "2"}, [1, 2], "'core' no whole number and no list of these"),
        (NESTED | {"core": None}, [1, 2], "'core' no whole number and no list of these"),
        (NESTED | {"core": [2, True]}, [1, 2], "'core' no whole number and no list of these"),
        (NESTED | {"core": [0, 2]}, [1, 2], "'core' holds 0, which is the background's"),
        (NESTED | {"core": [2, 5]}, [1, 2], "hold the values 1, 2, 5, .* without a gap"),
        (NESTED | {"core": [2, -1]}, [1, 2], "'core' holds -1, which is no whole number"),
        (NESTED | {"core": [2, 10**30]}, [1, 2], "'core' holds 1000000.*no whole number"),
        (NESTED | {"core": [2, 1]}, [1, 2], "'whole tumour' and 'core' are the same values"),
        (NESTED | {"background": 1}, [1, 2], '"background"'),
        (NESTED | {"ignore": 4}, [1, 2], "have the next value, 3"),
        (NESTED | {"ignore": [3, 4]}, [1, 2], "have the next value, 3"),
        (NESTED | {"": [2]}, [1, 2, 2], "are the same values"),
        ({"background": 0, "x": [1, 2], "X ": 2}, [1, 2], "same name twice"),
        ({"background": 0, "x": [1, 2], "$y": 2}, [1, 2], "a configuration would run"),
        ({"a": [1, 2], "b": 2}, [1, 2], '"background"'),
    ],
)  # fmt: skip
def test_wrong_regions_are_refused_in_one_line(tmp_path, labels, order, said):
    with pytest.raises(InputError, match=said) as error:
        read_dataset(nnunet(tmp_path, labels=labels, **{ORDER: order}))
    assert str(error.value).startswith(str(tmp_path / "dataset.json")) and "\n" not in str(error.value)


def test_a_value_of_no_region_in_a_label_file_is_refused(tmp_path):
    folder = nnunet(tmp_path, labels=NESTED, **{ORDER: [1, 2]})
    volume(folder / "labelsTr/case_0.nii.gz", np.full((9, 8, 3), 3, np.uint8))
    with pytest.raises(InputError, match=r"case_0\.nii\.gz: holds the values 3, known are 0 to 2"):
        check_dataset(read_dataset(folder))


def test_the_check_measures_regions_and_names_one_that_no_case_holds(tmp_path, caplog):
    labels = {"background": 0, "all": [1, 2, 3], "front": [1, 3], "rare": 3}
    folder = nnunet(tmp_path, labels=labels, **{ORDER: [2, 1, 3]})
    examined = examine(read_dataset(folder))
    assert examined.notes == ['no training label holds "rare" (value 3): the network cannot learn it']
    assert examined.fingerprint is not None
    prints = {one.name: one for one in examined.fingerprint.labels}
    assert prints.keys() == {"all", "front"} and prints["all"].share == pytest.approx(2 * prints["front"].share)
    with pytest.raises(InputError, match="the key regions says one value each"):
        examine(read_dataset(folder), labels=("all", "front", "rare"))


def test_the_command_that_writes_a_dataset_json_keeps_regions(tmp_path):
    folder = nnunet(tmp_path / "in", labels=NESTED | {"ignore": 3}, **{ORDER: [1, 2]})
    before = read_dataset(folder)
    write_dataset(folder, output=tmp_path / "out")
    after = read_dataset(tmp_path / "out")
    assert (after.labels, after.regions) == (before.labels, before.regions)
    assert {case["ignore"] for case in after.training} == {3}
    content = json.loads((tmp_path / "out/dataset.json").read_text())
    assert content["labels"] == {"background": 0, "whole tumour": [1, 2], "core": [2], "ignore": 3}


def test_masks_of_their_own_become_the_label_map_of_regions(tmp_path):
    folder = segmentations(tmp_path)
    case = {"image": folder / "s0000/ct.nii.gz", "label": folder / "s0000/segmentations"}
    load = LoadCased(labels=("liver", "kidney left"), regions=[[1, 2], [2]])
    with pytest.raises(InputError, match=r"kidney_left\.nii\.gz: 72 of its voxels lie outside the labels that hold it"):
        load(case)
    mask(folder / "s0000/segmentations/kidney_left.nii.gz", 1, 3)
    label = np.zeros(SHAPE)
    label[:3], label[1:3] = 1, 2
    assert np.array_equal(load(case)["label"][0], label)


def test_samples_of_regions_with_a_side_are_not_mirrored(caplog):
    steps, regions = mirroring(True, "turns"), [[1, 2], [2]]
    with caplog.at_level(logging.INFO):
        assert mirrored_with_sides(steps, ("left kidney", "right kidney"), regions=regions) == []
    assert "not mirrored" in caplog.text
    assert mirrored_with_sides(steps, ("kidney", "tumour"), regions=regions) == steps


def test_regions_are_overlapping_segments_of_a_dicom_seg(tmp_path):
    import highdicom as hd

    series = tmp_path / "series"
    write_series(series, blob((12, 10, 4)), AFFINE)
    mask = np.zeros((12, 10, 4), np.uint8)
    mask[2:8, 2:8, 1:3], mask[4:6, 3:5, 1] = 1, 2
    path = tmp_path / "seg.dcm"
    write_segmentation(mask, AFFINE, series, ("whole", "core"), path, [[1, 2], [2]])
    assert is_segmentation(path)
    found = hd.seg.segread(path).get_volume(combine_segments=False, allow_missing_positions=True)
    assert found.array.sum((0, 1, 2)).tolist() == [(mask > 0).sum(), (mask == 2).sum()]
    plain = tmp_path / "plain.dcm"
    write_segmentation(mask, AFFINE, series, ("shell", "core"), plain)
    alone = hd.seg.segread(plain).get_volume(combine_segments=False, allow_missing_positions=True)
    assert alone.array[..., 1].sum() == found.array[..., 1].sum() and alone.array[..., 0].sum() == (mask == 1).sum()
    load = LoadCased(("image", "label"), labels=("whole", "core"), regions=[[1, 2], [2]])
    assert np.array_equal(load({"image": str(series), "label": str(path)})["label"][0], mask[..., ::-1])
    case, names = {"image": str(series), "label": str(path)}, ("whole", "core")
    assert found_overlaps([case], names, LoadCased("label", labels=names).masks) == ((1, 3), (2, 3))
