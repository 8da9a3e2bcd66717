"""Volumes as hospitals keep them: geometry read right or refused, and masks on the grid of their files."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from dicom_maker import AFFINE, SETTINGS, blob, decimal, slice_file, write_multiframe, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset, decollate_batch
from PIL import Image
from pydicom.data import get_testdata_file
from scipy.spatial.transform import Rotation

from sam_monai import InputError
from sam_monai.data import LoadCased, check_dataset, images_to_segment, read_dataset
from sam_monai.data.dicom import is_dicom_picture, list_series, series_of
from sam_monai.data.dicom_seg import codes_of, read_segmentation, write_segmentation
from sam_monai.data.slicing import slicing_axes
from sam_monai.inference import pipeline
from sam_monai.inference.masks import SaveMasks


@st.composite
def grids(draw, handed: bool = False):
    """A shape and an affine: flips, permuted axes, rotations, spacings of 0.3 to 7 mm."""
    shape = tuple(draw(st.lists(st.integers(2, 14), min_size=3, max_size=3)))
    spacing = np.array(draw(st.lists(st.floats(0.3, 7), min_size=3, max_size=3)))
    signs = np.array(draw(st.lists(st.sampled_from([-1, 1]), min_size=3, max_size=3)))
    axes = np.eye(3)[list(draw(st.permutations(range(3))))]
    angles = draw(st.lists(st.one_of(st.just(0.0), st.floats(-180, 180)), min_size=3, max_size=3))
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ axes * signs
    if handed and np.linalg.det(matrix) < 0:
        matrix[:, 2] *= -1  # slices of a DICOM series have no order of their own
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix * spacing, draw(st.lists(st.floats(-300, 300), min_size=3, max_size=3))
    return shape, affine


def threshold(path: Path, folder: Path, spacing=None, **saving) -> Path:
    """The mask that the bundles' transforms make where a network finds everything brighter than 0 HU."""
    settings_ = SETTINGS | {"spacing": spacing}
    preparation = pipeline.preprocessing((), settings_)
    batch = next(iter(DataLoader(Dataset([{"image": str(path)}], preparation), batch_size=1)))
    logits = torch.cat([torch.zeros_like(batch["image"]), batch["image"] - 0.4], 1)
    case = decollate_batch({"image": batch["image"], "pred": logits})[0]
    case = pipeline.postprocessing(preparation)(case)
    folder.mkdir(exist_ok=True)
    return SaveMasks(folder, **saving).save(case["pred"], case["image"].meta["filename_or_obj"])


class Named:
    """What is written of a network into its masks."""

    method = "ssam"

    def __init__(self, *labels):
        self.labels = labels


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grid=grids(), seed=st.integers(0, 99))
def test_a_mask_lies_where_its_intensity_is_in_a_nifti_file(tmp_path, grid, seed):
    shape, affine = grid
    nib.save(nib.Nifti1Image(blob(shape, seed), affine), tmp_path / "a.nii.gz")
    file, mask = nib.load(tmp_path / "a.nii.gz"), nib.load(threshold(tmp_path / "a.nii.gz", tmp_path / "out"))
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(file.dataobj) > 0)
    np.testing.assert_allclose(mask.affine, file.affine, atol=1e-4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grid=grids(handed=True), seed=st.integers(0, 99))
def test_a_mask_lies_where_its_intensity_is_in_a_dicom_series(tmp_path, grid, seed):
    shape, affine = grid
    folder = tmp_path / "series"
    shutil.rmtree(folder, ignore_errors=True)
    array = blob(shape, seed)
    files = write_series(folder, array, affine, seed)
    mask = nib.load(threshold(folder, tmp_path / "out"))
    # By position: voxel (column, row) of the slice that lies where the file says.
    for k, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        lps = np.array([float(x) for x in dataset.ImagePositionPatient])
        place = np.linalg.inv(mask.affine) @ [-lps[0], -lps[1], lps[2], 1]
        i, j, slice_ = (int(round(x)) for x in place[:3])
        assert (i, j) == (0, 0) and np.abs(place[:3] - [i, j, slice_]).max() < 1e-2
        assert np.array_equal(np.asarray(mask.dataobj)[:, :, slice_], array[:, :, k] > 0)


def test_a_sheared_affine_is_refused(tmp_path):
    affine = AFFINE.copy()
    affine[1, 2] = 0.8
    nib.save(nib.Nifti1Image(blob((6, 7, 8)), affine), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="a.nii.gz.*right angles"):
        LoadCased("image")({"image": tmp_path / "a.nii.gz"})


@pytest.mark.parametrize(
    "spacing, axes", [((1, 1, 3), "PLS"), ((1, 4, 1), "ILP"), ((5, 1, 1), "IPL"), ((1, 1, 1.1), "PLS")]
)
def test_volumes_are_sliced_across_their_coarsest_spacing(spacing, axes):
    assert slicing_axes(np.diag([*spacing, 1.0]), "coarsest") == axes
    assert slicing_axes(np.diag([*spacing, 1.0]), "sagittal") == "IPL"
    assert slicing_axes(np.diag([*spacing, 1.0]), "RAS") == "RAS"
    assert slicing_axes(np.diag([*spacing, 1.0]), "coarsest", (9, 1, 9)) == "ILP"


def test_a_single_slice_is_as_thick_as_it_was_acquired(tmp_path):
    write_series(tmp_path, blob((8, 9, 1)), AFFINE)
    image = LoadCased("image")({"image": tmp_path})["image"]
    assert image.shape == (1, 8, 9, 1) and image.pixdim.tolist() == pytest.approx([0.7, 0.7, 3.0], abs=1e-5)


def test_resampling_is_undone(tmp_path):
    shape = (40, 36, 12)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    ball = (((grid - [20, 17, 6]) * [0.7, 0.7, 2.5]) ** 2).sum(-1) < 8**2
    write_series(tmp_path / "s", np.where(ball, 100, -100), AFFINE)
    mask = nib.load(threshold(tmp_path / "s", tmp_path / "o", spacing=(1.0, 1.0, 2.0)))
    found = np.asarray(mask.dataobj) > 0
    again = nib.load(threshold(tmp_path / "s", tmp_path / "p"))
    truth = np.asarray(again.dataobj) > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.97
    np.testing.assert_allclose(np.argwhere(found).mean(0), np.argwhere(truth).mean(0), atol=0.1)


# -- what is read -----------------------------------------------------------------------------------------------------


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


def spoil(files, number, **changes):
    dataset = pydicom.dcmread(files[number])
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.save_as(files[number])


def test_wrong_geometry_is_refused_by_name(tmp_path):
    def made(name):
        return write_series(tmp_path / name, blob((8, 8, 12)), AFFINE)

    def refused(name, match):
        with pytest.raises(InputError, match=match):
            LoadCased("image")({"image": tmp_path / name})

    made("missing")[4].unlink()
    refused("missing", r"1 slice\(s\) missing between IM\d+ and IM\d+")
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


def test_empty_uids_are_read_and_refused_only_where_a_mask_must_refer_to_them(tmp_path):
    array = blob((8, 9, 6))
    empty = {"SOPClassUID": "", "SOPInstanceUID": "", "StudyInstanceUID": "", "SeriesInstanceUID": ""}
    files = write_series(tmp_path / "s", array, AFFINE)
    for number in range(len(files)):
        spoil(files, number, **empty)
    image = LoadCased("image")({"image": tmp_path / "s"})["image"]
    assert image.pixdim.tolist() == pytest.approx([0.7, 0.7, 2.5], abs=1e-4)
    assert set(np.unique(image)) == {-100, 100}
    with pytest.raises(InputError, match="has no SOPClassUID.*mask_format nifti"):
        threshold(tmp_path / "s", tmp_path / "o", mask_format="dicom_seg", network=Named("bright"))


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_jp2klossless.dcm", "693_J2KI.dcm", "MR_small_RLE.dcm"])
def test_files_of_every_compression_are_read(tmp_path, name):
    path = get_testdata_file(name, download=False)
    shutil.copy(path, tmp_path)
    image = LoadCased("image")({"image": tmp_path / name})["image"]
    assert image.shape[0] == 1 and image.std() > 0


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "RLELossless", "JPEG2000Lossless"])
def test_a_compressed_series_is_the_same_volume(tmp_path, syntax):
    import gdcm

    array = blob((16, 18, 4)) + np.arange(16, dtype=np.int16)[:, None, None]
    files = write_series(tmp_path / "s", array, AFFINE)
    before = LoadCased("image")({"image": tmp_path / "s"})["image"]
    for file in files:
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(file))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(file))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
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


# -- DICOM SEG --------------------------------------------------------------------------------------------------------


def test_a_segmentation_refers_to_its_series_and_carries_patient_and_study(tmp_path):
    files = write_series(tmp_path / "s", blob((12, 10, 6)), AFFINE, SpecificCharacterSet="")
    source = pydicom.dcmread(files[0])
    path = threshold(tmp_path / "s", tmp_path / "o", mask_format="dicom_seg", network=Named("kidney right"))
    assert path.name == "s_seg.dcm"
    written = pydicom.dcmread(path)
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate"):
        assert written[name].value == source[name].value
    assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    segment = written.SegmentSequence[0]
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (segment.SegmentLabel, kind.CodeMeaning) == ("kidney right", "Kidney")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "sam_monai ssam"
    referred = written.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert referred.ReferencedSOPInstanceUID in {pydicom.dcmread(f).SOPInstanceUID for f in files}


def test_twenty_labels_are_one_file_and_dcmqi_reads_the_same_voxels(tmp_path):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 21, (16, 12, 7))
    rotation = np.eye(4)
    rotation[:3, :3] = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix() @ np.diag([0.8, 0.9, 2.0])
    files = write_series(tmp_path / "s", mask, rotation)
    image = LoadCased("image")({"image": tmp_path / "s"})["image"]
    labels = [f"label {i}" for i in range(1, 21)]
    ours = image[0].numpy().round().astype(int)
    write_segmentation(ours, np.asarray(image.affine), files[0], labels, tmp_path / "m.dcm", "test")
    assert np.array_equal(read_segmentation(tmp_path / "m.dcm", np.asarray(image.affine), ours.shape, labels), ours)

    tool = Path(shutil.which("segimage2itkimage") or "missing")
    subprocess.run([tool, "--inputDICOM", tmp_path / "m.dcm", "--outputDirectory", tmp_path, "-t", "nii"], check=True)
    for value in range(1, 21):
        theirs = nib.load(tmp_path / f"{value}.nii.gz")
        assert np.count_nonzero(theirs.dataobj) == (ours == value).sum()
        for place in np.argwhere(np.asarray(theirs.dataobj)):
            there = np.linalg.inv(np.asarray(image.affine)) @ theirs.affine @ [*place, 1]
            assert ours[tuple(there[:3].round().astype(int))] == value


def test_a_segmentation_is_a_training_label_on_its_images_grid(tmp_path):
    array = blob((16, 12, 7))
    array[..., 0] = array[..., 6] = -100  # slices without a frame of their own
    write_series(tmp_path / "s", array, AFFINE)
    write_series(tmp_path / "t", blob((16, 12, 7), 1), AFFINE)
    for name in "st":
        image = LoadCased("image")({"image": tmp_path / name})["image"]
        affine, mask = np.asarray(image.affine), (image[0].numpy() > 0).astype(int) * 2
        write_segmentation(mask, affine, tmp_path / name, ["other", "Bright"], tmp_path / f"{name}.dcm", "test")
    (tmp_path / "dataset.json").write_text(
        '{"labels": {"0": "background", "1": "bright"}, "modality": {"0": "CT"},'
        ' "training": [{"image": "s", "label": "s.dcm"}], "validation": [{"image": "t", "label": "t.dcm"}]}'
    )
    dataset = read_dataset(tmp_path)
    assert dataset.spatial_dims == 3 and check_dataset(dataset) == []
    case = LoadCased(labels=dataset.labels)(dataset.training[0])
    assert torch.equal(case["label"] > 0, case["image"] > 0) and case["label"].max() == 1
    np.testing.assert_allclose(case["label"].affine, case["image"].affine)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grid=grids(), axes=st.permutations(range(3)), flips=st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_label_with_other_axes_than_its_image_is_turned(tmp_path, grid, axes, flips):
    shape, affine = grid
    truth = (blob(shape) > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(truth, affine), tmp_path / "a.nii.gz")
    label = nib.Nifti1Image(truth, affine)
    turn = np.array([[axis, -1 if flip else 1] for axis, flip in zip(axes, flips, strict=True)])
    nib.save(label.as_reoriented(turn), tmp_path / "b.nii.gz")
    case = LoadCased(labels=1)({"image": tmp_path / "a.nii.gz", "label": tmp_path / "b.nii.gz"})
    assert torch.equal(case["image"], case["label"])
    torch.testing.assert_close(case["image"].affine, case["label"].affine, atol=1e-3, rtol=0)


def test_a_segmentation_without_any_of_the_labels_is_refused(tmp_path):
    write_series(tmp_path / "s", blob((8, 9, 4)), AFFINE)
    image = LoadCased("image")({"image": tmp_path / "s"})["image"]
    mask, affine = (image[0].numpy() > 0).astype(int), np.asarray(image.affine)
    write_segmentation(mask, affine, tmp_path / "s", ["Liver"], tmp_path / "l.dcm", "test")
    with pytest.raises(InputError, match="segments liver, of which none is a label"):
        read_segmentation(tmp_path / "l.dcm", affine, mask.shape, ["tumor"])
    write_segmentation(mask, affine, tmp_path / "s", ["Segment 1"], tmp_path / "n.dcm", "test")
    assert np.array_equal(read_segmentation(tmp_path / "n.dcm", affine, mask.shape, ["tumor"]), mask)


def test_a_series_without_the_patients_attributes_gets_its_segmentation(tmp_path):
    files = write_series(tmp_path / "s", blob((8, 9, 4)), AFFINE)
    for file in files:
        dataset = pydicom.dcmread(file)
        del dataset.PatientName, dataset.PatientBirthDate, dataset.AccessionNumber
        dataset.save_as(file)
    assert threshold(tmp_path / "s", tmp_path / "o", mask_format="dicom_seg", network=Named("a")).is_file()
    nib.save(nib.Nifti1Image(blob((8, 9, 4)), AFFINE), tmp_path / "n.nii.gz")
    mask = threshold(tmp_path / "n.nii.gz", tmp_path / "o", mask_format="dicom_seg", network=Named("a"))
    assert mask.name == "n_seg.nii.gz"


def test_x_rays_are_checked_as_pictures(tmp_path):
    for name in "ab":
        pixels = np.random.default_rng(0).integers(0, 99, (16, 18))
        slice_file(pixels, Modality="DX").save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
        Image.fromarray((pixels > 50).astype(np.uint8)).save(tmp_path / f"{name}.png")
    cases = [{"image": f"{name}.dcm", "label": f"{name}.png"} for name in "ab"]
    content = {"labels": {"0": "background", "1": "bright"}, "training": cases[:1], "validation": cases[1:]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = read_dataset(tmp_path)
    assert dataset.spatial_dims == 2 and check_dataset(dataset) == []


@pytest.mark.parametrize(
    "name, meaning, side",
    [
        ("Liver", "Liver", None), ("Right Kidney", "Kidney", "Right"), ("kidney_L", "Kidney", "Left"),
        ("LungRight", "Lung", "Right"), ("lungs", "Lung", None), ("vertebrae L1", "L1 vertebra", None),
        ("grey matter", "Gray Matter", None), ("liver tumour", "Neoplasm", None), ("anterior", "Tissue", None),
        ("structure 7", "Tissue", None), ("L", "Tissue", "Left"),
    ],
)  # fmt: skip
def test_known_names_have_snomed_codes(name, meaning, side):
    category, kind, found = codes_of(name)
    assert kind.meaning == meaning and (found.meaning if found else None) == side
    assert category.meaning == {"Tissue": "Tissue", "Neoplasm": "Morphologically Abnormal Structure"}.get(
        meaning, "Anatomical Structure"
    )
