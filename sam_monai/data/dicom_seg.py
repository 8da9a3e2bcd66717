"""DICOM SEG: label maps written for the source series that they belong to, and read as training labels."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..networks.regions import Regions
from .affines import TOLERANCE, apart
from .dicom import FLIP, highdicom, to_highdicom, to_monai
from .dicom_frames import largest_bits
from .dicom_series import is_dicom, series_of
from .sides import without_side, words_of

CARRIED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def is_segmentation(path: str | Path) -> bool:
    """Tell whether a file is a DICOM SEG that can be read."""
    if not os.path.isfile(path) or not is_dicom(path):  # also of a name that no file can have
        return False
    from pydicom import dcmread

    try:
        return dcmread(path, specific_tags=["SOPClassUID"]).get("SOPClassUID") == SEGMENTATION
    except Exception:  # pydicom raises many kinds of a damaged file, which the reader of images refuses
        return False


def check_source(source: str | Path, labels: Sequence[str], algorithm: str, regions: Regions | None = None) -> None:
    """Find out before the work whether :func:`segmentation_file` can be made for a series."""
    segmentation_file(np.ones((2, 2, 1), np.uint8), np.eye(4), source, labels, algorithm, regions)


def segmentation_file(
    mask: np.ndarray,
    affine: np.ndarray,
    source: str | Path,
    labels: Sequence[str],
    algorithm: str,
    regions: Regions | None = None,
) -> bytes:
    """The content of a DICOM SEG that references its source series and carries its patient and study.

    Args:
        mask: whole numbers (columns, rows, slices), 0 to the number of labels, on the grid of the source.
        affine: of the mask, MONAI's.
        source: folder or file of the source series, as of :func:`series_of`.
        labels: names; those known to SNOMED CT through pydicom get its code, the others that of tissue.
        algorithm: name of what made the mask.
        regions: the values of each label where they are several; its segments may then overlap.

    Raises:
        InputError: a source without the UIDs that a reference needs, or with headers that cannot be carried over.
    """
    try:
        content = BytesIO()
        made_segmentation(mask, affine, source, labels, algorithm, regions).save_as(content)
        return content.getvalue()
    except InputError:
        raise
    except Exception as e:  # whatever pydicom and highdicom make of a header
        cause = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise InputError(
            f"{source}: a DICOM SEG cannot be made for it ({cause}); write NIfTI (--mask_format nifti), or export the "
            "series again"
        ) from e


def made_segmentation(
    mask: np.ndarray,
    affine: np.ndarray,
    source: str | Path,
    labels: Sequence[str],
    algorithm: str,
    regions: Regions | None = None,
) -> Any:
    hd = highdicom()
    from pydicom import dcmread
    from pydicom.sr.codedict import codes

    from .. import __version__

    series = series_of(source)
    sources = [dcmread(file, stop_before_pixels=True) for file in series.files]
    for dataset in sources:
        dataset.decode()
        dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, which holds every name, and labels in any language
        for name in CARRIED:  # removed by some, where they leave patients out
            if name not in dataset:
                setattr(dataset, name, None)
    for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if not all(dataset.get(name) for dataset in sources):
            raise InputError(
                f"{series.path}: has no {name}, so a DICOM SEG cannot refer to it; write NIfTI (--mask_format nifti), "
                "or export the series again"
            )
    identification = hd.AlgorithmIdentificationSequence(
        name=algorithm, version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    if not sources[0].get("SliceThickness") and "SharedFunctionalGroupsSequence" not in sources[0]:
        sources[0].SliceThickness = f"{np.linalg.norm(affine[:3, 2]):.10g}"  # without one a SEG cannot be read
    segments = []
    for number, (label, name) in enumerate(zip(labels, segment_names(labels), strict=True), 1):
        category, kind, side = codes_of(label)
        segment = hd.seg.SegmentDescription(
            number, name, category, kind, hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, identification
        )
        if side is not None:
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
                hd.sr.CodedConcept.from_code(side)
            ]
        segments.append(segment)
    volume = to_highdicom(mask.astype(np.uint16), affine, sources[0].FrameOfReferenceUID)
    if regions is not None:
        masks = np.stack([np.isin(volume.array, region) for region in regions], -1).astype(np.uint8)
        segmented = {"SegmentNumber": list(range(1, len(regions) + 1))}
        volume = hd.Volume(masks, volume.affine, "PATIENT", volume.frame_of_reference_uid, segmented)
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="sam_monai",
        manufacturer_model_name=algorithm,
        software_versions=__version__,
        device_serial_number="none",
        content_label="SEGMENTATION",
        series_description=f"{algorithm} segmentation"[:64],
    )


def read_segmentation(
    path: str | Path,
    affine: np.ndarray,
    shape: Sequence[int],
    labels: Sequence[str] | None,
    frame: str = "",
    only: int | None = None,
) -> np.ndarray:
    """A DICOM SEG as a label map (columns, rows, slices) on the grid of its image.

    Args:
        path: the file.
        affine: of the image, MONAI's.
        shape: of the image.
        labels: names; segments of these names, whatever their case, get the label's number, others are background.
            Segments that are called "Segment 1" or nothing keep their own number, as all do without labels.
        frame: UID of the image's frame of reference, where that is known: positions in another one mean nothing.
        only: number of the one label whose mask, of 0 and 1, is read; others may then overlap with it.

    Raises:
        InputError: no SEG, overlapping segments, another grid or frame of reference than the image's, or none of the
            labels.
    """
    hd = highdicom()

    try:
        segmentation = hd.seg.segread(path)
        if segmentation.file_meta.TransferSyntaxUID.is_compressed and segmentation.BitsAllocated > 1:
            largest_bits(Path(path), segmentation)
        numbers = list(segmentation.segment_numbers)
        names = [segmentation.get_segment_description(n).segment_label.strip().lower() for n in numbers]
        wanted = [name.strip().lower() for name in labels or ()]
        ours = dict(zip(map(str.lower, segment_names(wanted)), range(1, len(wanted) + 1), strict=True))
        ours |= {name: number for number, name in enumerate(wanted, 1)}
        known = {n: ours[name] for n, name in zip(numbers, names, strict=True) if name in ours}
        nameless = not wanted or all(re.fullmatch(r"(segment[ _]?\d*)?", name) for name in names)
        if not known and not nameless:
            raise InputError(
                f"{path}: has the segments {', '.join(names)}, of which none is a label ({', '.join(wanted)}); "
                "name the labels in dataset.json as the segments"
            )
        if only is not None:
            known = {n: 1 for n in numbers if known.get(n, 0 if known else n) == only}
            if not known:
                return np.zeros(tuple(shape), np.uint16)
        theirs = str(segmentation.get("FrameOfReferenceUID") or "")
        if frame and theirs and theirs != frame:
            raise InputError(
                f"{path}: lies in another frame of reference (UID {theirs}) than its image ({frame}), so where it "
                "belongs is not known; give the DICOM SEG of this image"
            )
        volume = segmentation.get_volume(
            segment_numbers=list(known) or numbers, combine_segments=True, allow_missing_positions=True
        )
        place = (FLIP @ affine)[:, [2, 1, 0, 3]]
        grid = hd.VolumeGeometry(
            place,
            tuple(int(n) for n in reversed(shape)),
            coordinate_system="PATIENT",
            frame_of_reference_uid=volume.frame_of_reference_uid,
        )
        if volume.spatial_shape[0] == 1:  # of one slice nothing says how far the next one is
            affine = np.column_stack([place[:, 0], volume.affine[:, 1:]])
            volume = hd.Volume(volume.array, affine, "PATIENT", volume.frame_of_reference_uid)
        exact = place @ np.rint(np.linalg.solve(place, volume.affine))  # headers are rounded
        if apart(exact, volume.affine, volume.spatial_shape) <= TOLERANCE:
            volume = hd.Volume(volume.array, exact, "PATIENT", volume.frame_of_reference_uid)
        found, _ = to_monai(volume.match_geometry(grid, tol=1e-3))
    except InputError:
        raise
    except Exception as e:
        cause = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as DICOM SEG on its image's grid ({cause}); check that it belongs to the image"
        ) from e
    if not known:
        return np.ascontiguousarray(found)
    lookup = np.zeros(max(numbers) + 1, np.uint16)
    for number, value in known.items():
        lookup[number] = value
    return np.ascontiguousarray(lookup[found])


def segment_names(labels: Sequence[str]) -> list[str]:
    """Labels as names of segments: of 64 characters at most, different ones, and without the backslash, at which DICOM
    parts a text in two."""
    names: list[str] = []
    for label in labels:
        name = cut = label.replace("\\", "/").strip()[:64]
        while name.lower() in map(str.lower, names):
            name = f"{cut[:58]} ({len(names) + 1})"
        names.append(name)
    return names


def codes_of(label: str) -> tuple[Any, Any, Any]:
    """SNOMED CT's codes for a label's name: category, type and, if the name says one, side.

    Names are those of DICOM's own lists of segments (CID 7191 to 7194). "kidney right", "Right Kidney" and "kidney_R"
    are a kidney and right, a "liver tumor" is a neoplasm. A name that is not listed is tissue.
    """
    from pydicom.sr.codedict import codes

    rest, word = without_side(words_of(label))
    words, whole = singular(rest), singular(words_of(label))
    side = {"left": codes.SCT.Left, "right": codes.SCT.Right}.get(word)
    anatomy, abnormal = codes.SCT.AnatomicalStructure, codes.SCT.MorphologicallyAbnormalStructure
    lists = ((anatomy, codes.CID7192), (codes.SCT.Tissue, codes.CID7191), (abnormal, codes.CID7194))
    for some, its_side in ((words, side), (whole, None)):  # some listed names have a side: apex of left ventricle
        for category, known in lists:
            for name in known.dir():
                if sorted(listed_words(name)) == sorted(some):
                    return category, getattr(known, name), its_side
    for name in codes.CID7194.dir():
        if words[-1:] == list(listed_words(name)):
            return abnormal, getattr(codes.CID7194, name), side
    return codes.SCT.Tissue, codes.SCT.Tissue, side


@functools.cache  # the lists are long, and are searched for every label
def listed_words(name: str) -> tuple[str, ...]:
    return tuple(singular(words_of(name)))


def singular(words: Sequence[str]) -> list[str]:
    """Words in the singular and in American spelling."""
    words = [re.sub(r"(?<=[a-z]{3}[^s])s$|(?<=vertebra)e$", "", word) for word in words]
    american = {"grey": "gray", "oesophagus": "esophagus", "tumour": "neoplasm", "tumor": "neoplasm"}
    return [american.get(word, word) for word in words]
