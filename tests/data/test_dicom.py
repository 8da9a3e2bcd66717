"""DICOM as hospitals keep it: series found, geometry read right or refused."""

from __future__ import annotations

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from dicom_maker import (
    AFFINE,
    Named,
    blob,
    compress,
    decimal,
    slice_file,
    spoil,
    threshold,
    write_multiframe,
    write_series,
)
from PIL import Image
from pydicom.data import get_testdata_file

from sam_monai import InputError
from sam_monai.data import LoadCased, check_dataset, images_to_segment, read_dataset
from sam_monai.data.dicom_series import is_dicom_picture, list_series, series_of
from sam_monai.data.kind import CheckKind
from sam_monai.errors import warn_once


def test_several_series_of_a_folder_are_told_apart(tmp_path):
    write_series(tmp_path, blob((8, 8, 5)), AFFINE, SeriesDescription="thin", SeriesNumber=2)
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / f"a{file.name}")
    coronal = AFFINE[:, [0, 2, 1, 3]]
    files = write_series(tmp_path, blob((8, 8, 4)), coronal, SeriesDescription="coronal", SeriesNumber=1)
    assert [(s.description, len(s.files)) for s in list_series(tmp_path)] == [("coronal", 4), ("thin", 5)]
    with pytest.raises(InputError, match="holds 2 DICOM images(.|\n)*coronal, 4 file(.|\n)*thin, 5 file"):
        series_of(tmp_path)
    assert LoadCased("image")({"image": files[2]})["image"].shape == (1, 8, 8, 4)
    assert len(images_to_segment(tmp_path)) == 2
    write_series(tmp_path / "below" / "deep", blob((8, 8, 3)), AFFINE)
    assert images_to_segment(tmp_path)[-1] == {"image": str(tmp_path / "below" / "deep")}


def test_a_localiser_of_the_same_series_is_an_image_of_its_own(tmp_path):
    write_series(tmp_path, blob((8, 8, 5)), AFFINE, SeriesInstanceUID="1.2.3")
    scout = slice_file(blob((8, 8)), SeriesInstanceUID="1.2.3", ImagePositionPatient=decimal([0, 0, 0]),
                       ImageOrientationPatient=decimal([0, 1, 0, 0, 0, -1]), PixelSpacing=decimal([1, 1]))  # fmt: skip
    scout.save_as(tmp_path / "scout.dcm", enforce_file_format=True)
    assert sorted(len(s.files) for s in list_series(tmp_path)) == [1, 5]


def test_wrong_geometry_is_refused_by_name(tmp_path):
    def made(name):
        return write_series(tmp_path / name, blob((8, 8, 12)), AFFINE)

    def refused(name, match):
        with pytest.raises(InputError, match=match):
            LoadCased("image")({"image": tmp_path / name})

    made("missing")[4].unlink()
    refused("missing", r"1 slice missing between IM\d+ and IM\d+")
    files = made("uneven")
    spoil(files, 5, ImagePositionPatient=decimal([-30, -40, -100 + 5.3 * 2.5]))
    refused("uneven", "uneven slice spacing")
    shutil.copy(made("twice")[3], tmp_path / "twice" / "copy")
    refused("twice", "at the same place")
    for k, file in enumerate(files := made("tilted")):
        dataset = pydicom.dcmread(file)
        x, y, z = (float(v) for v in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = decimal([x, y + 0.7 * k, z])
        dataset.save_as(file)
    refused("tilted", "gantry tilt")
    creep = write_series(tmp_path / "creep", blob((8, 8, 24)), AFFINE)
    for k in range(24):  # every gap within its tolerance, the middle far off
        spoil(creep, k, ImagePositionPatient=decimal([-30, -40, -100 + 2.5 * k + 0.055 * max(0, k - 11)]))
    refused("creep", "uneven slice spacing.*from where an even")
    spoil(made("pixels"), 2, PixelSpacing=decimal([0.8, 0.8]))
    refused("pixels", "different pixel spacings")
    (tmp_path / "none").mkdir()
    refused("none", "holds no DICOM image")


def test_empty_uids_are_read_and_said_where_a_mask_must_refer_to_them(tmp_path, capsys):
    array = blob((8, 9, 6))
    empty = {"SOPClassUID": "", "SOPInstanceUID": "", "StudyInstanceUID": "", "SeriesInstanceUID": ""}
    files = write_series(tmp_path / "s", array, AFFINE)
    for number in range(len(files)):
        spoil(files, number, **empty)
    image = LoadCased("image")({"image": tmp_path / "s"})["image"]
    assert image.pixdim.tolist() == pytest.approx([0.7, 0.7, 2.5], abs=1e-4)
    assert set(np.unique(image)) == {-100, 100}
    mask = threshold(tmp_path / "s", tmp_path / "o", mask_format="dicom_seg", network=Named("bright"))
    assert mask.name == "s_seg.nii.gz" and "has no SOPClassUID" in capsys.readouterr().out
    assert np.array_equal(np.asarray(nib.load(mask).dataobj) == 1, np.asarray(image[0]) > 0)


@pytest.mark.parametrize(
    "key, values",
    [("EchoTime", [10, 80]), ("KVP", [80, 140]), ("ContrastBolusAgent", ["", "Gd"]), ("DiffusionBValue", [0.0, 1e3])],
)
def test_slices_that_may_be_of_several_images_are_warned_of(tmp_path, caplog, key, values):
    files = write_series(tmp_path / "s", blob((8, 9, 6)), AFFINE, Modality="MR")
    LoadCased("image")({"image": tmp_path / "s"})
    assert not caplog.text
    for number in range(6):
        spoil(files, number, **{key: values[number % 2]})
    LoadCased("image")({"image": tmp_path / "s"})
    assert f"several {key}" in caplog.text


@pytest.mark.parametrize(
    ("numbers", "stated", "said"),
    [
        ([1, 2, 3, 4], {}, ""),
        ([0, 1, 2, 3], {"NumberOfSlices": 4}, ""),
        ([2, 4, 6, 8], {}, ""),
        ([4, 3, 2, 1], {"ImagesInAcquisition": 4}, ""),
        ([None] * 4, {}, ""),
        ([1, 1, 1, 1], {}, ""),
        ([3, 4, 5, 6], {}, "numbered from 3 to 6"),
        ([1, 2, 3, 5], {}, "jump from 3 to 5"),
        ([1, 2, 3, 4], {"NumberOfSlices": 6}, "tells of 6 images, and 4 are here"),
        ([1, 2, 3, 4], {"ImagesInAcquisition": 5}, "tells of 5 images, and 4 are here"),
        ([1, 2, 3, 4], {"InConcatenationTotalNumber": 5}, "a concatenation of 5 files, and 4 of them are here"),
    ],
)
def test_a_series_that_may_lack_slices_at_its_ends_is_warned_of(tmp_path, caplog, numbers, stated, said):
    warn_once.cache_clear()
    files = write_series(tmp_path / "s", blob((12, 10, 4)), AFFINE, **stated)
    for number, instance in enumerate(numbers):
        spoil(files, number, InstanceNumber=instance)
    LoadCased("image")({"image": tmp_path / "s"})
    assert said in caplog.text and ("may lack slices" in caplog.text) == bool(said)


@pytest.mark.parametrize(
    "acquisitions, warned",
    [([1] * 6, False), ([1, 1, 1, 2, 2, 2], False), ([3, 1, 4, 2, 6, 5], False), ([1, 2, 1, 2, 1, 2], True)],
)
def test_two_acquisitions_that_lie_between_each_other_are_warned_of(tmp_path, caplog, acquisitions, warned):
    warn_once.cache_clear()
    files = write_series(tmp_path / "s", blob((8, 9, 6)), AFFINE, Modality="MR")
    for number, acquisition in enumerate(acquisitions):
        spoil(files, number, AcquisitionNumber=acquisition)
    LoadCased("image")({"image": tmp_path / "s"})
    assert ("slices of acquisitions 1 and 2 alternate" in caplog.text) is warned


@pytest.mark.parametrize("modality, warned", [("CT", True), ("MR", False)])
def test_a_ct_that_is_prepared_as_mr_is_warned_of_by_name(tmp_path, caplog, modality, warned):
    write_series(tmp_path / "s", blob((8, 9, 6)), AFFINE, Modality=modality)
    image = LoadCased("image")({"image": tmp_path / "s"})
    CheckKind({"spatial_dims": 3, "intensity": "mr"})(image)
    assert bool(re.search(r"/s is a CT, but .*likely to be wrong", caplog.text)) is warned


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_jp2klossless.dcm", "693_J2KI.dcm", "MR_small_RLE.dcm"])
def test_files_of_every_compression_are_read(tmp_path, name):
    path = get_testdata_file(name, download=False)
    shutil.copy(path, tmp_path)
    image = LoadCased("image")({"image": tmp_path / name})["image"]
    assert image.shape[0] == 1 and image.std() > 0


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "RLELossless", "JPEG2000Lossless"])
def test_a_compressed_series_is_the_same_volume(tmp_path, syntax):
    array = blob((16, 18, 4)) + np.arange(16, dtype=np.int16)[:, None, None]
    files = write_series(tmp_path / "s", array, AFFINE)
    before = LoadCased("image")({"image": tmp_path / "s"})["image"]
    for file in files:
        compress(file, syntax)
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID.is_compressed
    after = LoadCased("image")({"image": tmp_path / "s"})["image"]
    assert torch.equal(before, after)


def test_a_multi_frame_file_is_the_volume_of_its_slices(tmp_path):
    array = blob((9, 8, 6), 3)
    write_multiframe(tmp_path / "m.dcm", array, AFFINE)
    write_series(tmp_path / "s", array, AFFINE)
    image, series = (LoadCased("image")({"image": tmp_path / name})["image"] for name in ("m.dcm", "s"))
    assert torch.equal(image, series)
    torch.testing.assert_close(image.affine, series.affine)
    mask = threshold(tmp_path / "m.dcm", tmp_path / "o", mask_format="dicom_seg", network=Named("bright"))
    read = LoadCased(labels=["bright"])({"image": tmp_path / "m.dcm", "label": mask})
    assert torch.equal(read["label"] > 0, read["image"] > 0)


def test_an_x_ray_is_a_picture(tmp_path):
    xray = slice_file(np.arange(48).reshape(6, 8), Modality="DX")
    xray.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    assert is_dicom_picture(tmp_path / "x.dcm")
    image = LoadCased("image")({"image": tmp_path / "x.dcm"})["image"]
    assert np.array_equal(image[0], np.arange(48).reshape(6, 8))
    write_series(tmp_path, blob((8, 8, 3)), AFFINE)
    assert len(images_to_segment(tmp_path)) == 2
    assert len(images_to_segment(tmp_path, spatial_dims=3)) == 1


def test_colours_of_a_dicom_picture_are_its_channels(tmp_path):
    path = get_testdata_file("SC_rgb_small_odd.dcm", download=False)
    shutil.copy(path, tmp_path / "c.dcm")
    image = LoadCased("image")({"image": tmp_path / "c.dcm"})["image"]
    pixels = pydicom.dcmread(path).pixel_array
    assert np.array_equal(image, pixels.transpose(2, 0, 1))


def test_x_rays_are_checked_as_pictures(tmp_path):
    for seed, name in enumerate("ab"):
        pixels = np.random.default_rng(seed).integers(0, 99, (16, 18))
        slice_file(pixels, Modality="DX").save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
        Image.fromarray((pixels > 50).astype(np.uint8)).save(tmp_path / f"{name}.png")
    cases = [{"image": f"{name}.dcm", "label": f"{name}.png"} for name in "ab"]
    content = {"labels": {"0": "background", "1": "bright"}, "training": cases[:1], "validation": cases[1:]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = read_dataset(tmp_path)
    assert dataset.spatial_dims == 2 and check_dataset(dataset) == []


def test_directions_that_are_rounded_apart_are_of_one_series(tmp_path):
    files = sorted(write_series(tmp_path / "s", blob((12, 10, 8)), AFFINE))
    for i, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        cosine = 0.7065 + (-1) ** i * 2e-7
        sine = (1 - cosine**2) ** 0.5
        dataset.ImageOrientationPatient = [f"{x:.10g}" for x in (cosine, sine, 0, -sine, cosine, 0)]
        dataset.save_as(file)
    assert [len(series.files) for series in list_series(tmp_path / "s")] == [8]


def moved(path, shift) -> None:
    """Move each frame of a multi-frame file by what its height in millimetres above -100 gives."""
    file = pydicom.dcmread(path)
    for frame in file.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = decimal(shift(*map(float, place.ImagePositionPatient)))
    file.save_as(path)


def test_a_multi_frame_file_is_as_straight_and_even_as_a_series_must_be(tmp_path):
    path, array = tmp_path / "m.dcm", blob((16, 18, 40))
    write_multiframe(path, array, AFFINE)
    moved(path, lambda x, y, z: [x, y + np.tan(np.radians(2)) * (z + 100), z])
    with pytest.raises(InputError, match=r" by 2\.0 degrees off \(gantry tilt\)"):
        LoadCased("image")({"image": path})
    write_multiframe(path, array, AFFINE)
    moved(path, lambda x, y, z: [x, y, z + 0.05 * ((z + 100) / 2.5 % 2 > 0.5)])  # rounded, as by some exports
    assert LoadCased("image")({"image": path})["image"].pixdim[2] == pytest.approx(2.5, abs=0.01)
    write_multiframe(path, array, AFFINE)
    moved(path, lambda x, y, z: [x, y, min(z, -5)])
    with pytest.raises(InputError, match=r"frame 1 and frame 2 lie at the same place|frame 2 and frame 1 lie"):
        LoadCased("image")({"image": path})


def test_the_thickness_of_a_file_of_one_frame_is_found_where_such_files_say_it(tmp_path, caplog):
    write_multiframe(tmp_path / "one.dcm", blob((16, 18, 1)), AFFINE)
    assert LoadCased("image")({"image": tmp_path / "one.dcm"})["image"].pixdim.tolist() == pytest.approx([0.7, 0.7, 3])
    assert "1 mm is taken" not in caplog.text


def test_a_slice_a_little_aside_of_the_next_is_read_though_slices_are_thin(tmp_path):
    thin = AFFINE @ np.diag([1, 1, 0.4, 1])
    files = write_series(tmp_path, blob((16, 18, 12)), thin)
    second = pydicom.dcmread(files[1]).ImagePositionPatient
    spoil(files, 1, ImagePositionPatient=decimal([float(second[0]) + 0.06, float(second[1]), float(second[2])]))
    assert LoadCased("image")({"image": tmp_path})["image"].shape == (1, 16, 18, 12)
