"""DICOM series made of arrays, for tests, and masks made of their intensities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import torch
from hypothesis import strategies as st
from monai.data import DataLoader, decollate_batch
from monai.data import Dataset as MonaiDataset
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from sam_monai.data.dicom_seg import segmentation_file
from sam_monai.inference import pipeline
from sam_monai.inference.masks import SaveMasks

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SETTINGS = {"spatial_dims": 3, "intensity": "ct", "ct_window": (-160, 240), "orientation": "coarsest", "spacing": None,
            "channels": None, "scale": "whole"}  # fmt: skip
AFFINE = np.array([[-0.7, 0, 0, 30], [0, -0.7, 0, 40], [0, 0, 2.5, -100], [0, 0, 0, 1.0]])


def blob(shape, seed=0) -> np.ndarray:
    """Hounsfield units: 100 in a few boxes, -100 beside them."""
    rng = np.random.default_rng(seed)
    array = np.full(shape, -100, np.int16)
    for _ in range(3):
        low = [rng.integers(0, n) for n in shape]
        array[tuple(slice(a, a + max(1, n // 3)) for a, n in zip(low, shape, strict=True))] = 100
    return array


def slice_file(plane: np.ndarray, **attributes) -> FileDataset:
    """A CT slice (rows, columns) of Hounsfield units."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality, dataset.PatientID, dataset.PatientName, dataset.StudyDate = "CT", "p1", "A^B", "20200101"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyTime = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.ImageType, dataset.SeriesNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 3
    dataset.Rows, dataset.Columns = plane.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = (plane + 1024).astype("<u2").tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def write_segmentation(mask, affine, source, labels, path: Path, regions=None) -> None:
    path.write_bytes(segmentation_file(mask, affine, source, labels, "test", regions))


def decimal(values) -> list[str]:
    """DICOM's decimal strings have 16 characters."""
    return [f"{float(value):.10g}"[:16] for value in values]


def write_series(folder: Path, array: np.ndarray, affine: np.ndarray, seed: int = 0, **attributes) -> list[Path]:
    """A CT series of (columns, rows, slices) Hounsfield units on MONAI's (RAS) affine, file names in random order."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing
    common = {
        "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(),
        "ImageOrientationPatient": decimal([*directions[:, 0], *directions[:, 1]]),
        "PixelSpacing": decimal([spacing[1], spacing[0]]), "SliceThickness": "3", **attributes,
    }  # fmt: skip
    order = np.random.default_rng(seed).permutation(array.shape[2])
    files = []
    for k in range(array.shape[2]):
        where = decimal((lps @ [0, 0, k, 1])[:3])
        dataset = slice_file(array[..., k].T, ImagePositionPatient=where, InstanceNumber=int(order[k]) + 1, **common)
        files.append(folder / f"IM{order[k]:04d}")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def write_multiframe(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """An enhanced CT of (columns, rows, slices) Hounsfield units, its frames in reverse order."""
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing
    file = slice_file(array[..., 0].T, Modality="CT", NumberOfFrames=array.shape[2], InstanceNumber=1)
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    order = range(array.shape[2])[::-1]
    file.PixelData = b"".join((array[..., k].T + 1024).astype("<u2").tobytes() for k in order)
    del file.RescaleSlope, file.RescaleIntercept

    def item(**values) -> Dataset:
        dataset = Dataset()
        for name, value in values.items():
            setattr(dataset, name, value)
        return dataset

    measures = item(PixelSpacing=decimal([spacing[1], spacing[0]]), SliceThickness="3")
    orientation = item(ImageOrientationPatient=decimal([*directions[:, 0], *directions[:, 1]]))
    values = item(RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU")
    file.SharedFunctionalGroupsSequence = [
        item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[orientation],
             PixelValueTransformationSequence=[values])
    ]  # fmt: skip
    organisation = generate_uid()
    file.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organisation)]
    file.DimensionIndexSequence = [
        item(DimensionOrganizationUID=organisation, DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113)
    ]
    frames = []
    for number, k in enumerate(order, 1):
        place = item(ImagePositionPatient=decimal((lps @ [0, 0, k, 1])[:3]))
        content = item(DimensionIndexValues=[number], StackID="1", InStackPositionNumber=number)
        frames.append(item(PlanePositionSequence=[place], FrameContentSequence=[content]))
    file.PerFrameFunctionalGroupsSequence = frames
    file.save_as(path, enforce_file_format=True)


@st.composite
def grids(draw, handed: bool = False, smallest: int = 8):
    """A shape and an affine: flips, permuted axes, rotations, spacings of 0.3 to 7 mm."""
    shape = tuple(draw(st.lists(st.integers(smallest, 14), min_size=3, max_size=3)))
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
    batch = next(iter(DataLoader(MonaiDataset([{"image": str(path)}], preparation), batch_size=1)))
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


def spoil(files, number, **changes):
    dataset = pydicom.dcmread(files[number])
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.save_as(files[number])


def compress(file: Path, syntax: str) -> None:
    """Compress a file by the transfer syntax that GDCM calls so."""
    import gdcm

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
