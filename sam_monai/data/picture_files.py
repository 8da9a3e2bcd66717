"""Picture files as a person sees them, with all the bits that they hold, or refused."""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from scipy.ndimage import minimum_filter

from ..errors import InputError, say_once

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF")  # of others Pillow starts programs: Ghostscript for EPS
BYTES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
TO_RGB = ("P", "CMYK", "YCbCr", "LAB", "HSV")
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLES, TIFF_FORMAT = 258, 262, 277, 339
TIFF_PLACES = ((273, 324), (279, 325))  # where strips or tiles begin, and their bytes
EMPTY = zlib.compress(b"")  # a strip that is left out
NOISE = 32  # by how much JPEG changes a value of a mask but beside its edges
SOFT = 0.02  # of the pixels of a mask, at most, lie beside its edges
ORIENTATION = 0x112  # in EXIF; 1 is upright


def label_picture(picture: Image.Image) -> Image.Image:
    """The numbers of a label's file, which Pillow stretches to 8 bits where the file has 2 or 4."""
    _check(picture)
    step = {"L;2": 85, "L;4": 17}.get(_raw_mode(picture))
    lossy = picture.format in ("JPEG", "MPO") or picture.info.get("compression") == "jpeg"
    if lossy and 0 < np.asarray(picture).max() < 128:  # a mask of 0 and 255 may have come through whole, which is seen
        raise InputError(f"{_name(picture)}: is a JPEG of small numbers, which JPEG changes; save the label as PNG")
    if _white_is_zero(picture):
        raise InputError(f"{_name(picture)}: is a TIFF in which white is zero; save the label as PNG")
    upright = _upright(picture)
    if lossy:
        return _without_noise(upright)
    return upright if step is None else Image.fromarray(np.asarray(upright) // step)


def _without_noise(picture: Image.Image) -> Image.Image:
    """A mask of 0 and 255 that was saved as JPEG, as it was before; any other picture as it is, to be refused."""
    values = np.asarray(picture)
    between = (values > NOISE) & (values < 255 - NOISE)
    if between.mean() > SOFT or minimum_filter(between, 5).any():
        return picture
    say_once("JPEG has changed the values of masks: from 128 on they are taken for the object, below for background")
    return Image.fromarray(np.where(values < 128, 0, 255).astype(np.uint8))


def image_picture(picture: Image.Image) -> Image.Image:
    """An image's file as grey values, white the largest, or colours."""
    _check(picture)
    mode, bits, negative = picture.mode, _tiff(picture, TIFF_BITS, 8), _white_is_zero(picture)
    name = _name(picture)  # which the upright one has not
    picture = _upright(picture)
    if mode in TO_RGB:
        return picture.convert("RGB")
    if mode == "I" and bits == 32 and np.asarray(picture).min() < 0:
        raise InputError(f"{name}: holds whole numbers beyond 31 bits or below 0; save it with 16 bits")
    if mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint16)
        return Image.fromarray(2**bits - 1 - values if negative else values)
    if negative and mode not in ("1", "L"):  # Pillow turns those
        raise InputError(f"{name}: is a TIFF in which white is zero; save it with black as zero")
    return picture


def is_turned(path: str) -> bool:
    """Whether a picture's EXIF tag tells viewers, and this package, to turn it. Not where it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return picture.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # whatever is wrong is said where the file is loaded
        return False


def full_scale(mode: str | None) -> float | None:
    """The value of white in a picture of Pillow's mode; ``None`` where the mode does not say."""
    return None if mode not in BYTES else 1.0 if mode == "1" else 255.0


def _check(picture: Image.Image) -> None:
    pages = getattr(picture, "n_frames", 1)
    if picture.format != "MPO" and pages > 1:  # a camera's JPEG with previews
        raise InputError(
            f"{_name(picture)}: has {pages} pages; save each page as a file, or the stack as a NIfTI volume"
        )
    _check_sums(picture)
    samples, read = int(_tiff(picture, TIFF_SAMPLES, 1)), len(picture.getbands())
    if samples > read == 1:  # further samples of colours are alpha, most likely
        raise InputError(
            f"{_name(picture)}: holds {samples} channels, of which one can be read; save each channel as a file"
        )
    bits = _tiff(picture, TIFF_BITS, 8)
    if picture.mode in BYTES and (bits > 8 or re.search(r"^(RGB.?|LA?|CMYK);16", _raw_mode(picture))):
        raise InputError(
            f"{_name(picture)}: has 16 bits for each of several channels, which cannot be read whole; save it with "
            "8 bits for each, or as one grey channel of 16"
        )
    if _tiff(picture, TIFF_FORMAT, 1) == 2 and bits == 8:
        raise InputError(f"{_name(picture)}: holds signed numbers of 8 bits; save it without a sign")


def _check_sums(picture: Image.Image) -> None:
    """Raise what Pillow or zlib raises of bytes that do not give the checksums of a file: Pillow has read all pixels
    before it comes to them."""
    name = getattr(picture, "filename", "")
    if name and picture.format == "PNG":
        with Image.open(name, formats=FORMATS) as again:
            again.verify()
    if name and picture.format == "TIFF" and str(picture.info.get("compression")).endswith("deflate"):
        places = [np.atleast_1d(next(filter(None, map(_tags(picture).get, tags)), ())) for tags in TIFF_PLACES]
        with open(name, "rb") as file:
            for begin, size in zip(*places, strict=True):
                file.seek(int(begin))
                _unpack(file.read(int(size)) or EMPTY)


def _unpack(data: bytes) -> None:
    """Raise what zlib raises, without keeping what comes out, which may be a thousand times as much."""
    unpacking = zlib.decompressobj()
    while data and not unpacking.eof:
        unpacking.decompress(data, 2**20)
        data = unpacking.unconsumed_tail
    if not unpacking.eof:
        raise zlib.error("the compressed pixels are cut short")


def _upright(picture: Image.Image) -> Image.Image:
    """The picture, not loaded before, turned as its EXIF tag says. Of a TIFF that has a name Pillow would map the bytes
    into memory, by the size that it has once it is turned, which mixes up its pixels."""
    if picture.format == "TIFF":
        picture.filename = ""  # pyright: ignore[reportAttributeAccessIssue]
    return ImageOps.exif_transpose(picture)


def _white_is_zero(picture: Image.Image) -> bool:
    return picture.format == "TIFF" and _tiff(picture, TIFF_PHOTOMETRIC, 1) == 0


def _raw_mode(picture: Image.Image) -> str:
    tiles = getattr(picture, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _tiff(picture: Image.Image, tag: int, default: int) -> int:
    value = _tags(picture).get(tag, default)
    return max(value) if isinstance(value, tuple) else int(value)


def _tags(picture: Image.Image) -> Any:
    return getattr(picture, "tag_v2", {})


def _name(picture: Image.Image) -> str:
    return str(getattr(picture, "filename", "") or "a picture")
