"""DICOM images as volumes whose geometry is right, or refused: series found, slices ordered by where they lie."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from ..errors import InputError
from .affines import TOLERANCE
from .dicom_numbers import check_units, full_scale, is_inverted, without_padding
from .nifti import FULL_SCALE

if TYPE_CHECKING:
    from pydicom import Dataset

MODALITY = "modality"  # in the metadata of an image
FRAME = "frame_of_reference"  # likewise, its UID, or nothing where a header does not say
NO_IMAGES = ("SEG", "RTDOSE")  # have rows and columns all the same
SUFFIXES = (".dcm", ".dicom", ".ima")
HEADER = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "NumberOfFrames", "FrameOfReferenceUID", "StudyInstanceUID", "SharedFunctionalGroupsSequence",
    "SpecificCharacterSet",
)  # fmt: skip
logger = logging.getLogger(__name__)
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes point to the patient's left and back, MONAI's to the right, front


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
                groups.setdefault(group_of(file, header), []).append((file, header))
        except Exception as e:  # pydicom raises many kinds
            passed_over.append((file, f"it cannot be read as DICOM ({e})"))
    alone = Path(folder) if len(groups) == 1 else None
    found = [(sort_key(members[0][1]), as_series(key, members, alone)) for key, members in groups.items()]
    return [series for _, series in sorted(found, key=lambda pair: (pair[0], pair[1].files[0]))], passed_over


def no_image(header: Dataset) -> str:
    """Why a DICOM file is no image, or nothing where it is one."""
    modality = header.get("Modality") or "without a modality"
    if "Rows" not in header or modality in NO_IMAGES:
        return f"it is a DICOM object of another kind than an image ({modality})"
    place, directions = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if not place:
        return ""
    if not directions or len(directions) != 6 or len(place) != 3:
        return "it has a position and no valid ImageOrientationPatient, so how it lies is not known; export it again"
    return "" if np.isfinite([*map(float, place), *map(float, directions)]).all() else "its position is no number"


def series_of(path: str | Path) -> Series:
    """The image that a folder holds, or the one that a file belongs to.

    Raises:
        InputError: a folder without a DICOM image or with several, which are named; a file that is no image.
    """
    path = Path(path)
    series, passed_over = sort_folder(path if path.is_dir() else path.parent)
    if path.is_dir():
        if len(series) == 1:
            return series[0]
        listed = "".join(f"\n  {one.files[0]}: {one.description}, {len(one.files)} file(s)" for one in series)
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
    from pydicom import dcmread

    return dcmread(file, stop_before_pixels=True, specific_tags=list(HEADER))


def group_of(file: Path, header: Dataset) -> tuple:
    if not header.get("ImagePositionPatient") or int(header.get("NumberOfFrames") or 1) > 1:
        return (file,)
    orientation = tuple(round(float(x), 3) for x in header.ImageOrientationPatient)
    number = None if header.get("SeriesInstanceUID") else str(header.get("SeriesNumber", ""))
    return (header.get("SeriesInstanceUID") or "", number, orientation, header.Rows, header.Columns)


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


def normal(header: Dataset) -> np.ndarray:
    orientation = np.asarray(header.ImageOrientationPatient, float)
    return np.cross(orientation[:3], orientation[3:])


def position(header: Dataset) -> np.ndarray:
    return np.asarray(header.ImagePositionPatient, float)


def check_geometry(series: Series, headers: Sequence[Dataset]) -> float:
    """Spacing of the slices in millimetres. A slice may lie a tenth of a voxel from where an even stack has it.

    Raises:
        InputError: slices at the same place, missing or uneven ones, a tilted gantry, different pixel spacings.
    """
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
                    f"{where}: {missing} slice(s) missing between {file.name} and {following.name}; "
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


def read_volume(series: Series) -> tuple[Any, dict[str, Any]]:
    """The image as a highdicom ``Volume`` (slices, rows, columns[, channels]) in the patient's coordinates, in
    Hounsfield units or whatever else the rescale makes of stored values; or as a NumPy array (rows, columns[,
    channels]) where it has no place in the patient. Grey values are larger where they are shown brighter. And its
    metadata: the modality, the frame of reference, and the value of white where the format has one.

    Raises:
        InputError: geometry as in :func:`check_geometry`, pixels that cannot be decoded, a CT without Hounsfield units.
    """
    import highdicom as hd
    from pydicom import dcmread

    datasets = [dcmread(file) for file in series.files]
    frames = {str(dataset.get("FrameOfReferenceUID") or "") for dataset in datasets}
    if len(frames) > 1:
        raise InputError(
            f"{series.path} ({series.description}): its slices lie in {len(frames)} frames of reference, so not beside "
            "each other; export the series again"
        )
    datasets = [with_class(dataset) for dataset in datasets]
    # What is shown inverted is turned as a whole below: slice by slice it would lose what slices have in common.
    options: dict[str, Any] = {
        "dtype": np.float32, "apply_real_world_transform": False, "apply_presentation_lut": False,
    }  # fmt: skip
    check_units(f"{series.path} ({series.description})", series.files, datasets)
    spacing = check_geometry(series, datasets) if len(datasets) > 1 else 0.0
    try:
        if len(datasets) > 1:
            even = {"atol": 2 * TOLERANCE * spacing, "orientation_tol": 1e-3, "perpendicular_tol": 1e-3}
            volume = hd.get_volume_from_series(datasets, **even, **options)
        elif has_place(datasets[0]):
            volume = hd.Image.from_dataset(datasets[0], copy=False).get_volume(atol=0.02, **options)
            thickness = datasets[0].get("SpacingBetweenSlices") or datasets[0].get("SliceThickness")
            volume = as_thick(volume, float(thickness)) if volume.shape[0] == 1 and thickness else volume
        else:
            volume = read_picture(series, datasets[0])
    except InputError:
        raise
    except Exception as e:
        cause = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise InputError(f"{series.files[0]}: cannot be read as DICOM ({cause}); export it again or remove it") from e
    pixels = volume if isinstance(volume, np.ndarray) else volume.array
    without_padding(pixels, datasets)
    white = full_scale(datasets[0])
    if is_inverted(datasets[0]):
        np.subtract(white or pixels.min() + pixels.max(), pixels, out=pixels)
    known = {MODALITY: str(datasets[0].get("Modality") or ""), FRAME: frames.pop()}
    return volume, known if white is None else {**known, FULL_SCALE: white}


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
    import highdicom as hd

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
    import highdicom as hd

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
