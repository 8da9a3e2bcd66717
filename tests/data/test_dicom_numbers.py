"""What a DICOM header says of its numbers is obeyed or refused."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_maker import AFFINE, slice_file, spoil, write_multiframe, write_series
from image_files import load_image
from monai.data import MetaTensor
from pydicom.uid import RLELossless

from sam_monai import InputError
from sam_monai.data import LoadCased
from sam_monai.data.dicom_frames import other_width

RAMP = np.broadcast_to(np.arange(12)[:, None, None] * 10, (12, 10, 5)).astype(np.int16)


def upwards(image: MetaTensor) -> np.ndarray:
    """The volume with slices in the order in which they were written."""
    array = image[0].numpy()
    return array[..., ::-1] if image.affine[2, 2] < 0 else array


def xray(path: Path, pixels: np.ndarray, **tags) -> Path:
    dataset = slice_file(pixels, Modality="DX")
    del dataset.RescaleSlope, dataset.RescaleIntercept
    for name, value in tags.items():
        setattr(dataset, name, value)
    bits = dataset.BitsAllocated
    dataset.PixelData = pixels.astype("<u1" if bits == 8 else "<i2" if dataset.PixelRepresentation else "<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_units_are_the_same_however_they_are_shown(tmp_path, modality):
    write_series(tmp_path / "plain", RAMP, AFFINE, Modality=modality)
    write_series(tmp_path / "inverted", RAMP, AFFINE, Modality=modality, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(load_image(tmp_path / "plain"), load_image(tmp_path / "inverted"))
    assert np.array_equal(load_image(tmp_path / "plain")[0], RAMP)


def test_an_mr_of_monochrome1_is_bright_where_it_is_shown_bright(tmp_path):
    noise = np.random.default_rng(0).integers(0, 50, RAMP.shape)
    write_series(tmp_path, RAMP + noise, AFFINE, Modality="MR", PhotometricInterpretation="MONOCHROME1")
    image, array = upwards(load_image(tmp_path)), RAMP + noise
    assert np.array_equal(image, array.max() + array.min() - array)  # of the volume, not slice by slice


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [None, "IDENTITY", "INVERSE"])
def test_an_x_ray_is_bright_where_it_is_shown_bright(tmp_path, photometric, shape):
    pixels = np.arange(120).reshape(10, 12)
    tags = {} if shape is None else {"PresentationLUTShape": shape}
    image = load_image(xray(tmp_path / "x.dcm", pixels, PhotometricInterpretation=photometric, **tags))[0]
    inverted = photometric == "MONOCHROME1" or shape == "INVERSE"
    assert np.array_equal(image, pixels[::-1, ::-1] if inverted else pixels)


def test_the_white_of_8_bits_is_255_and_that_of_16_its_own(tmp_path):
    pixels = np.arange(120).reshape(10, 12)
    tags = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    assert load_image(xray(tmp_path / "a.dcm", pixels, **tags)).meta["full_scale"] == 255
    inverted = load_image(xray(tmp_path / "b.dcm", pixels, PhotometricInterpretation="MONOCHROME1", **tags))
    assert np.array_equal(inverted[0], 255 - pixels)
    assert "full_scale" not in load_image(xray(tmp_path / "c.dcm", pixels)).meta


def test_a_palette_is_shown_in_its_colours(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4, (10, 12))
    colours = np.array([[0, 0, 0], [255, 10, 20], [30, 255, 40], [50, 60, 255]], np.uint8)
    tags = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PhotometricInterpretation": "PALETTE COLOR"}
    for name, values in zip(("Red", "Green", "Blue"), colours.T, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 8]
        tags[f"{name}PaletteColorLookupTableData"] = values.tobytes()
    image = load_image(xray(tmp_path / "p.dcm", pixels, **tags))
    assert np.array_equal(image, colours[pixels].transpose(2, 0, 1)) and image.meta["full_scale"] == 255


def test_each_slice_has_its_own_rescale(tmp_path):
    files = write_series(tmp_path, np.zeros((12, 10, 4), np.int16), AFFINE, Modality="PT", Units="BQML")
    truth = np.random.default_rng(0).integers(0, 50, (12, 10, 4)) * 100
    for k in range(len(files)):
        slope = (0.5, 1, 2, 4)[k]
        stored = (truth[..., k].T / slope).astype("<u2")
        spoil(files, k, RescaleSlope=slope, RescaleIntercept=0, PixelData=stored.tobytes())
    assert np.array_equal(upwards(load_image(tmp_path)), truth)


def test_signed_numbers_are_signed(tmp_path):
    pixels = np.arange(-60, 60).reshape(10, 12)
    assert np.array_equal(load_image(xray(tmp_path / "x.dcm", pixels, PixelRepresentation=1))[0], pixels)


def test_pixels_of_32_bits_keep_their_last_unit(tmp_path):
    kinds = {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31, "RescaleIntercept": str(-(2**31))}
    for file in write_series(tmp_path / "s", RAMP, AFFINE, Modality="MR", **kinds):
        dataset = pydicom.dcmread(file)
        pixels = np.frombuffer(dataset.PixelData, "<u2").astype("<u4") - 1024 + 2**31
        dataset.PixelData = pixels.astype("<u4").tobytes()
        dataset.save_as(file)
    assert np.array_equal(upwards(LoadCased("image")({"image": tmp_path / "s"})["image"]), RAMP)


def test_padding_is_dark_and_no_part_of_the_range(tmp_path):
    stored = RAMP + 100
    array = stored.copy()
    array[:, :3] = -1024
    write_series(tmp_path / "mr", array, AFFINE, Modality="MR", PixelPaddingValue=0)
    image = load_image(tmp_path / "mr")[0].numpy()
    assert image.min() == 100 and np.array_equal(image[:, 3:], stored[:, 3:])


def test_padding_takes_no_others_with_it_where_all_numbers_are_small(tmp_path):
    """A map of diffusion in mm2/s."""
    array = RAMP + 100
    array[:, :3] = -1024  # stored as 0
    header = {"RescaleSlope": "0.000001", "RescaleIntercept": "0", "PixelPaddingValue": 0}
    write_series(tmp_path / "mr", array, AFFINE, Modality="MR", **header)
    image = load_image(tmp_path / "mr")[0].numpy()
    np.testing.assert_allclose(image[:, 3:], (array[:, 3:] + 1024) * 1e-6, rtol=1e-3)


@pytest.mark.parametrize("said", [("SS", -2000), ("US", 63536)])
def test_padding_of_unsigned_pixels_may_be_written_as_a_negative_number(tmp_path, said):
    array = RAMP + 100
    for file in write_series(tmp_path / "mr", array, AFFINE, Modality="MR", RescaleIntercept=0):
        dataset = pydicom.dcmread(file)
        pixels = dataset.pixel_array.copy()
        pixels[:3] = 63536
        dataset.PixelData = pixels.astype("<u2").tobytes()
        dataset.add_new("PixelPaddingValue", *said)
        dataset.save_as(file)
    image = load_image(tmp_path / "mr")[0].numpy()
    assert np.array_equal(image[:, 3:], array[:, 3:] + 1024) and (image[:, :3] == image[:, 3:].min()).all()


def test_padding_is_told_before_a_table_maps_it(tmp_path):
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.add_new("LUTExplanation", "LO", "twice")
    table.add_new("ModalityLUTType", "LO", "US")
    table.add_new("LUTData", "OW", (np.arange(4096) * 2 + 7).astype("<u2").tobytes())
    for file in write_series(tmp_path / "mr", RAMP + 100, AFFINE, Modality="MR", RescaleIntercept=0):
        dataset = pydicom.dcmread(file)
        pixels = dataset.pixel_array.copy()
        pixels[:3] = 4000
        dataset.PixelData, dataset.ModalityLUTSequence = pixels.astype("<u2").tobytes(), [table]
        del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.add_new("PixelPaddingValue", "US", 4000)
        dataset.save_as(file)
    image = load_image(tmp_path / "mr")[0].numpy()
    assert image.max() < 4000 and (image[:, :3] == image[:, 3:].min()).all()
    assert set(np.unique(image).astype(int)) <= set((np.arange(4096) * 2 + 7).tolist())


def test_padding_is_dark_where_each_frame_has_a_scale_of_its_own(tmp_path):
    stored = RAMP + 100
    write_multiframe(tmp_path / "x.dcm", stored - 1024, AFFINE)
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    numbers = dataset.pixel_array.copy()
    numbers[:, :3] = 65535  # rows of a slice are the second axis of the volume
    dataset.PixelData = numbers.astype("<u2").tobytes()
    dataset.Modality = "MR"
    dataset.add_new("PixelPaddingValue", "US", 65535)
    shared = dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
        frame.PixelValueTransformationSequence = copy.deepcopy(shared)
        frame.PixelValueTransformationSequence[0].RescaleSlope = str(number)
        frame.PixelValueTransformationSequence[0].RescaleIntercept = "0"
    dataset.save_as(tmp_path / "x.dcm")
    image = upwards(load_image(tmp_path / "x.dcm"))
    slopes = np.arange(stored.shape[2], 0, -1)  # frames are in reverse order
    assert np.array_equal(image[:, 3:], (stored * slopes)[:, 3:])
    assert (image[:, :3] == image[:, 3:].min()).all()


@pytest.mark.parametrize("signed", [False, True])
def test_padding_may_differ_from_slice_to_slice_and_lack_its_sign(tmp_path, signed):
    files = write_series(tmp_path / "mr", RAMP + 100, AFFINE, Modality="MR", RescaleIntercept=0)
    for number, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        dataset.PixelRepresentation, padding = int(signed), 60000 + number
        pixels = (RAMP + 100)[..., number].T.astype("<u2")
        pixels[:3] = padding
        dataset.PixelData = pixels.tobytes()
        dataset.add_new("PixelPaddingValue", "US", padding)
        dataset.save_as(file)
    image = load_image(tmp_path / "mr")[0].numpy()
    assert image.min() == 100 and np.array_equal(image[:, 3:], (RAMP + 100)[:, 3:])


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"RescaleType": "MGML"}, "units of MGML"),
        ({"RescaleSlope": None}, "RescaleIntercept that cannot be right"),
        ({"PixelSpacing": [0, 0]}, "pixel spacings, or none"),
        ({"ImagePositionPatient": ["nan", 0, 0]}, "position is no number|position"),
    ],
)
def test_a_ct_without_units_or_place_is_refused(tmp_path, changes, match):
    files = write_series(tmp_path / "s", RAMP, AFFINE)
    for number, file in enumerate(files):
        present = {name: value for name, value in changes.items() if value is not None}
        spoil(files, number, **present)
        dataset = pydicom.dcmread(file)
        for name in changes.keys() - present.keys():
            delattr(dataset, name)
        dataset.save_as(file)
    with pytest.raises(InputError, match=match):
        load_image(tmp_path / "s")


def test_a_multi_frame_ct_of_monochrome1_keeps_its_units(tmp_path):
    write_multiframe(tmp_path / "m.dcm", RAMP, AFFINE)
    before = load_image(tmp_path / "m.dcm")
    spoil([tmp_path / "m.dcm"], 0, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(load_image(tmp_path / "m.dcm"), before) and np.array_equal(before[0], RAMP)


def test_positions_rounded_to_a_tenth_of_a_slice_are_even(tmp_path):
    affine = AFFINE.copy()
    affine[2, 2] = 1.234567
    files = write_series(tmp_path / "s", RAMP, affine)
    for number, file in enumerate(files):
        place = pydicom.dcmread(file).ImagePositionPatient
        spoil(files, number, ImagePositionPatient=[round(float(x), 1) for x in place])
    assert LoadCased("image")({"image": tmp_path / "s"})["image"].pixdim[2] == pytest.approx(1.234567, abs=0.03)


def test_numbers_beyond_their_bits_are_refused_and_not_cut(tmp_path):
    pixels = np.arange(120).reshape(10, 12) * 8
    twelve = {"BitsStored": 12, "HighBit": 11}
    assert np.array_equal(load_image(xray(tmp_path / "a.dcm", pixels, **twelve))[0], pixels)
    for number in (4096, 0x8001, 65535):
        with pytest.raises(InputError, match=r"b\.dcm: holds numbers beyond the 12 bits"):
            load_image(xray(tmp_path / "b.dcm", np.where(pixels == 80, number, pixels), **twelve))
    with pytest.raises(InputError, match=r"c\.dcm: its HighBit is 15"):
        load_image(xray(tmp_path / "c.dcm", pixels, BitsStored=12, HighBit=15))
    signed = twelve | {"PixelRepresentation": 1}  # a sign that goes on to the last bit is no number
    assert np.array_equal(load_image(xray(tmp_path / "d.dcm", pixels - 300, **signed))[0], pixels - 300)
    with pytest.raises(InputError, match=r"e\.dcm: holds numbers beyond"):
        load_image(xray(tmp_path / "e.dcm", np.where(pixels == 80, 4097, pixels), **signed))
    with_overlay = pydicom.dcmread(xray(tmp_path / "f.dcm", pixels | 0x8000, **twelve))
    with_overlay.add_new(0x60000102, "US", 15)
    with_overlay.save_as(tmp_path / "f.dcm")
    assert load_image(tmp_path / "f.dcm").max() == pixels.max()


def test_real_world_values_of_one_scale_or_of_the_rescale_change_nothing(tmp_path):
    """As Philips writes them, whose rescale has another scale for each slice."""
    files = write_series(tmp_path, RAMP, AFFINE, Modality="MR")
    for number, file in enumerate(files):
        item, slope = pydicom.Dataset(), float(f"{1.1 + number:.6g}")
        item.RealWorldValueSlope, item.RealWorldValueIntercept = 3 * slope, -3 * 1024.0
        spoil(files, number, RescaleSlope=slope, RealWorldValueMappingSequence=[item])
        stored = pydicom.dcmread(file).pixel_array
        spoil(files, number, PixelData=np.round((stored - 1024 + 1024) / slope).astype("<u2").tobytes())
    image = upwards(load_image(tmp_path))
    assert np.abs(image - RAMP).max() < 3


@pytest.mark.parametrize("frame", [b"", b"\0" * 64, b"\xff" * 64, b"\x02" + b"\0" * 63, b"\x01" + b"\xff" * 80])
def test_a_damaged_frame_of_rle_is_left_to_its_decoder_and_costs_no_time(frame):
    begun = time.process_time()
    assert other_width(frame, 65535, 65534) == 0
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("masked", [False, True])
def test_signed_numbers_of_fewer_bits_are_the_same_when_they_are_compressed(tmp_path, masked):
    files = write_series(tmp_path, RAMP - 300, AFFINE)
    for file in files:
        dataset = pydicom.dcmread(file)
        hu = dataset.pixel_array.astype(int) - 1024
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit, dataset.RescaleIntercept = 1, 12, 11, 0
        dataset.PixelData = ((hu & 0xFFF).astype("<u2") if masked else hu.astype("<i2")).tobytes()
        dataset.save_as(file)
    before = load_image(tmp_path)
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(file)
    assert before.min() < 0 and np.array_equal(load_image(tmp_path), before)
