"""Loading of one case, upright and channel first, whatever the file format."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, NibabelReader, PILReader
from monai.transforms import LoadImage, MapTransform, Orientation
from monai.utils import ImageMetaKey, MetaKeys
from nibabel.orientations import aff2axcodes
from PIL import Image, ImageOps

from ..errors import InputError
from .dataset import PICTURE_SUFFIXES
from .dicom import DicomReader, is_dicom
from .dicom_seg import is_segmentation, read_segmentation

logger = logging.getLogger(__name__)
# MONAI warns for each reader made that a decoder for GPUs, which nothing here asks for, is not installed.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)


class LoadCased(MapTransform):
    """Load the image and label files of a case as float32 MetaTensors, (C, H, W) or (C, H, W, D).

    Rows and columns of a picture are the file's rows and columns as a viewer shows them: EXIF orientation is applied,
    axes are not swapped. Volumes keep their file's axes (i, j, k) and affine. 16-bit values are kept. A DICOM series is
    a folder or any file of it, see :mod:`sam_monai.data.dicom`; a DICOM SEG is read as a label on its image's grid.
    A label volume that is its image's grid but for the order and direction of the axes is turned.
    An image has 1 or 3 channels. A label has one channel of whole numbers 0..L; a {0, 255} mask with L = 1 is read
    as {0, 1}.

    Args:
        keys: keys that hold paths. "label" is read as a label, every other key as an image.
        labels: names or number of the foreground labels; not needed without the key "label".
        channels: channels of the file to take for an image, as indices from 0: [0] picks, [0, 0, 0] repeats.
        allow_missing_keys: leave out keys that a case does not have.

    Raises:
        InputError: at the call, where a file is missing, unreadable or does not fit. One line, with the remedy.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        labels: Sequence[str] | int | None = None,
        channels: Sequence[int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if "label" in self.keys and labels is None:
            raise ValueError('LoadCased: give `labels`, the names or the number of the labels, to load the key "label"')
        self.labels = labels if isinstance(labels, int) or labels is None else len(labels)
        self.names = None if isinstance(labels, int) or labels is None else tuple(labels)
        self.channels = None if channels is None else [int(c) for c in channels]
        if self.channels is not None and (len(self.channels) not in (1, 3) or min(self.channels) < 0):
            raise InputError(f"key channels is {self.channels}; give 1 or 3 indices from 0, as in [0] or [0, 1, 2]")
        self._load = LoadImage(ensure_channel_first=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        for key in self.key_iterator(case):
            path = str(case[key])
            if key == "label":
                segmentation = is_segmentation(path)
                label = self._read_segmentation(path, case) if segmentation else self._read(path, _upright)
                case[key] = turned_like(_as_label(label, self.labels or 0, path), case.get("image"))
            else:
                case[key] = self._pick(self._read(path, _upright_grey_or_colour), path)
        return case

    def _read(self, path: str, converter: Any) -> MetaTensor:
        if not path:  # what MONAI Label makes of a name that its datastore does not know
            raise InputError("no image of that name is known; see the list of studies for the names that are")
        if not Path(path).exists():
            raise InputError(f"{path}: no such file; copy it there or remove it from dataset.json")
        reader: Any = None
        if path.lower().endswith(PICTURE_SUFFIXES):
            reader = PILReader(converter=converter, reverse_indexing=False)
        elif path.lower().endswith((".nii", ".nii.gz")):
            reader = NibabelReader(squeeze_non_spatial_dims=True)
        elif Path(path).is_dir() or is_dicom(path):
            reader = DicomReader()
        try:
            # Given at the call, a reader is the only one tried: no other format's reader gets a damaged file.
            tensor = cast(MetaTensor, self._load(path, reader=reader))
        except InputError:
            raise
        except Exception as e:
            if reader is None and importlib.util.find_spec("itk") is None:
                raise InputError(f"{path}: no reader for its file type; pip install itk-io, or save it as NIfTI") from e
            cause = (str(e).strip() or type(e).__name__).splitlines()[0]
            raise InputError(f"{path}: cannot be read ({cause}); copy it again or remove it from dataset.json") from e
        if tensor.ndim not in (3, 4) or tensor.numel() == 0:
            size = " x ".join(str(n) for n in tensor.shape)
            raise InputError(f"{path}: has the shape {size} (channels first); save it as a 2D or 3D image")
        if tensor.ndim == 4:
            _refuse_shear(tensor, path)
        # MONAI's PIL reader notes width before height; writers take the original size from here.
        tensor.meta[MetaKeys.SPATIAL_SHAPE] = np.asarray(tensor.shape[1:])
        tensor.meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
        return tensor

    def _read_segmentation(self, path: str, case: Mapping[Hashable, Any]) -> MetaTensor:
        image = case.get("image")
        if not isinstance(image, MetaTensor):
            if image is None:
                raise InputError(f"{path}: is a DICOM SEG, which is read on its image's grid; name the image too")
            image = self._read(str(image), _upright_grey_or_colour)
        affine = np.asarray(image.affine)
        mask = read_segmentation(path, affine, image.shape[1:], self.names)
        return MetaTensor(torch.as_tensor(mask[None].astype(np.float32)), affine, {ImageMetaKey.FILENAME_OR_OBJ: path})

    def _pick(self, image: MetaTensor, path: str) -> torch.Tensor:
        found = image.shape[0]
        if self.channels is not None:
            if max(self.channels) >= found:
                raise InputError(f"{path}: has channels 0 to {found - 1}; correct key channels, {self.channels}")
            return image[self.channels]
        if found not in (1, 3):
            raise InputError(
                f"{path}: has {found} channels where 1 or 3 are needed; pick with key channels, "
                f"as in {'[0, 1, 2]' if found > 3 else '[0]'}"
            )
        return image


def _refuse_shear(volume: MetaTensor, path: str) -> None:
    axes = torch.nn.functional.normalize(volume.affine[:3, :3].double(), dim=0)
    if not torch.allclose(axes.T @ axes, torch.eye(3, dtype=torch.float64), atol=1e-2):
        raise InputError(f"{path}: its axes do not stand at right angles (a sheared affine); straighten it first")


def _upright(picture: Image.Image) -> Image.Image:
    if picture.format == "TIFF" and getattr(picture, "n_frames", 1) > 1:
        raise InputError(
            f"{getattr(picture, 'filename', 'a TIFF')}: has {getattr(picture, 'n_frames', 1)} pages; "
            "save each page as a file, or the stack as a NIfTI volume"
        )
    return ImageOps.exif_transpose(picture)


def _upright_grey_or_colour(picture: Image.Image) -> Image.Image:
    picture = _upright(picture)
    return picture.convert("RGB") if picture.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV") else picture


def turned_like(label: Any, image: Any) -> Any:
    """A volume's label with its axes in the order and direction of its image's, if that puts it on the image's grid:
    converters of DICOM turn volumes each in its own way."""
    if not isinstance(image, MetaTensor) or image.ndim != 4 or label.ndim != 4:
        return label
    if image.shape[1:] == label.shape[1:] and torch.allclose(image.affine, label.affine, atol=1e-3):
        return label
    turned = Orientation(axcodes="".join(map(str, aff2axcodes(image.affine.numpy()))), labels=None)(label)
    same = turned.shape[1:] == image.shape[1:] and torch.allclose(image.affine, turned.affine, atol=1e-3)
    turned.applied_operations = []  # this is how the label is now; nothing shall undo it
    return turned if same else label


def _as_label(label: MetaTensor, number: int, path: str) -> torch.Tensor:
    remedy = f"save the label with one channel of whole numbers, 0 for background and 1 to {number} for the labels"
    if label.meta.get("mode") in ("P", "PA"):
        raise InputError(f"{path}: is a palette picture, whose numbers stand for colours; {remedy}")
    if label.shape[0] != 1:
        raise InputError(f"{path}: has {label.shape[0]} channels (a colour mask?); {remedy}")
    if not torch.isfinite(label).all():
        raise InputError(f"{path}: holds NaN or infinite values; {remedy}")
    # NIfTI files may scale their numbers, which leaves a trace of rounding.
    whole = label.round()
    if not torch.allclose(whole, label, rtol=0, atol=1e-3):
        raise InputError(f"{path}: holds values that are not whole numbers ({_values(label)}); {remedy}")
    lowest, highest = (value.item() for value in torch.aminmax(whole))
    if lowest >= 0 and highest <= number:
        return whole
    if number == 1 and highest == 255 and ((whole == 0) | (whole == 255)).all():
        _say_once("masks with the values 0 and 255 are read as 0 and 1")
        return whole / 255
    hint = "; JPEG changes values, use PNG" if path.lower().endswith((".jpg", ".jpeg")) else ""
    raise InputError(f"{path}: holds the values {_values(label)}, known are 0 to {number}; {remedy}{hint}")


def _values(label: torch.Tensor) -> str:
    shown = [f"{value:g}" for value in torch.unique(label).tolist()]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", *shown[-2:]])


@functools.cache
def _say_once(message: str) -> None:
    logger.info(message)
