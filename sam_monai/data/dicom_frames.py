"""What compressed frames say of themselves, compared with the header of their DICOM file before they are decoded.

Decoders take the size of an image from the header. Where a frame has another, pixels fall into other rows, and GDCM's
C++ code ends the process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

RLE = "1.2.840.10008.1.2.5"  # which pydicom decodes, and whose frames have no size
STARTS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of a frame in JPEG and JPEG-LS; the others are tables
JPEG_2000 = b"\xff\x4f\xff\x51"  # a codestream begins so


class Frame(NamedTuple):
    rows: int
    columns: int
    samples: int
    bits: int


def largest_bits(file: Path, dataset: Dataset) -> int:
    """How many bits the numbers of a compressed file may have; 0 where it does not say.

    Raises:
        InputError: the frames cannot be found, or have another number, size or depth than the header says.
    """
    from pydicom.encaps import generate_frames

    number = int(dataset.get("NumberOfFrames") or 1)
    try:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=number))
        found = [] if dataset.file_meta.TransferSyntaxUID == RLE else [described(frame) for frame in frames]
    except Exception as error:  # pydicom and what reads beyond an end raise many kinds
        raise InputError(f"{file}: cannot be read as DICOM ({error}); export it again or remove it") from error
    if len(frames) != number:
        raise InputError(f"{file}: holds {len(frames)} frames and says that it has {number}; export it again")
    size = tuple(int(dataset.get(name) or 1) for name in ("Rows", "Columns", "SamplesPerPixel"))
    for frame in found:
        if frame[:3] != size or frame.bits > int(dataset.get("BitsAllocated") or 0):
            said = " x ".join(map(str, (*size, dataset.get("BitsAllocated"))))
            raise InputError(
                f"{file}: its header says {said} (rows, columns, samples, bits), and what is compressed in it is "
                f"{' x '.join(map(str, frame))}; export it again"
            )
    return max((frame.bits for frame in found), default=0)


def described(frame: bytes) -> Frame:
    """The size of a frame of JPEG, JPEG-LS or JPEG 2000.

    Raises:
        ValueError: it is none of these.
    """
    if (at := frame.find(JPEG_2000)) >= 0:
        right, lower, left, upper = (number(frame, at + begin, 4) for begin in (8, 12, 16, 20))
        return Frame(lower - upper, right - left, number(frame, at + 40, 2), number(frame, at + 42, 1) % 128 + 1)
    at, found = 2, None
    while frame[:2] == b"\xff\xd8" and number(frame, at, 1) == 0xFF:
        marker = number(frame, at + 1, 1)
        if marker == 0xDA and found:  # the values begin
            return found
        if marker in STARTS:
            bits, rows, columns, samples = (number(frame, at + i, n) for i, n in ((4, 1), (5, 2), (7, 2), (9, 1)))
            found = Frame(rows, columns, samples, bits)
        at += 1 if marker == 0xFF else 2 + number(frame, at + 2, 2)
    raise ValueError("a compressed frame is damaged in its header")


def number(data: bytes, begin: int, size: int) -> int:
    if len(data) < begin + size:
        raise ValueError("a compressed frame ends in its header")
    return int.from_bytes(data[begin : begin + size], "big")
