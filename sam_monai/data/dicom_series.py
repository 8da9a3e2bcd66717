"""Which DICOM files are images, and which of them are one image: series found, slices ordered by where they lie."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, counted

if TYPE_CHECKING:
    from pydicom import Dataset

NO_IMAGES = ("SEG", "RTDOSE")  # have rows and columns all the same
SUFFIXES = (".dcm", ".dicom", ".ima")
HEADER = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "NumberOfFrames", "FrameOfReferenceUID", "StudyInstanceUID", "SharedFunctionalGroupsSequence",
    "SpecificCharacterSet", "ImageType", "PatientID",
)  # fmt: skip
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Series:
    """The files of one image: a volume's slices in the order in which they lie, a multi-frame file, or a picture."""

    files: tuple[Path, ...]
    description: str
    path: Path
    """What stands for the series in lists and messages: its folder, or a file where the folder holds others."""
    key: tuple = ()
    """Equal for files of one series, orientation and size, wherever they lie; empty for one of a single file."""
    places: frozenset[tuple[float, ...]] = frozenset()
    """Where its slices lie, in millimetres."""


def is_dicom(path: str | Path) -> bool:
    """Tell whether a file is DICOM, by its first bytes, or a folder holds a DICOM file."""
    path = Path(path)
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(is_dicom(file) for file in sorted(path.iterdir()) if file.is_file())
    if not path.is_file():  # to open a pipe is to wait
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_dicom_picture(path: str | Path) -> bool:
    """Tell whether a file, or the one image of a folder, is DICOM without a place in the patient: an X-ray, a
    photograph, a frame of ultrasound."""
    path = Path(path)
    if path.is_dir():
        series, _ = sort_folder(path)
        return len(series) == 1 and is_dicom_picture(series[0].files[0])
    return path.is_file() and is_dicom(path) and not has_place(read_header(path))


def patient_of(path: str | Path) -> str:
    """The PatientID of a DICOM file, or of the first one in a folder; nothing where there is none."""
    path = Path(path)
    if path.is_dir():
        path = next((file for file in sorted(path.iterdir()) if file.is_file() and is_dicom(file)), path)
    try:
        return str(read_header(path).get("PatientID") or "") if path.is_file() and is_dicom(path) else ""
    except Exception:  # pydicom raises many kinds, and such a file is refused where it is loaded
        return ""


def is_localiser(path: str | Path) -> bool:
    """Tell whether a DICOM file is one of the few overviews on which a scan was planned."""
    return "LOCALIZER" in (read_header(Path(path)).get("ImageType") or ())


def has_place(header: Dataset) -> bool:
    single = header.get("ImagePositionPatient") and header.get("ImageOrientationPatient")
    return bool(single) or "SharedFunctionalGroupsSequence" in header


def list_series(folder: str | Path) -> list[Series]:
    """The images that lie in a folder (not in the folders within), in order of their series' numbers.

    Files of one SeriesInstanceUID are one image if they have the same orientation, rows and columns: a localiser of
    three planes is three. Files without a position are pictures, one image each.
    """
    found, passed_over = sort_folder(folder)
    for file, reason in passed_over:
        logger.warning("%s: passed over, %s", file, reason)
    return found


def sort_folder(folder: str | Path) -> tuple[list[Series], list[tuple[Path, str]]]:
    """The images of :func:`list_series`, and the DICOM files of a folder that belong to none, each with the reason."""
    groups: dict[tuple, list[tuple[Path, Dataset]]] = {}
    passed_over: list[tuple[Path, str]] = []
    for file in sorted(Path(folder).iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        if not is_dicom(file):
            if file.name.lower().endswith(SUFFIXES):
                passed_over.append(
                    (file, "its name is that of a DICOM file, and it holds something else or is damaged")
                )
            continue
        try:
            header = read_header(file)
            if reason := no_image(header):
                passed_over.append((file, reason))
            else:
                key = group_of(file, header)
                if key not in groups and len(key) > 1:
                    key = next((one for one in groups if alike(one, key)), key)
                groups.setdefault(key, []).append((file, header))
        except Exception as e:  # pydicom raises many kinds
            passed_over.append((file, f"it cannot be read as DICOM ({e})"))
    alone = Path(folder) if len(groups) == 1 else None
    found = [(sort_key(members[0][1]), as_series(key, members, alone)) for key, members in groups.items()]
    return [series for _, series in sorted(found, key=lambda pair: (pair[0], pair[1].files[0]))], passed_over


def no_image(header: Dataset) -> str:
    """Why a DICOM file is no image, or nothing where it is one."""
    modality = str(header.get("Modality") or "without a modality")[:20]
    if "Rows" not in header or modality in NO_IMAGES:
        return f"it is a DICOM object of another kind than an image ({modality})"
    place, directions = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if not place:
        return ""
    if not directions or len(directions) != 6 or len(place) != 3:
        return "it has a position and no valid ImageOrientationPatient, so how it lies is not known; export it again"
    return "" if np.isfinite([*map(float, place), *map(float, directions)]).all() else "its position is no number"


def series_of(path: str | Path) -> Series:
    """The image that a folder holds, or the one that a file belongs to. A folder with several is refused, and they are
    named."""
    path = Path(path)
    series, passed_over = sort_folder(path if path.is_dir() else path.parent)
    if path.is_dir():
        if len(series) == 1:
            return series[0]
        listed = "".join(f"\n  {one.files[0]}: {one.description}, {counted(len(one.files), 'file')}" for one in series)
        raise InputError(
            f"{path}: holds {len(series)} DICOM images; give the path of a file of the one you mean:{listed}"
            if series
            else "\n  ".join([f"{path}: holds no DICOM image", *(f"{file}: {why}" for file, why in passed_over[:5])])
        )
    for one in series:
        if path in one.files:
            return one
    reason = dict(passed_over).get(path, "it is no DICOM file")
    raise InputError(f"{path}: is no DICOM image that can be read: {reason}")


def read_header(file: Path) -> Dataset:
    """What tells of a file which image it is of; not to be changed, as a folder's are asked for many times."""
    status = file.stat()
    return _header(file, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=2**14)
def _header(file: Path, size: int, changed: int) -> Dataset:
    from pydicom import dcmread

    return dcmread(file, stop_before_pixels=True, specific_tags=list(HEADER))


def group_of(file: Path, header: Dataset) -> tuple:
    if not header.get("ImagePositionPatient") or int(header.get("NumberOfFrames") or 1) > 1:
        return (file,)
    orientation = tuple(round(float(x), 3) for x in header.ImageOrientationPatient)
    number = None if header.get("SeriesInstanceUID") else str(header.get("SeriesNumber", ""))
    return (header.get("SeriesInstanceUID") or "", number, orientation, header.Rows, header.Columns)


def alike(one: tuple, other: tuple) -> bool:
    """Whether two keys of :func:`group_of` are of one series, whose directions may be rounded apart."""
    same = len(one) == len(other) and one[:2] == other[:2] and one[3:] == other[3:]
    return same and all(abs(a - b) < 1.5e-3 for a, b in zip(one[2], other[2], strict=True))


def sort_key(header: Dataset) -> tuple[str, str]:
    number = header["SeriesNumber"].value if "SeriesNumber" in header else ""
    return str(number or "").zfill(12), str(header.get("SeriesInstanceUID") or "")


def as_series(key: tuple, members: list[tuple[Path, Dataset]], folder: Path | None) -> Series:
    _, first = members[0]
    if len(members) > 1:
        across = normal(first)
        members = sorted(members, key=lambda member: float(across @ position(member[1])))
    description = str(first.get("SeriesDescription") or first.get("Modality") or "no description")
    files = tuple(file for file, _ in members)
    alone = len(key) == 1
    places = frozenset() if alone else frozenset(tuple(np.round(position(header), 2)) for _, header in members)
    return Series(files, description, folder or files[0], () if alone else key, places)


def lacking(headers: Sequence[Dataset]) -> str:
    """What tells that an image may lack slices at its ends, where no gap between positions can; nothing where all seem
    to be there."""
    stated = max(max(whole_number(h, "NumberOfSlices"), whole_number(h, "ImagesInAcquisition")) for h in headers)
    if stated > len(headers) and "NumberOfFrames" not in headers[0]:
        return f"its header tells of {stated} images, and {len(headers)} are here"
    parts = max(whole_number(h, "InConcatenationTotalNumber") for h in headers)
    if parts > len(headers):
        return f"it is a concatenation of {parts} files, and {len(headers)} of them are here"
    numbers = sorted(whole_number(h, "InstanceNumber", -1) for h in headers)
    steps = np.diff(numbers)
    if numbers[0] < 0 or len(numbers) < 2 or steps.min() < 1:  # not numbered, or not one by one
        return ""
    usual = int(np.median(steps))
    if numbers[0] > usual:
        return f"its images are numbered from {numbers[0]} to {numbers[-1]}"
    i = int(steps.argmax())
    return f"its images' numbers jump from {numbers[i]} to {numbers[i + 1]}" if steps[i] > usual else ""


def alternating(headers: Sequence[Dataset]) -> str:
    """The numbers of acquisitions that take turns along the stack, as two images between each other do; nothing where
    each is a block of slices, as of a table that moves on."""
    numbers = [whole_number(header, "AcquisitionNumber") for header in headers]
    blocks = 1 + sum(one != following for one, following in itertools.pairwise(numbers))
    return " and ".join(map(str, sorted(set(numbers))[:3])) if blocks > len(set(numbers)) else ""


def whole_number(header: Dataset, key: str, absent: int = 0) -> int:
    """An entry of a header; ``absent`` where it is none."""
    try:
        return int(header[key].value)
    except (KeyError, TypeError, ValueError):
        return absent


def normal(header: Dataset) -> np.ndarray:
    orientation = np.asarray(header.ImageOrientationPatient, float)
    return np.cross(orientation[:3], orientation[3:])


def position(header: Dataset) -> np.ndarray:
    return np.asarray(header.ImagePositionPatient, float)
