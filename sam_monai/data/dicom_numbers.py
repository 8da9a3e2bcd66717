"""What the stored numbers of DICOM images mean: units, what is shown bright, the value of white, padding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

QUANTITIES = ("CT", "PT")  # of which numbers mean something, however they are shown


def check_units(where: str, files: Sequence[Path], datasets: Sequence[Dataset]) -> None:
    """Refuse a series whose headers do not say what its numbers are.

    Args:
        where: the series, for messages.
        files: of the series.
        datasets: of the files.

    Raises:
        InputError: slices of several photometric interpretations; a CT that is not in Hounsfield units.
    """
    shown = {str(dataset.get("PhotometricInterpretation")) for dataset in datasets}
    if len(shown) > 1:
        raise InputError(f"{where}: its slices are {' and '.join(sorted(shown))}; export the series again")
    for file, dataset in zip(files, datasets, strict=True):
        if dataset.get("Modality") != "CT" or "SharedFunctionalGroupsSequence" in dataset:
            continue
        if str(dataset.get("RescaleType") or "HU") not in ("HU", "US"):
            raise InputError(f"{where}: is in units of {dataset.RescaleType} and not in Hounsfield units; give the CT")
        if not ({"RescaleSlope", "ModalityLUTSequence"} & set(dir(dataset)) or dataset.get("PixelRepresentation")):
            raise InputError(f"{file}: has no RescaleSlope, so its Hounsfield units are not known; export it again")


def is_inverted(dataset: Dataset) -> bool:
    """Whether small numbers are shown bright. What has units means the same however it is shown."""
    shown = "MONOCHROME1" if dataset.get("PresentationLUTShape") == "INVERSE" else dataset.PhotometricInterpretation
    return shown == "MONOCHROME1" and dataset.get("Modality") not in QUANTITIES


def full_scale(dataset: Dataset) -> float | None:
    """The value of white, where that is part of the format: in colours and in pixels of 8 bits at most."""
    bits = int(dataset.get("BitsStored") or 16)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        return 2.0 ** (16 if dataset.RedPaletteColorLookupTableDescriptor[2] > 8 else 8) - 1
    rescaled = (dataset.get("RescaleSlope") or 1, dataset.get("RescaleIntercept") or 0) != (1, 0)
    grey = int(dataset.get("SamplesPerPixel") or 1) == 1
    return None if grey and (bits > 8 or rescaled or dataset.get("PixelRepresentation")) else 2.0**bits - 1


def without_padding(pixels: np.ndarray, datasets: Sequence[Dataset]) -> None:
    """Give pixels that a header declares to be no part of the image the darkest value of those that are."""
    found = set()
    for dataset in datasets:
        if "PixelPaddingValue" in dataset:
            ends = dataset.PixelPaddingValue, dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue)
            slope, shift = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
            found.add(tuple(sorted(slope * float(end) + shift for end in ends)))
    if len(found) != 1:
        return
    low, high = found.pop()
    outside = (pixels >= low - 1e-3) & (pixels <= high + 1e-3)
    if outside.any() and not outside.all():
        pixels[outside] = pixels[~outside].max() if is_inverted(datasets[0]) else pixels[~outside].min()
