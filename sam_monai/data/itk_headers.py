"""Headers of NRRD and MetaImage files. ITK's reader obeys what they say of the grid; the rest is refused here."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import Any

from ..errors import InputError
from .affines import warn_of_unknown_sides

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
MOST_BYTES = 2**16  # of a header
MILLIMETRES = ("", "?", "mm", "millimeter", "millimeters", "millimetre", "millimetres")
# Of axes that are space or channels. Others are time, or a list of images.
KINDS = ("domain", "space", "vector", "3-vector", "rgb-color", "3-color", "rgba-color", "4-color", "none", "stub", "?")
# Fields of MetaImage that mean the same, of which ITK takes the one or the other.
SAME = (("offset", "position", "origin"), ("transformmatrix", "rotation", "orientation"))
OF_PATIENTS = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")
BYTES = {"char": 1, "int8": 1, "short": 2, "int16": 2, "long.?long": 8, "int64": 8, "double": 8, "int|float|long": 4}


def time_points(path: str) -> int:
    """How many images a file holds along axes that are neither space nor channels.

    Raises:
        InputError: a voxel without a size, or a place that is no number; lengths in another unit than millimetres;
            intensities that the header scales; fewer or more values than the header says, which ITK does not notice.
        Exception: values that cannot be decompressed.
    """
    fields = read(Path(path))
    units = fields.get("distanceunits", "").split() + re.findall('"(.*?)"', fields.get("space units", ""))
    if odd := [unit for unit in units if unit.lower() not in MILLIMETRES]:
        raise InputError(f"{path}: its lengths are in {odd[0]} and would be read as mm; save it in mm")
    slope, shift = (fields.get(f"elementtointensityfunction{key}", "") for key in ("slope", "offset"))
    if (float(slope or 1), float(shift or 0)) != (1, 0):
        raise InputError(f"{path}: its header scales the values, by {slope or 1} and {shift or 0}; save them scaled")
    if quantised := [key for key in ("old min", "oldmin", "old max", "oldmax") if key in fields]:
        raise InputError(f"{path}: its values were quantised ({quantised[0]}) and ITK does not restore them; do so")
    sizes = [int(size) for size in fields.get("sizes", fields.get("dimsize", "")).split()]
    _check_place(path, fields, min(3, len(sizes)))
    _check_data(Path(path), fields, math.prod(sizes))
    kinds = fields.get("kinds", "").lower().replace("???", "?").split()
    if "dimsize" in fields:
        kinds = ["space"] * 3 + ["time"] * (len(sizes) - 3)
    return math.prod(size for size, kind in zip(sizes, kinds, strict=False) if kind not in KINDS)


def _check_place(path: str, fields: dict[str, str], axes: int) -> None:
    """ITK takes 1 mm for a spacing that is not there, and 0 for an origin that is no number."""
    metaimage = fields.get("elementspacing", fields.get("elementsize", ""))
    plain = fields.get("spacings") or metaimage
    given = re.sub(r"\bnone\b|\bnan\b", "", fields.get("space directions") or plain)
    if len(re.findall(r"\(.*?\)", given) or given.split()) < axes or re.search(r"(^|\s)-", plain):
        raise InputError(f"{path}: its header gives a voxel no size along each axis; save it with its spacing")
    names = [[key for key in group if key in fields] for group in SAME if "dimsize" in fields]
    for first, *others in filter(None, names):
        if any(_numbers(fields[key]) != _numbers(fields[first]) for key in others):
            raise InputError(f"{path}: its {first} and {others[0]} differ, so where it lies is not known; keep one")
    space = fields.get("space", "").lower().removesuffix("-time")
    if not names[1] if names else space not in OF_PATIENTS:
        warn_of_unknown_sides(path, "it names no space of the patient")
    for key in ("offset", "origin", "position", "transformmatrix", "rotation", "orientation", "space origin"):
        if re.search(r"nan|inf", fields.get(key, "").lower()):
            raise InputError(f"{path}: its {key} holds NaN or infinite numbers; export it again")


def _numbers(text: str) -> list[Any]:
    try:
        return [float(number) for number in text.split()]
    except ValueError:  # no numbers, which is said below or by ITK
        return text.split()


def _check_data(file: Path, fields: dict[str, str], number: int) -> None:
    """ITK leaves what it cannot decompress as the memory happened to be, and does not miss what it need not read."""
    kind = fields.get("type", fields.get("elementtype", "")).lower()
    size = next((size for name, size in BYTES.items() if re.search(name, kind)), None)
    elsewhere = _data_file(fields)
    skipped = fields.get("line skip", fields.get("byte skip", fields.get("headersize", "0")))
    encoding = fields.get("encoding", "raw").lower()
    if fields.get("compresseddata", "").lower() == "true":
        encoding = "zlib"
    text = fields.get("binarydata", "true").lower() != "true" or encoding not in ("raw", "gzip", "gz", "zlib")
    if size is None or text or re.search(r"^LIST|%", elsewhere) or (skipped != "0" and elsewhere != "LOCAL"):
        return  # ITK says what is wrong with those
    if skipped not in ("0", "-1"):
        raise InputError(f"{file}: skips {skipped} bytes or lines of its own; save it again")
    expected = number * size * int(fields.get("elementnumberofchannels", "1"))
    local = elsewhere == "LOCAL"
    values, begin = (file, int(fields[END])) if local else (file.parent / elsewhere, 0)
    packed = values.stat().st_size - begin
    if encoding == "zlib" and int(fields.get("compresseddatasize", 0 if local else packed)) != packed:
        raise InputError(f"{file}: its CompressedDataSize is not the {packed} bytes that are there; save it again")
    found = _bytes_of(values, begin, encoding)
    if found != expected or not expected:
        raise InputError(f"{file}: its header says that its values take {expected} bytes, and they take {found}")


def _data_file(fields: dict[str, str]) -> str:
    return fields.get("data file", fields.get("datafile", fields.get("elementdatafile", "LOCAL")))


def with_values(path: Path) -> list[Path]:
    """A file of an image and, where it is a header alone, the file of its values."""
    values = path.parent / _data_file(read(path)) if path.name.lower().endswith(SUFFIXES) else path
    return [path, values] if values != path and values.is_file() else [path]


def _bytes_of(file: Path, begin: int, encoding: str) -> int:
    """How many bytes of values there are, once decompressed."""
    if encoding == "raw":
        return file.stat().st_size - begin
    with file.open("rb") as opened:
        opened.seek(begin)
        if encoding != "zlib":
            with gzip.GzipFile(fileobj=opened) as values:
                return sum(len(part) for part in iter(lambda: values.read(2**24), b""))
        values, found = zlib.decompressobj(), 0
        while part := opened.read(2**20):
            found += len(values.decompress(part))
        return found if values.eof else 0


END = "\0"  # where the values begin


def read(file: Path) -> dict[str, str]:
    """The fields of a header, with their names in small letters, and under :data:`END` how many bytes it has."""
    with file.open("rb") as opened:
        header = opened.read(MOST_BYTES)
    end = re.search(rb"\r?\n\r?\n" if header.startswith(b"NRRD") else rb"(?m)^ElementDataFile[^\n]*\n?", header)
    header = header[: end.end()] if end else header
    fields = {END: str(len(header))}
    for line in header.decode("latin-1").splitlines():
        key, _, value = re.sub(":=?|=", "\0", line, count=1).partition("\0")
        key, value = key.strip().lower(), value.strip()
        if fields.setdefault(key, value) != value and not key.startswith(("#", "comment")):
            raise InputError(f"{file}: its header gives {key} twice, as {fields[key][:80]} and {value[:80]}; keep one")
    return fields
