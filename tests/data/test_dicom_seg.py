"""DICOM SEG: written for a series, read as a label."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from dicom_maker import AFFINE, SETTINGS, Named, blob, spoil, threshold, write_segmentation, write_series
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from scipy.spatial.transform import Rotation

from sam_monai import InputError
from sam_monai.data import LoadCased, check_dataset, read_dataset
from sam_monai.data.dicom_seg import check_source, codes_of, read_segmentation
from sam_monai.errors import warn_once
from sam_monai.inference import pipeline
from sam_monai.inference.masks import SaveMasks


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
    write_segmentation(ours, np.asarray(image.affine), files[0], labels, tmp_path / "m.dcm")
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
        write_segmentation(mask, affine, tmp_path / name, ["other", "Bright"], tmp_path / f"{name}.dcm")
    (tmp_path / "dataset.json").write_text(
        '{"labels": {"0": "background", "1": "bright"}, "modality": {"0": "CT"},'
        ' "training": [{"image": "s", "label": "s.dcm"}], "validation": [{"image": "t", "label": "t.dcm"}]}'
    )
    dataset = read_dataset(tmp_path)
    assert dataset.spatial_dims == 3 and check_dataset(dataset) == []
    case = LoadCased(labels=dataset.labels)(dataset.training[0])
    assert torch.equal(case["label"] > 0, case["image"] > 0) and case["label"].max() == 1
    np.testing.assert_allclose(case["label"].affine, case["image"].affine)


def test_a_segmentation_without_any_of_the_labels_is_refused(tmp_path):
    write_series(tmp_path / "s", blob((8, 9, 4)), AFFINE)
    image = LoadCased("image")({"image": tmp_path / "s"})["image"]
    mask, affine = (image[0].numpy() > 0).astype(int), np.asarray(image.affine)
    write_segmentation(mask, affine, tmp_path / "s", ["Liver"], tmp_path / "l.dcm")
    with pytest.raises(InputError, match="segments liver, of which none is a label"):
        read_segmentation(tmp_path / "l.dcm", affine, mask.shape, ["tumor"])
    write_segmentation(mask, affine, tmp_path / "s", ["Segment 1"], tmp_path / "n.dcm")
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


@pytest.mark.parametrize(
    "name, meaning, side",
    [
        ("Liver", "Liver", None), ("Right Kidney", "Kidney", "Right"), ("kidney_L", "Kidney", "Left"),
        ("LungRight", "Lung", "Right"), ("lungs", "Lung", None), ("vertebrae L1", "L1 vertebra", None),
        ("grey matter", "Gray Matter", None), ("liver tumour", "Neoplasm", None), ("anterior", "Tissue", None),
        ("structure 7", "Tissue", None), ("L", "Tissue", "Left"),
        ("kidney lt", "Kidney", "Left"), ("kidneyRt", "Kidney", "Right"), ("leftkidney", "Kidney", "Left"),
        ("Kidney (dextra)", "Kidney", "Right"), ("rib_left_1", "Tissue", "Left"), ("L 1 vertebra", "Tissue", None),
        ("apex of left ventricle", "Apex of left ventricle", None), ("l1 vertebra", "L1 vertebra", None),
    ],
)  # fmt: skip
def test_known_names_have_snomed_codes(name, meaning, side):
    category, kind, found = codes_of(name)
    assert kind.meaning == meaning and (found.meaning if found else None) == side
    assert category.meaning == {"Tissue": "Tissue", "Neoplasm": "Morphologically Abnormal Structure"}.get(
        meaning, "Anatomical Structure"
    )


PEOPLE = {
    "latin": ("ISO_IR 100", "Müller^Jürgen"), "cyrillic": ("ISO_IR 144", "Люкceмбypг"),
    "utf8": ("ISO_IR 192", "Łukasz"),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), "greek": ("ISO_IR 126", "Διονυσιος"),
    "korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
    "ascii": ("", "A^B"),
}  # fmt: skip


@pytest.mark.parametrize("language", PEOPLE)
def test_a_patient_of_any_name_gets_a_segmentation_with_labels_of_any_language(tmp_path, language):
    charset, person = PEOPLE[language]
    write_series(tmp_path / "s", blob((8, 9, 4)), AFFINE, SpecificCharacterSet=charset, PatientName=person)
    path = threshold(tmp_path / "s", tmp_path / "o", mask_format="dicom_seg", network=Named("腎臓 rechts ä"))
    written = pydicom.dcmread(path)
    assert str(written.PatientName) == person and written.SegmentSequence[0].SegmentLabel == "腎臓 rechts ä"


def test_a_segmentation_that_cannot_be_written_is_said_before_the_network_runs_and_the_mask_kept(tmp_path, capsys):
    files = write_series(tmp_path / "s", blob((8, 9, 4)), AFFINE)
    for number in range(len(files)):
        spoil(files, number, StudyInstanceUID="")
    said = []

    def network(image):
        said.append(capsys.readouterr().out)
        return torch.cat([torch.zeros_like(image), image - 0.4], 1)

    preparation = pipeline.preprocessing((), SETTINGS)
    loader = DataLoader(Dataset([{"image": str(tmp_path / "s")}], preparation), batch_size=1)
    saving, after = SaveMasks(tmp_path / "o", "dicom_seg", Named("a")), pipeline.postprocessing(preparation)
    cpu = torch.device("cpu")
    SupervisedEvaluator(cpu, loader, network, postprocessing=after, val_handlers=[saving]).run()
    assert re.search("has no StudyInstanceUID.*kept as NIfTI", said[0], re.DOTALL)
    assert [file.name for file in (tmp_path / "o").glob("*_seg*")] == ["s_seg.nii.gz"]
    assert list(saving.refused) == [str(tmp_path / "s")]  # which a run over many studies reports


def test_a_volume_that_is_no_dicom_is_told_to_stay_nifti(tmp_path, caplog):
    warn_once.cache_clear()
    nib.save(nib.Nifti1Image(blob((12, 10, 6)), np.eye(4)), tmp_path / "a.nii.gz")
    image = LoadCased("image")({"image": str(tmp_path / "a.nii.gz")})["image"]
    batch = next(iter(DataLoader(Dataset([{"image": image}]), batch_size=1)))
    engine: Any = SimpleNamespace(state=SimpleNamespace(batch=batch))
    SaveMasks(tmp_path / "o", "dicom_seg", Named("a")).check(engine)
    assert "dicom_seg is for DICOM" in caplog.text


def test_a_header_that_cannot_be_carried_over_is_named(tmp_path, monkeypatch):
    import highdicom as hd

    def fails(*args, **kwargs):
        raise KeyError("odd")

    write_series(tmp_path / "s", blob((8, 9, 4)), AFFINE)
    monkeypatch.setattr(hd.seg, "Segmentation", fails)
    with pytest.raises(InputError, match="s: a DICOM SEG cannot be made for it .*odd.*mask_format nifti"):
        check_source(tmp_path / "s", ["a"], "test")


def test_a_segmentation_of_a_rounded_header_is_read_on_its_images_grid(tmp_path):
    write_series(tmp_path / "s", blob((12, 10, 6)), AFFINE)
    image = LoadCased("image")({"image": tmp_path / "s"})["image"]
    affine, mask = np.asarray(image.affine), (image[0].numpy() > 0).astype(int)
    write_segmentation(mask, affine, tmp_path / "s", ["a"], tmp_path / "m.dcm")
    off = affine.copy()
    off[:3, 3] += 0.05 * np.array([0.7, 0.7, 2.5])
    assert np.array_equal(read_segmentation(tmp_path / "m.dcm", off, mask.shape, ["a"]), mask)
    off[:3, 3] += 0.3 * np.array([0.7, 0.7, 2.5])
    with pytest.raises(InputError, match="grid"):
        read_segmentation(tmp_path / "m.dcm", off, mask.shape, ["a"])


def test_a_segmentation_in_another_frame_of_reference_is_no_label(tmp_path):
    write_series(tmp_path / "s", blob((12, 10, 6)), AFFINE)
    path = threshold(tmp_path / "s", tmp_path / "o", mask_format="dicom_seg", network=Named("a"))
    load = LoadCased(("image", "label"), labels=["a"])
    case = {"image": str(tmp_path / "s"), "label": str(path)}
    assert load(case)["label"].max() == 1
    changed = pydicom.dcmread(path)
    changed.FrameOfReferenceUID = "1.2.3.4"
    changed.save_as(path)
    for one in (load, LoadCased("label", labels=["a"])):  # the check of a dataset loads labels alone
        with pytest.raises(InputError, match=r"s_seg\.dcm: lies in another frame of reference"):
            one(case)


def test_names_that_dicom_cannot_hold_are_read_back_as_the_labels_they_were(tmp_path):
    labels = ["left\\kidney", f"{'a' * 64}b", f"{'a' * 64}c"]
    mask = np.random.default_rng(0).integers(0, 4, (12, 10, 5))
    files = write_series(tmp_path / "s", mask, AFFINE)
    image = LoadCased("image")({"image": tmp_path / "s"})["image"]
    ours = image[0].numpy().round().astype(int)
    write_segmentation(ours, np.asarray(image.affine), files[0], labels, tmp_path / "m.dcm")
    names = [segment.SegmentLabel for segment in pydicom.dcmread(tmp_path / "m.dcm").SegmentSequence]
    assert len(set(names)) == 3 and all(isinstance(name, str) and len(name) <= 64 for name in names)
    assert np.array_equal(read_segmentation(tmp_path / "m.dcm", np.asarray(image.affine), ours.shape, labels), ours)


@pytest.mark.parametrize("slices, thickness", [(4, None), (1, "3"), (1, "8")])
def test_a_segmentation_is_read_back_whatever_the_header_says_of_thickness(tmp_path, slices, thickness):
    mask = np.zeros((12, 10, slices), int)
    mask[3:7, 2:5, 0] = 1
    for number, _ in enumerate(files := write_series(tmp_path / "s", mask, AFFINE)):
        spoil(files, number, SliceThickness=thickness)
    image = LoadCased("image")({"image": tmp_path / "s"})["image"]
    ours = image[0].numpy().round().astype(int)
    write_segmentation(ours, np.asarray(image.affine), files[0], ["b"], tmp_path / "m.dcm")
    assert ours.any()
    assert np.array_equal(read_segmentation(tmp_path / "m.dcm", np.asarray(image.affine), ours.shape, ["b"]), ours)


def test_of_an_image_without_a_frame_of_reference_the_grid_decides(tmp_path):
    files = write_series(tmp_path / "s", blob((12, 10, 6)), AFFINE)
    path = threshold(tmp_path / "s", tmp_path / "o", mask_format="dicom_seg", network=Named("a"))
    for number in range(len(files)):
        spoil(files, number, FrameOfReferenceUID="")
    case = {"image": str(tmp_path / "s"), "label": str(path)}
    assert LoadCased(("image", "label"), labels=["a"])(case)["label"].max() == 1
