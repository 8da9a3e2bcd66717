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

RLE = "1.2.840.10008.1.2.5"  # which pydicom decodes, and whose frames say nothing of their size
RLE_HEADER = 64  # bytes: how many segments there are, at most 15, and where each begins
FEWEST_ROWS = 8
STARTS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of a frame in JPEG and JPEG-LS; the others are tables
JPEG_2000 = b"\xff\x4f\xff\x51"  # a codestream begins so


class Frame(NamedTuple):
    rows: int
    columns: int
    samples: int
    bits: int


def largest_bits(file: Path, dataset: Dataset) -> int:
    """How many bits the numbers of a compressed file may have; 0 where it does not say."""
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
    if dataset.file_meta.TransferSyntaxUID == RLE and (width := other_width(frames[0], *size[:2])):
        raise InputError(
            f"{file}: its header says {size[0]} rows and {size[1]} columns, and what is compressed in it has rows of "
            f"{width} pixels; export it again"
        )
    for frame in found:
        if frame[:3] != size or frame.bits > int(dataset.get("BitsAllocated") or 0):
            said = " x ".join(map(str, (*size, dataset.get("BitsAllocated"))))
            raise InputError(
                f"{file}: its header says {said} (rows, columns, samples, bits), and what is compressed in it is "
                f"{' x '.join(map(str, frame))}; export it again"
            )
    return max((frame.bits for frame in found), default=0)


def described(frame: bytes) -> Frame:
    """The size of a frame of JPEG, JPEG-LS or JPEG 2000. A ValueError for what is none of these."""
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


def other_width(frame: bytes, rows: int, columns: int) -> int:
    """How long the rows of a frame of RLE are, where they do not have the length that the header says; else 0. Each row
    is encoded by itself, so that no run goes on from one to the next. A square has no sides to be exchanged."""
    if rows == columns or len(frame) < RLE_HEADER or not 0 < frame[0] < RLE_HEADER // 4:  # a decoder says the latter
        return 0
    starts = [int.from_bytes(frame[4 * i : 4 * i + 4], "little") for i in range(1, 1 + frame[0])]
    ends = [ends_of_runs(frame[a:b]) for a, b in zip(starts, [*starts[1:], len(frame)], strict=True)]
    common = set.intersection(*ends) if ends else set()

    def is_width(width: int) -> bool:
        return common.issuperset(range(width, rows * columns + 1, width))

    widths = range(FEWEST_ROWS, min(2**16, rows * columns // FEWEST_ROWS + 1))
    return 0 if is_width(columns) else next((w for w in widths if rows * columns % w == 0 and is_width(w)), 0)


def ends_of_runs(segment: bytes) -> set[int]:
    """After how many values of a segment of RLE a run ends."""
    at, values, ends = 0, 0, set()
    while at < len(segment):
        head = segment[at]
        count = head + 1 if head < 128 else 257 - head if head > 128 else 0
        at += 2 if head > 128 else 1 + count
        values += count
        ends.add(values)
    return ends


def number(data: bytes, begin: int, size: int) -> int:
    if len(data) < begin + size:
        raise ValueError("a compressed frame ends in its header")
    return int.from_bytes(data[begin : begin + size], "big")
