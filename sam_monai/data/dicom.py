"""DICOM images as volumes whose geometry is right, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from ..errors import InputError, counted, warn_once
from .affines import TOLERANCE
from .dicom_numbers import check_units, full_scale, is_inverted, is_padded_as_stored, without_padding
from .dicom_series import Series, alternating, has_place, is_dicom, lacking, normal, position, series_of
from .nifti import FULL_SCALE

if TYPE_CHECKING:
    from pydicom import Dataset

MODALITY = "modality"  # in the metadata of an image
FRAME = "frame_of_reference"  # likewise, its UID, or nothing where a header does not say
# What the slices of an image have in common.
SHARED = {
    "PatientID": "are of several patients",
    "StudyInstanceUID": "are of several studies",
    "FrameOfReferenceUID": "lie in several frames of reference",
}
# In which the slices of one image seldom differ, and those of several that share a series do.
ALIKE = (
    "ImageType", "EchoTime", "InversionTime", "KVP", "ConvolutionKernel", "ContrastBolusAgent", "DiffusionBValue",
    "TemporalPositionIdentifier", "FlipAngle",
)  # fmt: skip
# What each frame of a file says of its place, or all of them together.
OF_FRAMES = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
}
UPRIGHT = 0.01  # of a cosine: two near slices may be a tenth of a voxel off, which check_geometry has measured
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes point to the patient's left and back, MONAI's to the right, front


def check_geometry(series: Series, headers: Sequence[Dataset]) -> float:
    """Spacing of the slices in millimetres. A slice may lie a tenth of a voxel from where an even stack has it. Refuses
    slices at the same place, missing or uneven ones, a tilted gantry and different pixel spacings."""
    where = f"{series.path} ({series.description})"
    pixels = {tuple(float(x) for x in header.get("PixelSpacing") or ()) for header in headers}
    if len(pixels) > 1 or not all(len(pair) == 2 and min(pair) > 0 for pair in pixels):
        raise InputError(f"{where}: its slices have different pixel spacings, or none; export the series again")
    across = normal(headers[0])
    positions = np.stack([position(header) for header in headers])
    along = positions @ across
    gaps = np.diff(along)
    spacing = float(np.median(gaps))
    for gap, file, following in zip(gaps, series.files, series.files[1:], strict=False):
        if gap < 1e-3:
            raise InputError(
                f"{where}: {file.name} and {following.name} lie at the same place (several times or echoes in one "
                "series, or a file twice?); keep one image of each place in the folder"
            )
    drift = np.linalg.norm((positions - positions[0]) - np.outer(along - along[0], across), axis=1)
    if drift.max() > TOLERANCE * min(*pixels.pop(), spacing):
        angle = np.degrees(np.arctan2(drift[-1], along[-1] - along[0]))
        raise InputError(
            f"{where}: its slices are not stacked at right angles, but by {angle:.1f} degrees off (gantry tilt); "
            "straighten it first, as dcm2niix does"
        )
    for gap, file, following in zip(gaps, series.files, series.files[1:], strict=False):
        if abs(gap - spacing) > 2 * TOLERANCE * spacing:  # either slice may be off
            steps = gap / spacing
            missing = round(steps) - 1
            if missing > 0 and abs(steps - round(steps)) < 2 * TOLERANCE:
                raise InputError(
                    f"{where}: {counted(missing, 'slice')} missing between {file.name} and {following.name}; "
                    "export the series again"
                )
            raise InputError(
                f"{where}: uneven slice spacing, {gap:.3g} mm between {file.name} and {following.name} where "
                f"{spacing:.3g} mm is usual; resample it to an even spacing first"
            )
    off = np.abs(along - np.linspace(along[0], along[-1], len(along)))
    if off.max() > TOLERANCE * spacing:
        raise InputError(
            f"{where}: uneven slice spacing, {series.files[int(off.argmax())].name} lies {off.max():.2g} mm from where "
            "an even spacing has it; resample it first"
        )
    return float(along[-1] - along[0]) / (len(headers) - 1)


def frame_headers(dataset: Dataset) -> list[tuple[str, Dataset]]:
    """Names of the frames of a file, in the order in which they lie, each with what it says of its place; none where
    a frame does not say where it lies."""
    from pydicom import Dataset

    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    found: list[tuple[str, Dataset]] = []
    for number, own in enumerate(dataset.get("PerFrameFunctionalGroupsSequence") or (), 1):
        header = Dataset()
        for group, names in OF_FRAMES.items():
            item = (own.get(group) or shared.get(group) or [Dataset()])[0]
            for name in names:
                if item.get(name):
                    setattr(header, name, item.get(name))
        found.append((f"frame {number}", header))
    if not found or any(OF_FRAMES[group][0] not in header for _, header in found for group in OF_FRAMES):
        return []
    across = normal(found[0][1])
    return sorted(found, key=lambda frame: float(position(frame[1]) @ across))


def highdicom() -> Any:
    """The package, which comes with an extra."""
    try:
        import highdicom
    except ImportError as error:
        raise InputError('DICOM volumes and segmentations need highdicom: pip install "sam_monai[dicom]"') from error
    return highdicom


def read_volume(series: Series) -> tuple[Any, dict[str, Any]]:
    """The image as a highdicom ``Volume`` (slices, rows, columns[, channels]) in the patient's coordinates, in
    Hounsfield units or whatever else the rescale makes of stored values; or as a NumPy array (rows, columns[,
    channels]) where it has no place in the patient. Grey values are larger where they are shown brighter. And its
    metadata: the modality, the frame of reference, and the value of white where the format has one.

    Raises:
        InputError: geometry as in :func:`check_geometry`, slices of several patients, pixels that cannot be decoded, a
            CT without Hounsfield units.
    """
    hd = highdicom()
    from pydicom import dcmread
    from pydicom.pixels import pixel_array

    datasets = [dcmread(file) for file in series.files]
    for key, said in SHARED.items():
        if len({str(dataset.get(key) or "") for dataset in datasets}) > 1:
            raise InputError(
                f"{series.path} ({series.description}): its slices {said}, so they are not one image; export the "
                "series again"
            )
    for key in ALIKE:
        if len(found := sorted({str(dataset.get(key) or "nothing") for dataset in datasets})) > 1:
            warn_once(
                f"{series.path} ({series.description}): has several {key} ({', '.join(found[:3])}), so they "
                "may be no one image, and the mask may be wrong"
            )
    if has_place(datasets[0]) and (sign := lacking(datasets)):
        warn_once(
            f"{series.path} ({series.description}): may lack slices, for {sign}: see whether all files were copied, or "
            "the mask lacks what they show"
        )
    if has_place(datasets[0]) and (acquisitions := alternating(datasets)):
        warn_once(
            f"{series.path} ({series.description}): slices of acquisitions {acquisitions} alternate: if these are "
            "several images, such as two phases, give each a folder of its own, or the mask may be wrong"
        )
    if any("MOSAIC" in (dataset.get("ImageType") or ()) for dataset in datasets):
        raise InputError(f"{series.files[0]}: holds slices as tiles of one picture (MOSAIC); convert it by dcm2niix")
    frame_of_reference = str(datasets[0].get("FrameOfReferenceUID") or "")  # before one is made up
    datasets = [with_class(dataset) for dataset in datasets]
    # What is shown inverted is turned as a whole below: slice by slice it would lose what slices have in common.
    exact = np.float64 if any(int(one.get("BitsAllocated") or 0) > 16 for one in datasets) else np.float32
    options: dict[str, Any] = {
        "dtype": exact, "apply_real_world_transform": False, "apply_presentation_lut": False,
    }  # fmt: skip
    check_units(f"{series.path} ({series.description})", series.files, datasets)
    frames = frame_headers(datasets[0]) if len(datasets) == 1 else []
    spacing = 0.1
    if len(datasets) > 1:
        spacing = check_geometry(series, datasets)
    elif len(frames) > 1:
        as_series = replace(series, path=series.files[0], files=tuple(Path(name) for name, _ in frames))
        spacing = check_geometry(as_series, [header for _, header in frames])
    even = {"atol": 2 * TOLERANCE * spacing, "perpendicular_tol": UPRIGHT}
    try:
        if len(datasets) > 1:
            volume = hd.get_volume_from_series(datasets, orientation_tol=1e-3, **even, **options)
        elif has_place(datasets[0]):
            volume = hd.Image.from_dataset(datasets[0], copy=False).get_volume(**even, **options)
            said = [datasets[0], *(header for _, header in frames[:1])]
            measures = [header.get(key) for key in ("SpacingBetweenSlices", "SliceThickness") for header in said]
            thickness = next(filter(None, measures), None)
            if volume.shape[0] == 1 and not thickness:
                warn_once(f"{series.files[0]}: does not say how thick its slice is; 1 mm is taken")
            volume = as_thick(volume, float(thickness)) if volume.shape[0] == 1 and thickness else volume
        else:
            volume = read_picture(series, datasets[0])
    except InputError:
        raise
    except Exception as e:
        cause = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise InputError(f"{series.files[0]}: cannot be read as DICOM ({cause}); export it again or remove it") from e
    pixels = volume if isinstance(volume, np.ndarray) else volume.array
    planes = [pixels] if len(datasets) == 1 else [pixels[index_of(volume, dataset)] for dataset in datasets]
    stored = None
    if len(datasets) == 1 and has_place(datasets[0]) and is_padded_as_stored(datasets[0]):
        image = hd.Image.from_dataset(datasets[0], copy=False)
        stored = [image.get_volume(**even, **options, apply_modality_transform=False).array]
    elif any(map(is_padded_as_stored, datasets)):
        numbers = [pixel_array(dataset, raw=True) for dataset in datasets]
        stored = [each.reshape(plane.shape) for each, plane in zip(numbers, planes, strict=True)]
    without_padding(planes, datasets, stored)
    white = full_scale(datasets[0])
    if is_inverted(datasets[0]):
        np.subtract(white or pixels.min() + pixels.max(), pixels, out=pixels)
    known = {MODALITY: str(datasets[0].get("Modality") or ""), FRAME: frame_of_reference}
    return volume, known if white is None else {**known, FULL_SCALE: white}


def index_of(volume: Any, dataset: Dataset) -> int:
    """Which slice of a volume a file holds."""
    return round((np.linalg.inv(volume.affine) @ [*position(dataset), 1.0])[0])


def read_picture(series: Series, dataset: Dataset) -> np.ndarray:
    """Pixels (rows, columns[, channels]) of an image without a place in the patient."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise InputError(f"{series.files[0]}: has {frames} frames without a place in the patient; export one")
    pixels, palette = pixel_array(dataset), dataset.PhotometricInterpretation == "PALETTE COLOR"
    shown = apply_color_lut(pixels, dataset) if palette else apply_modality_lut(pixels, dataset)
    return np.array(shown, np.float32)


def as_thick(volume: Any, thickness: float) -> Any:
    """A volume of one slice, which has no spacing, as thick as it was acquired, in millimetres."""
    hd = highdicom()

    affine = np.array(volume.affine)
    affine[:3, 0] *= thickness / np.linalg.norm(affine[:3, 0])
    return hd.Volume(volume.array, affine, "PATIENT", volume.frame_of_reference_uid)


def with_class(dataset: Dataset) -> Dataset:
    """Some exports leave the classes and UIDs of images empty; decoding needs the former."""
    from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid

    if not dataset.get("SOPClassUID"):
        dataset.SOPClassUID = MRImageStorage if dataset.get("Modality") == "MR" else CTImageStorage
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if not dataset.get(name):
            made = "one for all files" if name != "SOPInstanceUID" else str(dataset.get("ImagePositionPatient"))
            setattr(dataset, name, generate_uid(entropy_srcs=[name, made]))
    return dataset


def to_monai(volume: Any) -> tuple[np.ndarray, np.ndarray]:
    """A highdicom ``Volume`` as (columns, rows, slices[, channels]) and the affine of these indices, MONAI's (RAS)."""
    return volume.array.swapaxes(0, 2), FLIP @ np.asarray(volume.affine)[:, [2, 1, 0, 3]]


def to_highdicom(array: np.ndarray, affine: np.ndarray, frame_of_reference: str | None = None) -> Any:
    """The inverse of :func:`to_monai`."""
    hd = highdicom()

    return hd.Volume(
        np.ascontiguousarray(array.swapaxes(0, 2)),
        (FLIP @ affine)[:, [2, 1, 0, 3]],
        coordinate_system="PATIENT",
        frame_of_reference_uid=frame_of_reference,
    )


class DicomReader(ImageReader):
    """MONAI's reader interface to :func:`series_of` and :func:`read_volume`: a folder of one series, or a file, which
    stands for its whole series. Volumes are (columns, rows, slices), pictures (rows, columns)."""

    def verify_suffix(self, filename: Any) -> bool:
        return is_dicom(filename[0] if isinstance(filename, (tuple, list)) else filename)

    def read(self, data: Any, **kwargs: Any) -> Any:
        return read_volume(series_of(data[0] if isinstance(data, (tuple, list)) else data))

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        volume, known = img
        if isinstance(volume, np.ndarray):
            array, affine, axes = volume, np.eye(4), 2
        else:
            (array, affine), axes = to_monai(volume), 3
        meta = {
            **known,
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape[:axes]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if array.ndim == axes else -1,
        }
        return np.ascontiguousarray(array), meta
