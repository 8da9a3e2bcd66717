"""Headers of NRRD and MetaImage files. ITK's reader obeys what they say of the grid; the rest is refused here."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ..errors import InputError

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
MOST_BYTES = 2**16  # of a header
MILLIMETRES = ("", "?", "mm", "millimeter", "millimeters", "millimetre", "millimetres")
# Of axes that are space or channels. Others are time, or a list of images.
KINDS = ("domain", "space", "vector", "3-vector", "rgb-color", "3-color", "rgba-color", "4-color", "none", "stub", "?")


def time_points(path: str) -> int:
    """How many images a file holds along axes that are neither space nor channels.

    Raises:
        InputError: lengths in another unit than millimetres, or intensities that the header scales.
    """
    fields = read(Path(path))
    units = fields.get("distanceunits", "").split() + re.findall('"(.*?)"', fields.get("space units", ""))
    if odd := [unit for unit in units if unit.lower() not in MILLIMETRES]:
        raise InputError(f"{path}: its lengths are in {odd[0]} and would be read as mm; save it in mm")
    slope, shift = (fields.get(f"elementtointensityfunction{key}", "") for key in ("slope", "offset"))
    if (float(slope or 1), float(shift or 0)) != (1, 0):
        raise InputError(f"{path}: its header scales the values, by {slope or 1} and {shift or 0}; save them scaled")
    sizes = [int(size) for size in fields.get("sizes", fields.get("dimsize", "")).split()]
    kinds = fields.get("kinds", "").lower().replace("???", "?").split()
    if "dimsize" in fields:
        kinds = ["space"] * 3 + ["time"] * (len(sizes) - 3)
    return math.prod(size for size, kind in zip(sizes, kinds, strict=False) if kind not in KINDS)


def read(file: Path) -> dict[str, str]:
    """The fields of a header, with their names in small letters."""
    with file.open("rb") as opened:
        header = opened.read(MOST_BYTES).decode("latin-1").replace("\r\n", "\n")
    if header.startswith("NRRD"):
        header = header.partition("\n\n")[0]
    fields: dict[str, str] = {}
    for line in header.split("\n"):
        key, _, value = re.sub(":=?|=", "\0", line, count=1).partition("\0")
        fields.setdefault(key.strip().lower(), value.strip())
        if key.startswith("ElementDataFile"):  # behind it are the voxels
            break
    return fields
