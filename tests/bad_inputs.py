"""Images and labels that cannot be right, each made in small, with what is said of it."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
SHAPE, AFFINE = (12, 10, 9), np.diag([0.8, 0.8, 2.0, 1.0])
VOLUME = RNG.normal(100, 30, SHAPE).astype(np.float32)
LABEL = RNG.integers(0, 3, SHAPE).astype(np.uint8)
GREY, MASK = (RNG.integers(0, most, (24, 20), dtype=np.uint8) for most in (256, 3))
COLOUR = RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)

Make = Callable[[Path], Path | str]


def nifti(array: np.ndarray, name: str = "x.nii", **fields) -> Make:
    """A file whose header fields are then changed as they are, without repair."""

    def make(folder: Path) -> Path:
        image = nib.Nifti1Image(array, AFFINE)
        content = bytearray(image.to_bytes())
        header = np.frombuffer(content, nib.Nifti1Header.template_dtype, 1).copy()
        for field, value in fields.items():
            header[field][0] = value
        content[:348] = header.tobytes()
        (folder / name).write_bytes(gzip.compress(bytes(content)) if name.endswith(".gz") else bytes(content))
        return folder / name

    return make


def voxel(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(np.float32)
    changed[-1, -1, -1] = value
    return changed


def whole(name: str, image: Image.Image, **options) -> Make:
    def make(folder: Path) -> Path:
        image.save(folder / name, **options)
        return folder / name

    return make


def cut(made: Make, share: float = 0.5) -> Make:
    def make(folder: Path) -> Path:
        path = Path(made(folder))
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        return path

    return make


def changed_end(made: Make, end: bytes) -> Make:
    """A compressed file with another checksum and size, its last 8 bytes."""

    def make(folder: Path) -> Path:
        path = Path(made(folder))
        path.write_bytes(path.read_bytes()[:-8] + end)
        return path

    return make


def damaged(made: Make, byte: int) -> Make:
    """A file with another byte, counted from its end."""

    def make(folder: Path) -> Path:
        path = Path(made(folder))
        content = bytearray(path.read_bytes())
        content[-byte] ^= 4
        path.write_bytes(content)
        return path

    return make


def renamed(made: Make, name: str) -> Make:
    return lambda folder: Path(made(folder)).rename(folder / name)


def text(name: str, content: bytes = b"not an image" * 100) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def place(name: str, kind: str) -> Make:
    def make(folder: Path) -> Path:
        if kind == "folder":
            (folder / name).mkdir()
        elif kind == "link":
            (folder / name).symlink_to(folder / "nowhere")
        elif kind == "pipe":
            os.mkfifo(folder / name)
        return folder / name

    return make


def array(name: str) -> Make:
    def make(folder: Path) -> Path:
        np.save(folder / name, VOLUME) if name.endswith("y") else np.savez(folder / name, VOLUME)
        return folder / name

    return make


def pair(values: np.ndarray, kind: type = nib.Nifti1Pair) -> Make:
    """A file of values with a file of its header beside it."""

    def make(folder: Path) -> Path:
        nib.save(kind(values, AFFINE), folder / "x.img")
        return folder / "x.img"

    return make


GEOMETRY: dict[str, tuple[Make, str]] = {}  # filled below, for images and labels alike
for said, fields in {
    "affine holds NaN": {"srow_x": [np.nan, 0, 0, 0]}, "affine holds NaN or infinite": {"srow_y": [0, 1, 0, np.inf]},
    "voxels of 0 x": {"srow_x": [0, 0, 0, 0]}, "which cannot be": {"srow_x": [1e6, 0, 0, 0]},
    "2e-06 mm, which cannot be": {"srow_z": [0, 0, 2e-6, 0]}, "right angles": {"srow_x": [1, 1, 0, 0]},
    "sheared or singular": {"srow_x": [0.8, 0, 2, 0], "srow_z": [0.8, 0, 2, 0]},
    "gives a voxel no size": {"sform_code": 0, "qform_code": 1, "pixdim": [1, 0, 1, 1, 1, 1, 1, 1]},
    "pixdim is 0 or NaN": {"sform_code": 0, "qform_code": 0, "pixdim": [1, 1, np.nan, 1, 1, 1, 1, 1]},
    "a voxel no size": {"sform_code": 0, "qform_code": 1, "pixdim": [1, 1, -1, 1, 1, 1, 1, 1]},
    "scl_slope or scl_inter": {"scl_slope": np.nan}, "scl_slope or": {"scl_slope": np.inf},
    "scl_inter|invalid intercept": {"scl_inter": -np.inf}, "mm away": {"srow_x": [0.8, 0, 0, 1e9]},
    "mm, which cannot be": {"xyzt_units": 1},
    "affine holds NaN or": {"sform_code": 0, "qform_code": 1, "quatern_b": np.nan},
    "cannot be read": {"sform_code": 0, "qform_code": 1, "quatern_b": 1, "quatern_c": 1},
    "scl_inter is": {"scl_slope": 0, "scl_inter": np.nan}, "NIfTI knows 0 to 5": {"sform_code": 9},
    "qform holds NaN": {"qform_code": 1, "quatern_b": np.nan}, "and its sform_code -1": {"sform_code": -1},
}.items():  # fmt: skip
    GEOMETRY[str(fields)] = (lambda folder, fields=fields: nifti(LABEL.astype(np.float32), **fields)(folder), said)

FILES: dict[str, tuple[Make, str]] = {  # of images and labels alike
    **GEOMETRY,
    "missing": (place("x.nii.gz", "none"), "no such file"),
    "a link to nothing": (place("x.nii", "link"), "no such file"),
    "a pipe": (place("x.nii.gz", "pipe"), "no ordinary file"),
    "a pipe of no type": (place("x", "pipe"), "no ordinary file"),
    "an empty folder": (place("x", "folder"), "no DICOM image"),
    "a folder with a file's name": (place("x.nii.gz", "folder"), "cannot be read"),
    "empty": (text("x.nii", b""), "cannot be read"),
    "empty and compressed": (text("x.nii.gz", b""), "cannot be read"),
    "text": (text("x.nii.gz"), "cannot be read"),
    "a picture with another name": (lambda f: text("x.nii", whole("p.png", Image.fromarray(GREY))(f).read_bytes())(f),
                                    "cannot be read"),
    "cut in the header": (cut(nifti(VOLUME), 0.05), "cannot be read"),
    "cut in the numbers": (cut(nifti(VOLUME)), "cannot be read"),
    "cut and compressed": (cut(nifti(VOLUME, "x.nii.gz")), "cannot be read"),
    "complex": (nifti(VOLUME.astype(np.complex64)), "complex numbers"),
    "displacements": (nifti(VOLUME, intent_code=1006), "field of displacements"),
    "of no type": (nifti(VOLUME, datatype=9999), "cannot be read"),
    "of negative size": (nifti(VOLUME, dim=[3, -12, 10, 9, 1, 1, 1, 1]), "cannot be read"),
    "of no size": (nifti(VOLUME, dim=[3, 0, 10, 9, 1, 1, 1, 1]), "cannot be read|has the shape"),
    "of a size far beyond the file": (nifti(VOLUME, dim=[3, 30000, 30000, 9, 1, 1, 1, 1]), "cannot be read"),
    "of a size below the file": (nifti(VOLUME, dim=[3, 12, 10, 5, 1, 1, 1, 1]), "holds more values"),
    "of eight dimensions": (nifti(VOLUME, dim=[8, 12, 10, 9, 1, 1, 1, 1]), "cannot be read"),
    "of six dimensions": (nifti(VOLUME.reshape(12, 10, 3, 1, 1, 3)), "6 dimensions"),
    "of two axes": (nifti(VOLUME[..., 0]), "has two axes"),
    "another number of bits than its type": (nifti(VOLUME, bitpix=8), "its bitpix is 8"),
    "values that begin in the header": (nifti(VOLUME, vox_offset=0), "vox_offset is 0"),
    "values that begin behind": (nifti(VOLUME, vox_offset=400), "cannot be read"),
    "values that begin nowhere": (nifti(VOLUME, vox_offset=np.nan), "cannot be read"),
    "a wrong checksum": (changed_end(nifti(VOLUME, "x.nii.gz"), b"\0" * 8), "cannot be read .CRC"),
    "no checksum": (changed_end(nifti(VOLUME, "x.nii.gz"), b""), "cannot be read"),
    "not compressed": (renamed(nifti(VOLUME), "x.nii.gz"), "cannot be read"),
    "compressed with another name": (renamed(nifti(VOLUME, "x.nii.gz"), "y.nii"), "cannot be read"),
    "complex of 16 bytes": (nifti(VOLUME.astype(np.complex128)), "complex numbers"),
    "no DICOM": (text("x.dcm"), "cannot be read|no reader"),
    "of an unknown type": (text("x.xyz"), "no reader for its file type"),
    "an array without a place": (array("x.npy"), "no reader for its file type"),
    "arrays without a place": (array("x.npz"), "no reader for its file type"),
    "a header beside its values": (pair(VOLUME), "no reader for its file type"),
    "time points beside their header": (pair(np.stack([VOLUME] * 3, -1)), "no reader for its file type"),
    "Analyze": (pair(VOLUME, nib.AnalyzeImage), "no reader for its file type"),
}  # fmt: skip

IMAGES: dict[str, tuple[Make, str]] = {
    **FILES,
    "one NaN": (nifti(voxel(VOLUME, np.nan)), "NaN or infinite"),
    "one infinity": (nifti(voxel(VOLUME, np.inf), "x.nii.gz"), "NaN or infinite"),
    "one negative infinity": (nifti(voxel(VOLUME, -np.inf)), "NaN or infinite"),
    "all NaN": (nifti(np.full(SHAPE, np.nan, np.float32)), "NaN or infinite"),
    "scaled beyond all numbers": (nifti(VOLUME, scl_slope=1e38, scl_inter=0), "NaN or infinite"),
    "nothing": (nifti(np.zeros(SHAPE, np.int16)), "every intensity is 0"),
    "one value": (nifti(np.full(SHAPE, 7, np.float32)), "every intensity is 7"),
    "one value and its rounding": (nifti((-1e6 + 0.1 * RNG.random(SHAPE)).astype(np.float32)), "every intensity is"),
    "scaled to one value": (nifti(VOLUME, scl_slope=1e-30, scl_inter=5), "every intensity is 5"),
    "three time points": (nifti(RNG.random((12, 10, 9, 3)).astype(np.float32)), "3 time points"),
    "two time points": (nifti(RNG.random((12, 10, 9, 2)).astype(np.float32)), "2 time points"),
    "two channels": (nifti(RNG.random((12, 10, 9, 1, 2)).astype(np.float32)), "2 channels"),
    "seven channels": (nifti(RNG.random((12, 10, 9, 1, 7)).astype(np.float32)), "7 channels"),
    "times and channels": (nifti(RNG.random((12, 10, 9, 2, 3)).astype(np.float32)), "2D or 3D image"),
    "colours and alpha": (nifti(np.zeros(SHAPE, [(name, "u1") for name in "RGBA"])), "4 channels"),
    "beyond single precision": (nifti(VOLUME.astype(float) * 1e300), "NaN or infinite"),
    "too small": (nifti(VOLUME[:7]), "slices are only 7 x"),
}  # fmt: skip

TWO = {"save_all": True, "append_images": [Image.fromarray(GREY // 2)]}
PICTURES: dict[str, tuple[Make, str]] = {
    "missing": (place("x.png", "none"), "no such file"),
    "a folder": (place("x.png", "folder"), "cannot be read"),
    "empty": (text("x.png", b""), "cannot be read"),
    "text": (text("x.jpg"), "cannot be read"),
    **{f"cut {suffix}": (cut(whole(f"x.{suffix}", Image.fromarray(COLOUR))), "cannot be read")
       for suffix in ("png", "jpg", "tif", "bmp")},
    "damaged": (damaged(whole("x.png", Image.fromarray(GREY)), 14), "cannot be read"),
    "black": (whole("x.png", Image.fromarray(0 * GREY)), "every intensity is 0"),
    "of one colour": (whole("x.png", Image.fromarray(0 * COLOUR + 9)), "every intensity is 9"),
    "grey and alpha": (whole("x.png", Image.fromarray(GREY).convert("LA")), "2 channels"),
    "colours and alpha": (whole("x.png", Image.fromarray(COLOUR).convert("RGBA")), "4 channels"),
    "two pages": (whole("x.tif", Image.fromarray(GREY), **TWO), "2 pages"),
    "two frames": (whole("x.png", Image.fromarray(GREY), **TWO), "2 pages"),
    "an animation with another name": (renamed(whole("x.gif", Image.fromarray(GREY), **TWO), "x.png"), "2 pages"),
    "a NIfTI file with another name": (renamed(nifti(VOLUME), "x.png"), "cannot be read"),
    "of two axes": (nifti(VOLUME[..., 0]), "has two axes"),
    "too narrow": (whole("x.png", Image.fromarray(GREY[:, :7])), "both sides need 8"),
    "too low": (whole("x.bmp", Image.fromarray(GREY[:1])), "both sides need 8"),
    "a fraction that is no number": (whole("x.tif", Image.fromarray(voxel(GREY[..., None], np.nan)[..., 0])), "NaN"),
    "negative whole numbers": (whole("x.tif", Image.fromarray(GREY.astype(np.int32) - 100)), "31 bits or below 0"),
    "a volume": (nifti(VOLUME), "3 spatial axes"),
}  # fmt: skip


def with_table(name: str) -> Make:
    """A label with the name of its value 1 in its header, as TotalSegmentator writes it."""

    def make(folder: Path) -> Path:
        image = nib.Nifti1Image(LABEL, AFFINE)
        table = f'<LabelTable><Label Key="1" Red="1" Alpha="1"><![CDATA[{name}]]></Label></LabelTable>'
        image.header.extensions.append(nib.nifti1.Nifti1Extension(0, table.encode()))
        nib.save(image, folder / "x.nii.gz")
        return folder / "x.nii.gz"

    return make


LABELS: dict[str, tuple[Make, str]] = {
    **FILES,
    "a name at another value": (with_table("B"), "says that B has the value 1 in it, and in the dataset it has 2"),
    "a value beyond": (nifti(voxel(LABEL, 3)), "known are 0 to 2"),
    "a value far beyond": (nifti(voxel(LABEL, 1e30)), "known are 0 to 2"),
    "below 0": (nifti(voxel(LABEL, -1)), "known are 0 to 2"),
    "a fraction": (nifti(voxel(LABEL, 0.5)), "not whole numbers"),
    **{f"scaled by {n}": (nifti(LABEL, scl_slope=n, scl_inter=0), "not whole numbers") for n in (0.7, 1e-8)},
    "one NaN": (nifti(voxel(LABEL, np.nan)), "NaN or infinite"),
    "one infinity": (nifti(voxel(LABEL, np.inf)), "NaN or infinite"),
    "a mask of 255 for two labels": (nifti((LABEL > 0) * np.uint8(255)), "0, 255, known are 0 to 2"),
    "two channels": (nifti(np.stack([LABEL, LABEL], -1)), "channel 0.*known are 0 to 1"),
    "one channel for each label": (nifti(np.stack([LABEL == n for n in range(3)], -1).astype(np.uint8)), "3 channels"),
    "the same, as vectors": (
        nifti(np.stack([LABEL == n for n in range(3)], -1)[..., None, :].astype(np.uint8)), "3 channels"),
    "colours": (nifti(np.zeros(SHAPE, [(name, "u1") for name in "RGB"])), "3 channels"),
    "shifted below 0": (nifti(LABEL, scl_slope=1, scl_inter=-1), "-1, 0, 1"),
    "probabilities": (nifti((LABEL / 2).astype(np.float32)), "not whole numbers"),
    "an image": (nifti(VOLUME), "not whole numbers"),
    "beyond 32 bits": (nifti(LABEL * 2.0**40), "known are 0 to 2"),
    "in microns": (nifti(LABEL, xyzt_units=3), "affine differs|cannot be"),
    "mirrored about another point": (nifti(LABEL, srow_x=[-0.8, 0, 0, 0]), "affine differs"),
    "without a place": (nifti(LABEL, sform_code=0, qform_code=0), "affine differs"),
    "with its axes in another order": (nifti(np.ascontiguousarray(LABEL.swapaxes(0, 1))), "is 10 x 12 x 9"),
    "of another size": (nifti(LABEL[:, :9]), "is 12 x 9 x 9"),
    "another number of slices": (nifti(LABEL[..., :8]), "is 12 x 10 x 8"),
    "a picture": (whole("x.png", Image.fromarray(MASK)), "is 24 x 20"),
    "at another place": (nifti(LABEL, srow_x=[0.8, 0, 0, 5]), "affine differs"),
    "of another spacing": (nifti(LABEL, srow_z=[0, 0, 2.5, 0]), "affine differs"),
    "a colour mask": (whole("x.png", Image.fromarray(COLOUR)), "3 channels"),
    "a palette": (whole("x.png", Image.fromarray(MASK).convert("P")), "palette"),
    "a blurred mask": (whole("x.jpg", Image.fromarray(MASK * 80), quality=30), "JPEG"),
}  # fmt: skip

MASKS: dict[str, tuple[Make, str]] = {  # labels of pictures
    "missing": (place("x.png", "none"), "no such file"),
    "a link to nothing": (place("x.png", "link"), "no such file"),
    "a folder": (place("x.png", "folder"), "cannot be read"),
    "empty": (text("x.png", b""), "cannot be read"),
    "text": (text("x.png"), "cannot be read"),
    "cut": (cut(whole("x.png", Image.fromarray(MASK))), "cannot be read"),
    "damaged": (damaged(whole("x.png", Image.fromarray(MASK)), 14), "cannot be read"),  # in the checksum of its pixels
    "colours": (whole("x.png", Image.fromarray(COLOUR)), "3 channels"),
    "grey and alpha": (whole("x.png", Image.fromarray(MASK).convert("LA")), "2 channels"),
    "a palette": (whole("x.png", Image.fromarray(MASK).convert("P")), "palette"),
    "blurred": (whole("x.jpg", Image.fromarray(MASK * 80), quality=30), "JPEG"),
    "turned": (whole("x.png", Image.fromarray(np.ascontiguousarray(MASK.T))), "is 20 x 24"),
    "of another size": (whole("x.png", Image.fromarray(MASK[:20])), "is 20 x 20"),
    "a value beyond": (whole("x.png", Image.fromarray(MASK + np.uint8(1))), "known are 0 to 2"),
    "a value of 16 bits": (whole("x.png", Image.fromarray(MASK.astype(np.uint16) * 300)), "known are 0 to 2"),
    "255 for two labels": (whole("x.png", Image.fromarray((MASK > 0) * np.uint8(255))), "known are 0 to 2"),
    "a fraction": (whole("x.tif", Image.fromarray(MASK.astype(np.float32) / 3)), "not whole numbers"),
    "white is zero": (whole("x.tif", Image.fromarray(MASK), tiffinfo={262: 0}), "white is zero|known are 0 to 2"),
    "two pages": (whole("x.tif", Image.fromarray(MASK), **TWO), "2 pages"),
    "below 0": (whole("x.tif", Image.fromarray(MASK.astype(np.int32) - 1)), "known are 0 to 2"),
    "a JPEG of small numbers": (whole("x.jpg", Image.fromarray(MASK)), "is a JPEG of small numbers"),
    "JPEG with another name": (renamed(whole("x.jpg", Image.fromarray(MASK * 80)), "x.png"), "known are 0 to 2"),
    "an animation": (renamed(whole("x.gif", Image.fromarray(MASK), **TWO), "x.png"), "2 pages"),
    "of two axes": (nifti(np.ascontiguousarray(LABEL[..., 0])), "has two axes"),
    "a volume": (nifti(LABEL), "is 12 x 10 x 9"),
}  # fmt: skip
