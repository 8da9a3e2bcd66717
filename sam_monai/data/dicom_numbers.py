"""What the stored numbers of DICOM images mean: units, what is shown bright, the value of white, padding."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .dicom_frames import RLE, largest_bits

if TYPE_CHECKING:
    from pydicom import Dataset

VALUES, REAL_WORLD = "PixelValueTransformationSequence", "RealWorldValueMappingSequence"
HOUNSFIELD = "[hnsf'U]"  # in UCUM
GROUPS = (VALUES, "PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence")
QUANTITIES = ("CT", "PT")  # of which numbers mean something, however they are shown


def check_units(where: str, files: Sequence[Path], datasets: Sequence[Dataset]) -> None:
    """Refuse a series whose headers do not say what its numbers are.

    Raises:
        InputError: slices of several photometric interpretations or units; a CT in colours or not in Hounsfield
            units; numbers of more bits than the header says; real-world values that are others than the rescaled ones.
    """
    for key in ("PhotometricInterpretation", "Modality", "Units"):
        shown = {str(dataset.get(key)) for dataset in datasets}
        if len(shown) > 1:
            raise InputError(f"{where}: its slices are {' and '.join(sorted(shown))}; export the series again")
    check_real_world(where, datasets)
    known = [rescales(dataset) for dataset in datasets]
    for file, dataset, found in zip(files, datasets, known, strict=True):
        check_bits(file, dataset)
        if bool(found) != bool(known[0]):
            raise InputError(f"{where}: some slices have a RescaleSlope and {file.name} differs; export it again")
        for slope, intercept, units in found:
            if not (np.isfinite([slope, intercept]).all() and slope):
                raise InputError(
                    f"{file}: has a RescaleSlope and RescaleIntercept that cannot be right ({slope} and {intercept}), "
                    "so its values are not known; export it again"
                )
            if dataset.get("Modality") == "CT" and units not in ("HU", "US"):
                raise InputError(f"{file}: is in units of {units} and not in Hounsfield units; give the CT")
        check_groups(file, dataset)
        frames = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
        if frames and frames != number(dataset.get("NumberOfFrames")):
            said = dataset.get("NumberOfFrames")
            raise InputError(f"{file}: describes {frames} frames and says that it has {said}; export it again")
        signed = dataset.get("PixelRepresentation") and "SharedFunctionalGroupsSequence" not in dataset
        if dataset.get("Modality") == "CT" and int(dataset.get("SamplesPerPixel") or 1) > 1:
            raise InputError(f"{file}: is a CT in colours, which are no Hounsfield units; give the grey images")
        if dataset.get("Modality") == "CT" and not (found or "ModalityLUTSequence" in dataset or signed):
            raise InputError(f"{file}: has no RescaleSlope, so its Hounsfield units are not known; export it again")


def rescales(dataset: Dataset) -> list[tuple[float, float, str]]:
    """Slopes, intercepts and units of a file, of which one with several frames may have a set for each. An empty value
    is NaN."""
    groups = [*dataset.get("SharedFunctionalGroupsSequence", ()), *dataset.get("PerFrameFunctionalGroupsSequence", ())]
    found = [one for group in groups for one in group.get(VALUES, ())]
    return [
        (number(one.get("RescaleSlope")), number(one.get("RescaleIntercept")), str(one.get("RescaleType") or "HU"))
        for one in [dataset, *found]
        if "RescaleSlope" in one or "RescaleIntercept" in one
    ]


def check_groups(file: Path, dataset: Dataset) -> None:
    """Refuse frames with a place, a size or a scale of their own where the file has another for all of them: one would
    be read and the other not. A scale at the top of the file counts too."""
    top, *of_frames = [one[:2] for one in rescales(dataset)] or [None]
    if "RescaleSlope" in dataset and any(found != top for found in of_frames):
        both = "one RescaleSlope and RescaleIntercept at its top and others for frames"
        raise InputError(f"{file}: has {both}; export it again")
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), {})
    for number, frame in enumerate(dataset.get("PerFrameFunctionalGroupsSequence") or (), 1):
        both = [key for key in GROUPS if key in frame and key in shared and frame[key].value != shared[key].value]
        if both:
            raise InputError(
                f"{file}: has one {both[0]} for all frames and another for frame {number}; export it again"
            )


def check_real_world(where: str, datasets: Sequence[Dataset]) -> None:
    """Refuse a series whose real-world values are not, up to one scale for all slices, those that its rescale gives."""
    scales: dict[str, list[tuple[float, float]]] = {}
    for dataset in datasets:
        shared = list(dataset.get("SharedFunctionalGroupsSequence", ()))
        for frame in dataset.get("PerFrameFunctionalGroupsSequence") or [dataset]:
            places = [frame, *shared, dataset]
            rescale = next((x.get(VALUES)[0] for x in places if x.get(VALUES)), dataset)
            slope, shift = number(rescale.get("RescaleSlope", 1)), number(rescale.get("RescaleIntercept", 0))
            for one in next((x.get(REAL_WORLD) for x in places if x.get(REAL_WORLD)), ()):
                if "RealWorldValueSlope" not in one:
                    raise InputError(f"{where}: maps its values by a table (RealWorldValueLUTData); export them mapped")
                codes = one.get("MeasurementUnitsCodeSequence")
                scale = number(one.RealWorldValueSlope) / (slope or math.nan)
                of_unit = scales.setdefault(str(codes[0].get("CodeValue")) if codes else "", [])
                of_unit.append((scale, number(one.get("RealWorldValueIntercept", 0)) - scale * shift))
    for unit, found in scales.items():
        if unit == HOUNSFIELD and datasets[0].get("Modality") == "CT":
            found = [(1.0, 0.0), *found]
        largest = np.abs(found).max(0)
        if not (np.abs(np.subtract(found, found[0])) <= 1e-3 * np.maximum(largest, (1e-9, 1))).all():
            raise InputError(
                f"{where}: its real-world values (RealWorldValueMappingSequence) are not those of its RescaleSlope, or "
                "each slice has a scale of its own; export it with rescaled values"
            )


def number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:  # nothing, or no number
        return math.nan


def check_bits(file: Path, dataset: Dataset) -> None:
    """Refuse numbers that reach beyond the bits that the header gives them: decoders cut those off, and a bright pixel
    becomes a dark one. The sign of a negative number may go on there, and an overlay may lie there if it is declared.
    """
    allocated, stored = int(dataset.get("BitsAllocated") or 0), int(dataset.get("BitsStored") or 0)
    if stored and int(dataset.get("HighBit", stored - 1)) != stored - 1:
        raise InputError(
            f"{file}: its HighBit is {dataset.HighBit} and its BitsStored {stored}, so where its numbers lie is not "
            "known; export it again"
        )
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    compressed = syntax is not None and syntax.is_compressed
    bits = largest_bits(file, dataset) if compressed and "PixelData" in dataset else 0
    overlay = any(tag.group & 0xFF00 == 0x6000 and tag.element == 0x0102 for tag in dataset.keys())
    if allocated not in (8, 16, 32) or not 0 < stored < allocated or syntax is None or overlay:
        return
    size = allocated // 8
    kind, data = f"{'<' if syntax.is_little_endian else '>'}u{size}", dataset.get("PixelData") or b""
    deeper = bits > stored and not dataset.get("PixelRepresentation")  # what a signed one may be, decoders know
    if deeper or syntax == RLE:  # which keeps all bits and does not say how many count
        from pydicom.pixels import pixel_array

        whole = copy.deepcopy(dataset)  # a copy shares its elements
        whole.BitsStored, whole.HighBit, whole.PixelRepresentation = allocated, allocated - 1, 0
        try:
            data = pixel_array(whole, raw=True).astype(kind).tobytes()
        except Exception:  # which the reader says
            return
    elif compressed:
        return
    numbers = np.frombuffer(data[: len(data) // size * size], kind)
    beyond = numbers >> stored
    wrong = beyond != 0
    if dataset.get("PixelRepresentation"):
        wrong &= (beyond != 2 ** (allocated - stored) - 1) | (numbers >> (stored - 1) & 1 == 0)
    if wrong.any():
        raise InputError(
            f"{file}: holds numbers beyond the {stored} bits that its header gives them (BitsStored), so its values "
            "are not known; export it again"
        )


def is_inverted(dataset: Dataset) -> bool:
    """Whether small numbers are shown bright. What has units means the same however it is shown."""
    shown = "MONOCHROME1" if dataset.get("PresentationLUTShape") == "INVERSE" else dataset.PhotometricInterpretation
    return shown == "MONOCHROME1" and dataset.get("Modality") not in QUANTITIES


def full_scale(dataset: Dataset) -> float | None:
    """The value of white, where that is part of the format: in colours and in pixels of 8 bits at most."""
    bits = int(dataset.get("BitsStored") or 16)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        deep = dataset.RedPaletteColorLookupTableDescriptor[2] > 8
        tables = [bytes(dataset.get(f"{name}PaletteColorLookupTableData") or b"") for name in ("Red", "Green", "Blue")]
        # Some say that entries have 16 bits and fill 8 of them.
        largest = max((int(np.frombuffer(table, "<u2").max()) for table in tables if deep and table), default=2**16)
        return 2.0 ** (16 if deep and largest > 255 else 8) - 1
    if "ModalityLUTSequence" in dataset:
        return None
    rescaled = (dataset.get("RescaleSlope") or 1, dataset.get("RescaleIntercept") or 0) != (1, 0)
    grey = int(dataset.get("SamplesPerPixel") or 1) == 1
    return None if grey and (bits > 8 or rescaled or dataset.get("PixelRepresentation")) else 2.0**bits - 1


def is_padded_as_stored(dataset: Dataset) -> bool:
    """Whether padding is told by stored numbers alone, for each frame has a scale of its own, or a table maps them."""
    several = len({one[:2] for one in rescales(dataset)}) > 1
    return dataset.get("PixelPaddingValue") is not None and (several or "ModalityLUTSequence" in dataset)


def without_padding(
    planes: Sequence[np.ndarray], datasets: Sequence[Dataset], stored: Sequence[np.ndarray] | None = None
) -> None:
    """Give pixels that a header declares to be no part of the image the darkest value of those that are. The planes,
    one a file, are in the units of :func:`rescales` and changed in place. ``stored`` are their numbers in the files,
    where padding is told by them."""
    if stored is not None:
        masks = [outside(plane, dataset, (1.0, 0.0)) for plane, dataset in zip(stored, datasets, strict=True)]
    else:
        masks = [outside(plane, dataset) for plane, dataset in zip(planes, datasets, strict=True)]
    inside = [plane[~mask] for plane, mask in zip(planes, masks, strict=True) if not mask.all()]
    if inside and any(mask.any() for mask in masks):
        dark = max(map(np.max, inside)) if is_inverted(datasets[0]) else min(map(np.min, inside))
        for plane, mask in zip(planes, masks, strict=True):
            plane[mask] = dark


def outside(pixels: np.ndarray, dataset: Dataset, scale: tuple[float, float] | None = None) -> np.ndarray:
    """Which pixels a header declares to be no part of the image. ``scale`` is their slope and intercept; ``None``: that
    of the header."""
    if dataset.get("PixelPaddingValue") is None:
        return np.zeros(pixels.shape, bool)
    slope, shift = scale or next((one[:2] for one in rescales(dataset)), (1.0, 0.0))
    ends = dataset.PixelPaddingValue, dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue)
    bits, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or dataset.BitsAllocated)
    if dataset.get("PixelRepresentation"):  # some write a negative one without its sign, in all bits or the stored ones
        ends = [int(end) - 2**bits if int(end) >= 2 ** (bits - 1) else int(end) for end in ends]
        ends = [end - 2**stored if end >= 2 ** (stored - 1) else end for end in ends]
    else:  # and some one without a sign as a negative number
        ends = [int(end) % 2**bits for end in ends]
    low, high = sorted(slope * float(end) + shift for end in ends)
    near = abs(slope) / 2  # the next number that may be stored is a slope away
    return (pixels >= low - near) & (pixels <= high + near)
