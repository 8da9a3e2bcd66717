"""NIfTI files, read as their headers say: units, colours, time, and both places where they name two."""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import NibabelReader
from monai.utils import MetaKeys
from nibabel.openers import Opener

from ..errors import InputError, warn_once
from .affines import TOLERANCE, apart, warn_of_unknown_sides

TIME_POINTS = "time_points"
OTHER_AFFINE = "qform_affine"
FULL_SCALE = "full_scale"
MILLIMETRES = {1: 1000.0, 3: 1e-3}  # of a metre and a micron, by NIfTI's code
DISPLACEMENTS = 1006
MOST_CODE = 5  # of what a place means; nibabel takes others for 0, and ITK does not
PLACE = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "toffset",
)  # fmt: skip


class NiftiReader(NibabelReader):
    """MONAI's reader, which also obeys or refuses what it does not look at.

    Lengths become millimetres. RGB data types and the fifth dimension are channels; the fourth is time, and the
    metadata say how many points it has. Where the sform and the qform differ, the metadata hold the latter as well.
    """

    def __init__(self) -> None:
        super().__init__(squeeze_non_spatial_dims=True)

    def read(self, data: Any, **kwargs: Any) -> Any:
        path = data[0] if isinstance(data, (tuple, list)) else data
        self.filenames = (path,)
        return nib.load(path)  # the parent's puts a diagonal affine in place of one that does not fit pixdim

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        path, header = img.get_filename(), img.header
        _check_numbers(path, header)
        array, meta = super().get_data(img)
        if array.dtype.names:  # RGB or RGBA, one byte each
            array = np.stack([array[name] for name in array.dtype.names], -1)
            meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = -1
        if header.get_data_dtype().kind == "V" or (header.get_data_dtype() == np.uint8 and array.dtype == np.uint8):
            meta[FULL_SCALE] = 255.0
        meta[TIME_POINTS] = img.shape[3] if len(img.shape) > 3 else 1
        scale = millimetres(header)
        meta[MetaKeys.AFFINE] = scale @ meta[MetaKeys.AFFINE]
        meta[MetaKeys.ORIGINAL_AFFINE] = meta[MetaKeys.AFFINE].copy()
        if header["qform_code"] > 0 and header["sform_code"] > 0:
            other, shape = scale @ header.get_qform(), (*img.shape[:3], 1, 1)[:3]
            affine = meta[MetaKeys.AFFINE]
            if not np.isfinite(other).all():  # other programs may read the place from it
                raise InputError(
                    f"{path}: its qform holds NaN or infinite numbers; export it again with a valid header"
                )
            usable = np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]) != 0
            if usable and apart(affine, other, shape) > TOLERANCE:
                meta[OTHER_AFFINE] = other
        return array, meta


def _check_numbers(path: str, header: Any) -> None:
    if header.get_data_dtype().kind == "c":
        raise InputError(f"{path}: holds complex numbers; save their magnitude")
    if int(header["intent_code"]) == DISPLACEMENTS:
        raise InputError(f"{path}: is a field of displacements and no image; give the image")
    with Opener(path) as file:  # nibabel repairs what it loads and does not say so
        raw = type(header).from_fileobj(file, check=False)
    status = os.stat(path)
    end = _length(path, status.st_size, status.st_mtime_ns)
    sizes = [int(size) for size in raw["dim"][1 : 1 + int(raw["dim"][0])]]
    if max(sizes[5:], default=1) > 1:
        raise InputError(f"{path}: has {len(sizes)} dimensions, more than space, time and channels; save each image")
    begin, kind = int(raw["vox_offset"]), raw.get_data_dtype()
    if raw["bitpix"] not in (0, 8 * kind.itemsize):
        raise InputError(
            f"{path}: its bitpix is {raw['bitpix']} and its data type has {8 * kind.itemsize} bits; convert it again"
        )
    if raw.is_single and begin < raw.single_vox_offset:
        raise InputError(f"{path}: its vox_offset is {begin}, so where its values begin is not known; convert it again")
    if raw.is_single and min(sizes) > 0 and end - begin >= (math.prod(sizes) + math.prod(sizes[:2])) * kind.itemsize:
        raise InputError(f"{path}: holds more values than its header says (dim); convert it again")
    if raw.is_single and min(sizes) > 0 and end - begin < math.prod(sizes) * kind.itemsize:
        raise InputError(
            f"{path}: cannot be read (it holds {end - begin} bytes of values, and its header says "
            f"{math.prod(sizes) * kind.itemsize}); copy it again or remove it from dataset.json"
        )
    if not np.isfinite([raw["scl_slope"], raw["scl_inter"]]).all():
        raise InputError(f"{path}: its scl_slope or scl_inter is not a number, so its values are not known; convert it")
    if not 0 <= min(codes := [int(raw["qform_code"]), int(raw["sform_code"])]) <= max(codes) <= MOST_CODE:
        raise InputError(
            f"{path}: its qform_code is {codes[0]} and its sform_code {codes[1]}, and NIfTI knows 0 to {MOST_CODE}, so "
            "where it lies is not known; convert it again"
        )
    if not any(codes):
        warn_of_unknown_sides(path, "sform_code and qform_code are 0")
    axes = slice(1, 1 + min(3, int(raw["dim"][0])))
    spacing = raw["pixdim"][axes][raw["dim"][axes] > 1]
    if raw["sform_code"] <= 0 and not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{path}: its header gives a voxel no size (pixdim is 0 or NaN); correct it")
    sform = np.linalg.norm([raw["srow_x"][:3], raw["srow_y"][:3], raw["srow_z"][:3]], axis=0)
    known = (raw["pixdim"][1:4] > 0) & (raw["dim"][1:4] > 1)
    if raw["sform_code"] > 0 and not np.allclose(sform[known], raw["pixdim"][1:4][known], rtol=TOLERANCE):
        sizes = [" x ".join(f"{size:.3g}" for size in one) for one in (sform, raw["pixdim"][1:4])]
        warn_once(f"{path}: its sform gives voxels of {sizes[0]} and its pixdim of {sizes[1]}; the sform is taken")


@functools.lru_cache(maxsize=2**14)  # a training reads most of its files many times
def _length(path: str, size: int, changed: int) -> int:
    """Bytes of a file, unpacked: read to the end, where a compressed file has its checksum."""
    with Opener(path) as file:
        return sum(map(len, iter(functools.partial(file.read, 2**24), b"")))


def has_fourth_axis(path: str | Path) -> bool:
    """Whether a file, by its header, holds several volumes: channels or time points. Not where it cannot be read."""
    return (fourth_axis(path) or 1) > 1


def fourth_axis(path: str | Path) -> int | None:
    """How many volumes a NIfTI file holds, by its header; ``None`` of another file, and of one that cannot be read."""
    if not str(path).lower().endswith((".nii", ".nii.gz")):
        return None
    try:
        image: Any = nib.load(path)
    except Exception:  # whatever is wrong is said where the file is opened
        return None
    return int(np.prod(image.shape[3:]))


def on_source(mask: np.ndarray, affine: np.ndarray, path: str) -> nib.Nifti1Image:
    """A label map (i, j, k), or with a fourth axis, as an image to be written. On the grid of the NIfTI file that was
    segmented it has both of its affines, their codes and its units, elsewhere the affine that is given, MONAI's in
    millimetres."""
    if path.lower().endswith((".nii", ".nii.gz")):
        source: Any = nib.load(path)
        place, shape = millimetres(source.header) @ source.affine, (*source.shape[:3], 1, 1)[:3]
        if shape == mask.shape[:3] and apart(place, affine, shape) <= TOLERANCE:
            image = type(source)(mask, source.affine)
            for field in PLACE:
                image.header[field] = source.header[field]
            return image
    return nib.Nifti1Image(mask, affine)


def millimetres(header: Any) -> np.ndarray:
    """The affine from the unit of length of a header to millimetres."""
    return np.diag([*[MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)] * 3, 1.0])
