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

if TYPE_CHECKING:
    from pydicom import Dataset

TOLERANCE = 0.02  # of the slice spacing: how far a slice may lie from where equal spacing has it, or be tilted
HEADER = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "NumberOfFrames", "FrameOfReferenceUID", "StudyInstanceUID", "SharedFunctionalGroupsSequence",
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
        series = list_series(path)
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
    groups: dict[tuple, list[tuple[Path, Dataset]]] = {}
    for file in sorted(Path(folder).iterdir()):
        if file.is_file() and is_dicom(file):
            try:
                header = read_header(file)
                if "Rows" in header and header.get("Modality") not in ("SEG", "RTDOSE"):  # nor a report
                    groups.setdefault(group_of(file, header), []).append((file, header))
            except Exception as e:  # pydicom raises many kinds
                logger.warning("%s: passed over, it cannot be read as DICOM (%s)", file, e)
    alone = Path(folder) if len(groups) == 1 else None
    found = [(sort_key(members[0][1]), as_series(members, alone)) for members in groups.values()]
    return [series for _, series in sorted(found, key=lambda pair: (pair[0], pair[1].files[0]))]


def series_of(path: str | Path) -> Series:
    """The image that a folder holds, or the one that a file belongs to.

    Raises:
        InputError: a folder without a DICOM image or with several, which are named; a file that is no image.
    """
    path = Path(path)
    series = list_series(path if path.is_dir() else path.parent)
    if path.is_dir():
        if len(series) == 1:
            return series[0]
        listed = "".join(f"\n  {one.files[0]}: {one.description}, {len(one.files)} file(s)" for one in series)
        raise InputError(
            f"{path}: holds {len(series)} DICOM images; give the path of a file of the one you mean:{listed}"
            if series
            else f"{path}: holds no DICOM image"
        )
    for one in series:
        if path in one.files:
            return one
    raise InputError(f"{path}: is no DICOM image that can be read (a report, a structure set, a damaged file?)")


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


def as_series(members: list[tuple[Path, Dataset]], folder: Path | None) -> Series:
    _, first = members[0]
    if len(members) > 1:
        across = normal(first)
        members = sorted(members, key=lambda member: float(across @ position(member[1])))
    description = str(first.get("SeriesDescription") or first.get("Modality") or "no description")
    files = tuple(file for file, _ in members)
    return Series(files, description, folder or files[0])


def normal(header: Dataset) -> np.ndarray:
    orientation = np.asarray(header.ImageOrientationPatient, float)
    return np.cross(orientation[:3], orientation[3:])


def position(header: Dataset) -> np.ndarray:
    return np.asarray(header.ImagePositionPatient, float)


def check_geometry(series: Series, headers: Sequence[Dataset]) -> float:
    """Spacing of the slices in millimetres.

    Raises:
        InputError: slices at the same place, missing or uneven ones, a tilted gantry, different pixel spacings.
    """
    where = f"{series.path} ({series.description})"
    if len({tuple(float(x) for x in header.get("PixelSpacing") or ()) for header in headers}) > 1:
        raise InputError(f"{where}: its slices have different pixel spacings; export the series again")
    across = normal(headers[0])
    positions = np.stack([position(header) for header in headers])
    along = positions @ across
    gaps = np.diff(along)
    spacing = float(np.median(gaps))
    tolerance = TOLERANCE * spacing
    for gap, file, following in zip(gaps, series.files, series.files[1:], strict=False):
        if gap < 1e-3:
            raise InputError(
                f"{where}: {file.name} and {following.name} lie at the same place (several times or echoes in one "
                "series, or a file twice?); keep one image of each place in the folder"
            )
    drift = np.linalg.norm((positions - positions[0]) - np.outer(along - along[0], across), axis=1)
    if drift.max() > tolerance + 0.01 * len(headers):  # positions and directions are rounded
        angle = np.degrees(np.arctan2(drift[-1], along[-1] - along[0]))
        raise InputError(
            f"{where}: its slices are not stacked at right angles, but by {angle:.1f} degrees off (gantry tilt); "
            "straighten it first, as dcm2niix does"
        )
    for gap, file, following in zip(gaps, series.files, series.files[1:], strict=False):
        if abs(gap - spacing) > tolerance + 0.01:  # positions are often rounded
            steps = gap / spacing
            missing = round(steps) - 1
            if missing > 0 and abs(steps - round(steps)) < 0.1:
                raise InputError(
                    f"{where}: {missing} slice(s) missing between {file.name} and {following.name}; "
                    "export the series again"
                )
            raise InputError(
                f"{where}: uneven slice spacing, {gap:.3g} mm between {file.name} and {following.name} where "
                f"{spacing:.3g} mm is usual; resample it to an even spacing first"
            )
    off = np.abs(along - np.linspace(along[0], along[-1], len(along)))
    if off.max() > 0.1 * spacing:
        raise InputError(
            f"{where}: uneven slice spacing, {series.files[int(off.argmax())].name} lies {off.max():.2g} mm from where "
            "an even spacing has it; resample it first"
        )
    return float(along[-1] - along[0]) / (len(headers) - 1)


def read_volume(series: Series) -> Any:
    """The image as a highdicom ``Volume`` (slices, rows, columns[, channels]) in the patient's coordinates, in
    Hounsfield units or whatever else the rescale makes of stored values; or as a NumPy array (rows, columns[,
    channels]) where it has no place in the patient.

    Raises:
        InputError: geometry as in :func:`check_geometry`, or pixels that cannot be decoded.
    """
    import highdicom as hd
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, pixel_array

    datasets = [with_class(dcmread(file)) for file in series.files]
    options: dict[str, Any] = {"dtype": np.float32, "apply_real_world_transform": False}
    several = len(datasets) > 1
    spacing = check_geometry(series, datasets) if several else 0.0
    try:
        if several:
            return hd.get_volume_from_series(datasets, atol=0.05 * spacing + 0.01, orientation_tol=1e-3, **options)
        if has_place(datasets[0]):
            volume = hd.Image.from_dataset(datasets[0], copy=False).get_volume(atol=0.02, **options)
            thickness = datasets[0].get("SpacingBetweenSlices") or datasets[0].get("SliceThickness")
            return as_thick(volume, float(thickness)) if volume.shape[0] == 1 and thickness else volume
        pixels = np.asarray(apply_modality_lut(pixel_array(datasets[0]), datasets[0]), np.float32)
    except Exception as e:
        cause = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise InputError(f"{series.files[0]}: cannot be read as DICOM ({cause}); export it again or remove it") from e
    if int(datasets[0].get("NumberOfFrames") or 1) > 1:
        raise InputError(f"{series.files[0]}: has {len(pixels)} frames without a place in the patient; export one")
    return pixels.max() - pixels if datasets[0].PhotometricInterpretation == "MONOCHROME1" else pixels


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
        if isinstance(img, np.ndarray):
            array, affine, axes = img, np.eye(4), 2
        else:
            (array, affine), axes = to_monai(img), 3
        meta = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape[:axes]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if array.ndim == axes else -1,
        }
        return np.ascontiguousarray(array), meta
