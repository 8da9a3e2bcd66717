from __future__ import annotations

import itertools
import struct
import subprocess
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import COLOUR, GREY, RNG, load_image, load_label, picture
from monai.data import MetaTensor
from PIL import Image

from sam_monai import InputError


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
def test_rows_of_a_picture_are_the_rows_of_the_file(tmp_path, suffix):
    grey = load_image(picture(tmp_path / f"g{suffix}", GREY))
    assert isinstance(grey, MetaTensor) and grey.dtype == torch.float32
    assert grey.shape == (1, 9, 11) and np.array_equal(grey[0], GREY)
    colour = load_image(picture(tmp_path / f"c{suffix}", COLOUR))
    assert colour.shape == (3, 9, 11) and np.array_equal(colour, COLOUR.transpose(2, 0, 1))
    assert colour.meta["filename_or_obj"] == str(tmp_path / f"c{suffix}")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_picture_and_mask_alike(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Which corner of the stored pixels a viewer shows on top left, and whether rows and columns change places.
    seen = {
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: GREY[::-1].T,
        7: GREY[::-1, ::-1].T,
        8: GREY[:, ::-1].T,
    }[orientation]
    path = picture(tmp_path / "a.png", GREY, exif=exif)
    assert np.array_equal(load_image(path)[0], seen)
    assert np.array_equal(load_label(path, labels=255)[0], seen)
    for kind, compression in itertools.product((np.uint8, np.uint16, np.float32), (None, "tiff_deflate")):
        path = picture(tmp_path / "a.tif", GREY.astype(kind), exif=exif, compression=compression)
        assert np.array_equal(load_image(path)[0], seen), (kind, compression)
        assert np.array_equal(load_label(path, labels=255)[0], seen), (kind, compression)


def test_16_bit_values_are_kept(tmp_path):
    deep = np.array([[0, 1, 300], [256, 40000, 65535]], np.uint16)
    for suffix in (".png", ".tif"):
        assert np.array_equal(load_image(picture(tmp_path / f"a{suffix}", deep))[0], deep)
    assert np.array_equal(load_label(picture(tmp_path / "l.png", deep), labels=65535)[0], deep)


def test_a_palette_or_cmyk_picture_is_read_as_the_colours_it_shows(tmp_path):
    flat = np.zeros((4, 6, 3), np.uint8)
    flat[:, 3:] = (250, 20, 90)
    Image.fromarray(flat).quantize(2).save(tmp_path / "p.png")
    assert np.array_equal(load_image(str(tmp_path / "p.png")), flat.transpose(2, 0, 1))
    assert load_image(picture(tmp_path / "c.jpg", flat, "CMYK")).shape == (3, 4, 6)


def tiff(path: Path, array: np.ndarray, order: str = "<", photometric: int = 1, kind: int = 1) -> Path:
    """A TIFF of one strip whose header says what it is told to, for what Pillow does not write."""
    bits, samples = array.dtype.itemsize * 8, array.shape[2] if array.ndim == 3 else 1
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    counts = {258: bits, 339: kind}
    entries = [(256, array.shape[1]), (257, array.shape[0]), (258, 0), (259, 1), (262, photometric), (273, 0),
               (277, samples), (278, array.shape[0]), (279, len(data)), (339, 0)]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    extra = b"".join(struct.pack(f"{order}{samples}H", *[counts[tag]] * samples) for tag in counts)
    body = struct.pack(f"{order}H", len(entries))
    for tag, value in entries:
        if tag in counts and samples > 1:
            body += struct.pack(f"{order}HHII", tag, 3, samples, start + 2 * samples * (tag == 339))
        elif tag in counts:
            body += struct.pack(f"{order}HHIHH", tag, 3, 1, counts[tag], 0)
        else:
            body += struct.pack(f"{order}HHII", tag, 4, 1, start + len(extra) if tag == 273 else value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    path.write_bytes(head + body + bytes(4) + extra + data)
    return path


def png(path: Path, rows: list[bytes], width: int, bits: int, colour: int) -> None:
    """A PNG of a depth that Pillow does not write."""
    header, data = (
        struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0),
        b"".join(b"\0" + row for row in rows),
    )
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


DEEP = (np.arange(99).reshape(9, 11) * 40 + 500).astype(np.uint16)


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order_is_read(tmp_path, order):
    assert np.array_equal(load_image(tiff(tmp_path / "a.tif", DEEP, order))[0], DEEP)


def test_white_is_zero_is_read_as_it_is_seen_and_is_no_label(tmp_path):
    assert np.array_equal(load_image(tiff(tmp_path / "a.tif", GREY, photometric=0))[0], 255 - GREY)
    assert np.array_equal(load_image(tiff(tmp_path / "b.tif", DEEP, photometric=0))[0], 65535 - DEEP)
    for name in "ab":
        with pytest.raises(InputError, match="white is zero"):
            load_label(tmp_path / f"{name}.tif", 65535)


@pytest.mark.parametrize("channels", [None, [0]])
def test_colours_of_16_bits_are_refused_and_not_cut(tmp_path, channels):
    path = tiff(tmp_path / "a.tif", np.repeat(DEEP[..., None], 3, 2), photometric=2)
    with pytest.raises(InputError, match=r"a\.tif: has 16 bits for each"):
        load_image(path, channels=channels)
    png(tmp_path / "a.png", [np.repeat(row[:, None], 3, 1).astype(">u2").tobytes() for row in DEEP], 11, 16, 2)
    with pytest.raises(InputError, match=r"a\.png: has 16 bits for each"):
        load_image(tmp_path / "a.png", channels=channels)


def test_signed_bytes_are_refused(tmp_path):
    with pytest.raises(InputError, match="signed"):
        load_image(tiff(tmp_path / "a.tif", (GREY - 128).astype(np.int8), kind=2))


def test_labels_of_fewer_bits_keep_their_numbers(tmp_path):
    values = RNG.integers(0, 4, (9, 12)).astype(np.uint8)
    for bits in (2, 4):
        packed = np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(9, -1)
        png(tmp_path / "l.png", [np.packbits(row).tobytes() for row in packed], 12, bits, 0)
        assert np.array_equal(load_label(tmp_path / "l.png", 3)[0], values)


def test_a_picture_of_too_many_pixels_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"a\.png: has more than .* million pixels; cut it into tiles"):
        load_image(picture(tmp_path / "a.png", GREY))


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.tif", {"compression": "tiff_deflate"})])
def test_a_damaged_byte_of_a_mask_is_noticed_wherever_it_lies(tmp_path, name, options):
    """A mask compresses well, so one byte is many pixels."""
    path = picture(tmp_path / name, np.kron(GREY % 2, np.ones((16, 16), np.uint8)), **options)
    whole, before = (tmp_path / name).read_bytes(), load_label(path)
    noticed = 0
    for place in range(len(whole) // 3, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        (tmp_path / name).write_bytes(damaged)
        try:
            after = load_label(path)
        except InputError:
            noticed += 1
        else:  # a byte that says nothing of the pixels
            assert after.shape == before.shape and torch.equal(after, before), place
    assert noticed > 10


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_a_program_with_a_pictures_name_is_refused_and_not_run(tmp_path, suffix, monkeypatch):
    """Pillow goes by the content, and has Ghostscript draw what is PostScript."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    head = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
    (tmp_path / f"a{suffix}").write_text(head + "{} loop\n")
    for load in (load_image, load_label):
        with pytest.raises(InputError, match="cannot be read"):
            load(tmp_path / f"a{suffix}")


def test_pixels_that_unpack_to_far_more_than_the_picture_take_no_memory(tmp_path):
    data = zlib.compress(bytes(2**27), 9)  # of 64 x 64 pixels
    tags = [(256, 3, 64), (257, 3, 64), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 64),
            (279, 4, len(data))]  # fmt: skip
    pad = len(data) % 2
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    header = b"II*\0" + struct.pack("<I", 8 + len(data) + pad)
    (tmp_path / "b.tif").write_bytes(header + data + bytes(pad) + struct.pack("<H", len(tags)) + entries + bytes(4))
    tracemalloc.start()
    with suppress(InputError):  # a picture of one value
        load_image(tmp_path / "b.tif")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**25
