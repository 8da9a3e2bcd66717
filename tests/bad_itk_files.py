"""NRRD and MetaImage volumes that cannot be right, each made in small, with what is said of it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHAPE = (12, 10, 9)
VOLUME = np.random.default_rng(0).normal(100, 30, SHAPE).astype(np.float32)
Make = Callable[[Path], Path | str]


def nrrd(data: bytes = VOLUME.tobytes("F"), name: str = "x.nrrd", **changes: str | None) -> Make:
    """A volume, with fields of its header changed, or left out."""
    fields: dict[str, str | None] = {
        "type": "float", "dimension": "3", "space": "left-posterior-superior", "sizes": "12 10 9",
        "space directions": "(0.8,0,0) (0,0.8,0) (0,0,2)", "kinds": "domain domain domain", "endian": "little",
        "encoding": "raw", "space origin": "(0,0,0)",
    }  # fmt: skip
    fields |= {key.replace("_", " "): value for key, value in changes.items()}
    header = "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None)
    return written(name, f"NRRD0004\n{header}\n", data)


def mha(data: bytes = VOLUME.tobytes("F"), name: str = "x.mha", **changes: str) -> Make:
    """Likewise."""
    fields = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
        "ElementSpacing": "0.8 0.8 2", "DimSize": "12 10 9", "ElementType": "MET_FLOAT",
    }  # fmt: skip
    last = changes.pop("ElementDataFile", "LOCAL")
    header = "".join(f"{key} = {value}\n" for key, value in {**fields, **changes}.items())
    return written(name, f"{header}ElementDataFile = {last}\n", data)


def written(name: str, header: str, data: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(header.encode() + data)
        return folder / name

    return make


def with_nan() -> bytes:
    changed = VOLUME.copy()
    changed[3, 3, 3] = np.nan
    return changed.tobytes("F")


def damaged(data: bytes, place: int) -> bytes:
    """With one byte changed."""
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


PACKED, ZIPPED = zlib.compress(VOLUME.tobytes("F")), gzip.compress(VOLUME.tobytes("F"))
COMPRESSED = {"CompressedData": "True", "CompressedDataSize": str(len(PACKED))}
NO_DIRECTIONS: dict[str, str | None] = {"space_directions": None, "space": None, "space_origin": None}
FOUR = {"NDims": "4", "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "Offset": "0 0 0 0"}
ITK: dict[str, tuple[Make, str]] = {
    "cut": (nrrd(VOLUME.tobytes()[:500]), "they take 500"),
    "empty": (written("x.nrrd", "", b""), "cannot be read"),
    "text": (written("x.mha", "hello", b""), "cannot be read"),
    "one NaN": (nrrd(with_nan()), "NaN or infinite"),
    "no size": (nrrd(space_directions="(0,0,0) (0,0.8,0) (0,0,2)"), "cannot be read"),
    "a size of NaN": (nrrd(space_directions="(nan,0,0) (0,0.8,0) (0,0,2)"), "cannot be read"),
    "a voxel of a kilometre": (nrrd(space_directions="(1e6,0,0) (0,0.8,0) (0,0,2)"), "which cannot be"),
    "sheared": (nrrd(space_directions="(0.8,0,0) (0.8,0.8,0) (0,0,2)"), "right angles"),
    "far away": (nrrd(space_origin="(1e9,0,0)"), "mm away"),
    "metres": (nrrd(space_units='"m" "m" "m"'), "lengths are in m "),
    "microns": (nrrd(space_units='"um" "um" "um"'), "lengths are in um"),
    "images along a list": (
        nrrd(dimension="4", sizes="3 12 10 3", kinds="list domain domain domain",
             space_directions="none (0.8,0,0) (0,0.8,0) (0,0,2)"), "3 time points"),
    "images along time": (
        nrrd(dimension="4", sizes="12 10 3 3", kinds="domain domain domain time"), "cannot be read|time points"),
    "two channels": (
        nrrd(dimension="4", sizes="2 12 10 9", kinds="vector domain domain domain", data=2 * VOLUME.tobytes(),
             space_directions="none (0.8,0,0) (0,0.8,0) (0,0,2)"), "2 channels"),
    "of a type that is none": (nrrd(type="quadruple"), "cannot be read"),
    "data that are not there": (nrrd(b"", "x.nhdr", data_file="no.raw"), "cannot be read"),
    "no spacing": (nrrd(space_directions=None), "no size along each axis"),
    "no spacing and no space": (nrrd(**NO_DIRECTIONS), "no size along each axis"),
    "a spacing that is no number": (nrrd(**NO_DIRECTIONS, spacings="0.8 0.8 nan"), "no size along each axis"),
    "directions that are none": (nrrd(space_directions="none none none"), "no size along each axis"),
    "a direction that is none": (nrrd(space_directions="(0.8,0,0) (0,0.8,0) none"), "no size along each axis"),
    "more values than said": (nrrd(2 * VOLUME.tobytes()), "take 4320 bytes, and they take 8640"),
    "values that begin later": (nrrd(byte_skip="8"), "skips 8 bytes"),
    "fewer values than said, compressed": (nrrd(gzip.compress(VOLUME.tobytes()[:-8]), encoding="gzip"), "take 4312"),
    "damaged within, compressed": (nrrd(damaged(ZIPPED, 2000), encoding="gzip"), "cannot be read"),
    "a wrong checksum": (nrrd(damaged(ZIPPED, -6), encoding="gzip"), "cannot be read"),
    "another number of axes": (nrrd(dimension="4"), "cannot be read"),
    "quantised": (nrrd(old_min="-1000"), "quantised"),
    "a negative spacing": (nrrd(**NO_DIRECTIONS, spacings="-0.8 0.8 2"), "no size along each axis"),
    "another origin as well": (nrrd(space_origin="(0,0,0)\nspace origin: (50,0,0)"), "space origin twice"),
    "MetaImage, another position as well": (mha(Position="50 0 0"), "offset and position differ"),
    "MetaImage, another rotation as well": (mha(Rotation="0 1 0 1 0 0 0 0 1"), "rotation differ"),
    "MetaImage, another spacing as well": (mha(ElementSpacing="0.8 0.8 2\nElementSpacing = 3 3 3"), "spacing twice"),
    "MetaImage, a negative spacing": (mha(ElementSpacing="-0.8 0.8 2"), "no size along each axis"),
    "MetaImage, cut": (mha(VOLUME.tobytes()[:500]), "they take 500"),
    "MetaImage, one NaN": (mha(with_nan()), "NaN or infinite"),
    "MetaImage, no size": (mha(ElementSpacing="0 0.8 2"), "cannot be read"),
    "MetaImage, sheared": (mha(TransformMatrix="1 1 0 0 1 0 0 0 1"), "right angles"),
    "MetaImage, singular": (mha(TransformMatrix="0 0 0 0 0 0 0 0 0"), "cannot be read"),
    "MetaImage, time points": (mha(**FOUR, DimSize="12 10 3 3", ElementSpacing="0.8 0.8 2 1"), "3 time points"),
    "MetaImage, two channels": (mha(2 * VOLUME.tobytes(), ElementNumberOfChannels="2"), "2 channels"),
    "MetaImage, microns": (mha(DistanceUnits="um"), "lengths are in um"),
    "MetaImage, scaled": (mha(ElementToIntensityFunctionSlope="2"), "scales the values, by 2"),
    "MetaImage, shifted": (mha(ElementToIntensityFunctionOffset="-1024"), "scales the values, by 1 and -1024"),
    "MetaImage, two axes": (
        mha(NDims="2", DimSize="12 90", TransformMatrix="1 0 0 1", Offset="0 0", ElementSpacing="0.8 0.8"), "two axes"),
    "MetaImage, data that are not there": (mha(b"", "x.mhd", ElementDataFile="no.raw"), "cannot be read"),
    "MetaImage, no spacing": (mha(ElementSpacing=""), "no size along each axis"),
    "MetaImage, an origin of NaN": (mha(Offset="nan 0 0"), "offset holds NaN"),
    "MetaImage, no channel": (mha(ElementNumberOfChannels="0"), "take 0 bytes"),
    "MetaImage, more values than said": (mha(2 * VOLUME.tobytes()), "take 4320 bytes, and they take 8640"),
    "MetaImage, values that begin in the header": (mha(HeaderSize="8"), "skips 8 bytes"),
    "MetaImage, not compressed": (mha(**COMPRESSED), "cannot be read|CompressedDataSize"),
    "MetaImage, damaged within": (mha(damaged(PACKED, 2000), **COMPRESSED), "cannot be read"),
    "MetaImage, compressed and cut": (mha(PACKED[:-300], **COMPRESSED), "CompressedDataSize"),
    "MetaImage, compressed size not said": (mha(PACKED, CompressedData="True"), "CompressedDataSize"),
    "MetaImage, another compressed size": (
        mha(PACKED, CompressedData="True", CompressedDataSize="50"), "CompressedDataSize"),
    "MetaImage, data elsewhere": (mha(b"", "x.mhd", ElementDataFile="../x.raw"), "cannot be read"),
}  # fmt: skip


def segments(**values: int) -> Make:
    """A label as 3D Slicer saves it, with the names of its segments and their values."""
    pairs = [f"Segment{i}_Name:={name}\nSegment{i}_LabelValue:={n}" for i, (name, n) in enumerate(values.items())]
    label = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    return nrrd(label.tobytes("F"), "x.seg.nrrd", type="uint8", encoding="\n".join(["raw", *pairs]))


ITK_LABELS: dict[str, tuple[Make, str]] = {
    "segments in another order": (segments(b=1, a=2), "says that b has the value 1 in it, and in the dataset it has 2"),
    "a segment that moved up": (segments(other=2, B=1), "says that B has the value 1 in it"),
}
