"""DICOM images that cannot be right, each made in small, with what is said of it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from bad_inputs import AFFINE, VOLUME, Make, nifti
from dicom_maker import compress, decimal, spoil, write_multiframe, write_series
from pydicom.encaps import encapsulate, generate_frames


def series(change: Callable[[list[Path]], object] = len, **attributes) -> Make:
    """A CT of which files are changed."""

    def make(folder: Path) -> Path:
        files = write_series(folder / "x", (VOLUME - 100).round().astype(np.int16), AFFINE, **attributes)
        change(files)
        return folder / "x"

    return make


UNITS, PLACE = "PixelValueTransformationSequence", "PlanePositionSequence"


def frames(change: Callable[[pydicom.Dataset], object]) -> Make:
    """A CT in one file that is changed."""

    def make(folder: Path) -> Path:
        write_multiframe(folder / "x.dcm", (VOLUME - 100).round().astype(np.int16), AFFINE)
        dataset = pydicom.dcmread(folder / "x.dcm")
        change(dataset)
        dataset.save_as(folder / "x.dcm")
        return folder / "x.dcm"

    return make


def move(dataset: pydicom.Dataset, place: list[float]) -> None:
    dataset.PerFrameFunctionalGroupsSequence[4][PLACE][0].ImagePositionPatient = place


def also(sequence: str, **values: str | list[float]) -> Make:
    """A CT in one file that has something for all of its frames, and for each of them with other values."""

    def change(dataset: pydicom.Dataset) -> None:
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame[sequence] = copy.deepcopy(dataset.SharedFunctionalGroupsSequence[0][sequence])
            for name, value in values.items():
                setattr(frame[sequence][0], name, value)

    return frames(change)


def swap(file: Path) -> None:
    dataset = pydicom.dcmread(file)
    dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
    dataset.save_as(file)


def compressed(syntax: str, **said: int) -> Make:
    """A CT that is compressed without loss, with headers that say something else of it."""

    def change(files: list[Path]) -> None:
        for number, file in enumerate(files):
            compress(file, syntax)
            spoil(files, number, **said)

    return series(change)


def twice(files: list[Path]) -> None:
    """One file with its compressed frame twice."""
    compress(files[2], "JPEGLSLossless")
    dataset = pydicom.dcmread(files[2])
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame, frame])
    dataset.save_as(files[2])


def mapped(files: list[Path], **values: float | list[float]) -> None:
    """Every slice with a real-world value mapping, of which slopes that are lists have one for each."""
    for number in range(len(files)):
        item, unit = pydicom.Dataset(), pydicom.Dataset()
        unit.CodeValue, item.MeasurementUnitsCodeSequence = "[hnsf'U]", [unit]
        for name, value in values.items():
            setattr(item, f"RealWorldValue{name}", value[number] if isinstance(value, list) else value)
        spoil(files, number, RealWorldValueMappingSequence=[item])


def in_colours(files: list[Path]) -> None:
    for number, file in enumerate(files):
        pixels = (pydicom.dcmread(file).pixel_array % 256).astype(np.uint8)
        colours = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
        bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
        spoil(files, number, PixelData=np.stack([pixels] * 3, -1).tobytes(), **colours, **bits)


def without(files: list[Path], name: str, number: int = 3) -> None:
    dataset = pydicom.dcmread(files[number])
    delattr(dataset, name)
    dataset.save_as(files[number])


DICOM: dict[str, tuple[Make, str]] = {
    "a slice is missing": (series(lambda files: files[4].unlink()), "missing between"),
    "a slice is there twice": (series(lambda files: shutil.copy(files[3], files[3].with_name("copy"))), "same place"),
    "a slice lies elsewhere": (
        series(lambda files: spoil(files, 5, ImagePositionPatient=decimal([0, 0, 10.9]))), "uneven slice spacing"),
    "a slice lies aside": (
        series(lambda files: spoil(files, 5, ImagePositionPatient=decimal([5, 0, 10]))), "right angles"),
    "a slice of another spacing": (series(lambda files: spoil(files, 2, PixelSpacing=[1, 2])), "pixel spacings"),
    "no spacing": (series(PixelSpacing=[0, 0]), "pixel spacings"),
    "a slice of another patient": (
        series(lambda files: spoil(files, 2, PatientID="p2")), "slices are of several patients"),
    "a slice of another study": (
        series(lambda files: spoil(files, 2, StudyInstanceUID="1.2")), "slices are of several studies"),
    "a slice of another frame": (
        series(lambda files: spoil(files, 2, FrameOfReferenceUID="1.2")), "frames of reference"),
    "a slice that is inverted": (series(lambda f: spoil(f, 2, PhotometricInterpretation="MONOCHROME1")), "MONOCHROME1"),
    "a scale at the top that is none of the frames'": (
        frames(lambda d: [setattr(d, key, value) for key, value in
                          (("RescaleSlope", "2"), ("RescaleIntercept", "-500"))]),
        "has one RescaleSlope and RescaleIntercept at its top and others for frames"),
    "no units": (series(lambda files: without(files, "RescaleSlope")), r"\(nan and"),
    "other units": (series(RescaleType="MGML"), "units of MGML"),
    "fewer pixels than rows": (series(lambda files: spoil(files, 1, PixelData=b"\0" * 40)), "cannot be read"),
    "no pixels": (series(lambda files: without(files, "PixelData")), "cannot be read"),
    "fewer bits than numbers": (series(BitsStored=8, HighBit=7), "beyond the 8 bits"),
    "bits at another place": (series(BitsStored=12, HighBit=15), "HighBit is 15"),
    "another modality": (series(Modality="MR"), "is MR, but the key intensity"),
    "two series": (
        series(lambda files: [spoil(files, n, SeriesInstanceUID="1.2") for n in range(4)]), "holds 2 DICOM images"),
    "no orientation": (
        series(lambda files: [without(files, "ImageOrientationPatient", n) for n in range(9)]), "no DICOM image"),
    "files that are cut": (
        series(lambda files: [f.write_bytes(f.read_bytes()[:300]) for f in files]), "no DICOM image"),
    "a file that is cut in its pixels": (
        series(lambda files: files[2].write_bytes(files[2].read_bytes()[:-90])), "cannot be read"),
    "a slope of 0": (series(RescaleSlope=0), r"\(0.0 and"),
    "an empty slope": (series(RescaleSlope=None), r"\(nan and"),
    "no intercept": (series(lambda files: [without(files, "RescaleIntercept", n) for n in range(9)]), r"and nan\)"),
    "a slice of another modality": (series(lambda files: spoil(files, 2, Modality="MR")), "slices are CT and MR"),
    "a negative spacing": (series(PixelSpacing=[-0.8, 0.8]), "pixel spacings"),
    "voxels of a kilometre": (series(PixelSpacing=["1e6", "1e6"]), "which cannot be"),
    "an orientation of other lengths": (series(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]), "right angles"),
    "an orientation of nothing": (series(ImageOrientationPatient=[0] * 6), "same place"),
    "a skew orientation": (series(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), "orthogonal|right angles"),
    "a slice of another orientation": (
        series(lambda files: spoil(files, 2, ImageOrientationPatient=[0, 1, 0, 1, 0, 0])), "holds 2 DICOM images"),
    "a slice without a place": (series(lambda files: without(files, "ImagePositionPatient")), "holds 2 DICOM images"),
    "no photometric interpretation": (
        series(lambda files: [without(files, "PhotometricInterpretation", n) for n in range(9)]), "cannot be read"),
    "colours": (series(in_colours), "is a CT in colours"),
    "colours that are none": (series(PhotometricInterpretation="RGB"), "cannot be read"),
    "more pixels than rows": (series(lambda files: spoil(files, 1, PixelData=b"\0" * 480)), "cannot be read"),
    "bytes in another order": (series(lambda files: [swap(file) for file in files]), "no Hounsfield units"),
    "unsigned": (nifti((VOLUME - 1000).astype(np.int16).view(np.uint16) // 2 * 2), "no Hounsfield units"),
    "scaled to 1 before": (nifti(VOLUME / 1000), "no Hounsfield units"),
    "scaled to a deviation of 1 before": (nifti((VOLUME - 100) / 30), "no Hounsfield units"),
    "frames without units": (frames(lambda d: d.SharedFunctionalGroupsSequence[0].pop(UNITS)), "no RescaleSlope"),
    "frames of other units": (
        frames(lambda d: setattr(d.SharedFunctionalGroupsSequence[0][UNITS][0], "RescaleType", "MGML")), "of MGML"),
    "frames of a slope of 0": (
        frames(lambda d: setattr(d.SharedFunctionalGroupsSequence[0][UNITS][0], "RescaleSlope", "0")), r"\(0.0 and"),
    "fewer frames than said": (frames(lambda d: setattr(d, "NumberOfFrames", 12)), "9 frames and says that it has 12"),
    "more frames than said": (frames(lambda d: setattr(d, "NumberOfFrames", 5)), "9 frames and says that it has 5"),
    "frames at one place": (frames(lambda d: move(d, [0, 0, -6])), "slices missing between frame|at the same place"),
    "frames of uneven spacing": (frames(lambda d: move(d, [0, 0, -8.7])), "uneven slice spacing"),
    "frames without a size": (
        frames(lambda d: delattr(d.SharedFunctionalGroupsSequence[0], "PixelMeasuresSequence")), "cannot be read"),
    "frames with another scale for each": (
        also(UNITS, RescaleSlope="3"), f"has one {UNITS} for all frames and another for frame 1"),
    "frames with another size for each": (
        also("PixelMeasuresSequence", PixelSpacing=["1.6", "1.6"]), "for all frames and another"),
    "frames with another orientation for each": (
        also("PlaneOrientationSequence", ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "for all frames and another"),
    "compressed beyond its bits": (compressed("RLELossless", BitsStored=8, HighBit=7), "beyond the 8 bits"),
    **{f"{syntax} beyond its bits": (compressed(syntax, BitsStored=8, HighBit=7), "beyond the 8 bits")
       for syntax in ("JPEGLSLossless", "JPEGLosslessProcess14_1", "JPEG2000Lossless")},
    **{f"{syntax} of other rows than said": (compressed(syntax, Rows=20), "what is compressed in it is 10 x 12 x 1")
       for syntax in ("JPEGLSLossless", "JPEGLosslessProcess14_1", "JPEG2000Lossless")},
    "rows and columns exchanged": (compressed("JPEGLSLossless", Rows=12, Columns=10), "compressed in it is 10 x 12"),
    "fewer rows than are compressed": (compressed("JPEGLSLossless", Rows=8), "compressed in it is 10 x 12"),
    "colours said, grey compressed": (compressed("JPEG2000Lossless", SamplesPerPixel=3), "is 10 x 12 x 1 x 16"),
    "8 bits said, 16 compressed": (
        compressed("JPEGLSLossless", BitsAllocated=8, BitsStored=8, HighBit=7), "is 10 x 12 x 1 x 16"),
    **{f"RLE of {rows} rows, {columns} columns": (
        compressed("RLELossless", Rows=rows, Columns=columns), "rows of 12 pixels")
       for rows, columns in ((12, 10), (15, 8))},
    "another scale for each slice": (
        series(lambda f: mapped(f, Slope=[1.0 + n for n in range(9)], Intercept=-1024.0)), "scale of its own"),
    "other Hounsfield units": (series(lambda f: mapped(f, Slope=1.0, Intercept=0.0)), "RealWorldValueMappingSequence"),
    "a table of real-world values": (series(lambda f: mapped(f, LUTData=1.0)), "by a table"),
    "a mosaic": (series(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "MOSAIC"),
    "a slice of other units": (series(lambda f: spoil(f, 2, Units="CNTS")), "slices are CNTS and None"),
    "a compressed frame twice": (series(twice), "holds 2 frames and says that it has 1"),
}  # fmt: skip
