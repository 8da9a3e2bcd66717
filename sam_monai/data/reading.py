"""One file of any format, upright and channel first; what no reader can give whole is refused."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from monai.data import ITKReader, MetaTensor, PILReader
from monai.transforms import LoadImage
from monai.utils import MetaKeys
from PIL import Image

from ..errors import InputError
from . import itk_headers
from .affines import check_affine
from .dicom import DicomReader
from .dicom_series import is_dicom
from .frames import FRAMES
from .names import PICTURE_SUFFIXES
from .nifti import FULL_SCALE, TIME_POINTS, NiftiReader
from .picture_files import FORMATS, full_scale

# One of MONAI's readers tells that a decoder for GPUs is not installed, which nothing here asks for: here in its log.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)


@functools.cache
def loader() -> LoadImage:
    """MONAI makes every reader that it knows, and one of them warns of a decoder for GPUs, see above."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "NvImgCodecPydicomReader")
        return LoadImage(ensure_channel_first=True)


def read_file(path: str, converter: Callable[[Image.Image], Image.Image], frames: bool) -> MetaTensor:
    """A file or a folder of DICOM as a float32 MetaTensor (C, H, W) or (C, i, j, k). ``converter`` makes of a picture
    what its numbers mean; ``frames`` says whether a fourth dimension is time."""
    if not path:  # what MONAI Label makes of a name that its datastore does not know
        raise InputError("no image of that name is known; see the list of studies for the names that are")
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; copy it there or remove it from dataset.json")
    if not (os.path.isfile(path) or os.path.isdir(path)):  # to read a pipe is to wait
        raise InputError(f"{path}: cannot be read, it is no ordinary file; copy it there or remove it")
    reader: Any = None
    if path.lower().endswith(PICTURE_SUFFIXES):
        reader = PILReader(converter=converter, reverse_indexing=False, formats=FORMATS)
    elif path.lower().endswith((".nii", ".nii.gz")):
        reader = NiftiReader()
    elif Path(path).is_dir() or is_dicom(path):
        reader = DicomReader()
    elif not path.lower().endswith(itk_headers.SUFFIXES):  # arrays without a place, headers that nobody checks
        raise InputError(f"{path}: no reader for its file type; save a volume as NIfTI, a picture as PNG")
    elif importlib.util.find_spec("itk") is None:
        raise InputError(f"{path}: no reader for its file type; pip install 'sam_monai[itk]', or save it as NIfTI")
    times = None
    try:
        if reader is None:
            times, reader = itk_headers.time_points(path), ITKReader()
        # Given at the call, a reader is the only one tried: no other format's reader gets a damaged file.
        tensor = cast(MetaTensor, loader()(path, reader=reader))
        tensor.meta |= {} if times is None else {TIME_POINTS: times}
        times = tensor.meta.get(TIME_POINTS, 1)
    except InputError:
        raise
    except Image.DecompressionBombError as e:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise InputError(f"{path}: has more than {most} million pixels; cut it into tiles or scale it down") from e
    except Exception as e:
        lines = re.sub(r"\(0x\w+\)", "", str(e).strip() or type(e).__name__).splitlines()
        # ITK's errors begin with a line of its own source.
        cause = next((line for line in lines if not line.endswith(":")), lines[0])
        raise InputError(f"{path}: cannot be read ({cause}); copy it again or remove it from dataset.json") from e
    if tensor.ndim not in (3, 4) or tensor.numel() == 0:
        size = " x ".join(str(n) for n in tensor.shape)
        raise InputError(f"{path}: has the shape {size} (channels first); save it as a 2D or 3D image")
    if tensor.ndim == 3 and not isinstance(reader, PILReader | DicomReader):
        raise InputError(f"{path}: has two axes; save it, and its label, as a volume of depth 1 or as a picture")
    if tensor.ndim == 4:
        check_affine(tensor.affine, path)
    if isinstance(reader, PILReader):
        white = full_scale(tensor.meta.get("mode"))
        tensor.meta |= {} if white is None else {FULL_SCALE: white}  # batches of metadata hold no None
    if frames and times > 1:
        if times != len(tensor):
            raise InputError(f"{path}: has {times} frames of several channels each; save one channel of them")
        tensor.meta[FRAMES] = times
    # MONAI's PIL reader notes width before height; writers take the original size from here.
    tensor.meta[MetaKeys.SPATIAL_SHAPE] = np.asarray(tensor.shape[1:])
    tensor.meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
    return tensor
