"""What is kept of a study, and how it is told whether it is done."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.dicom_series import is_dicom, series_of
from ..data.frames import together
from ..data.itk_headers import with_values
from ..errors import input_error_in
from ..networks.regions import Regions, masks_of
from ..prompts.prompt_files import prompts_beside
from ..prompts.schema import corrects, read_objects
from .quality import CERTAINTY, KEY

Record = dict[str, Any]
SEEN = "trained on"
CORRECTED = "corrected"  # of a record: the labels that prompts corrected, where there are such
PROMPTED = "prompted"  # of a record: how many objects the prompts ask for, where the image has any


def read_record(file: Path) -> Record | None:
    """What a file of the manifest says, or ``None`` where it is no record of a study."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("image"), str) or "\0" in record["image"]:
        return None
    if not isinstance(record.get("error"), str):
        return None
    if record["error"]:
        return record
    counts = [(record.get("voxels"), int | float), (record.get("millilitres", {}), int | float)]
    counts += [(record.get(key, {}), int | float | None) for key in (KEY, CERTAINTY)]
    numbers = all(
        isinstance(held, dict) and all(key.isdecimal() and isinstance(value, kind) for key, value in held.items())
        for held, kind in counts
    )
    mask, state = record.get("mask"), record.get("state")
    numbers = numbers and type(record.get(PROMPTED, 0)) is int
    if not numbers or state is None or not isinstance(mask, str) or Path(mask).is_absolute():
        return None
    return record if Path(mask).name and ".." not in Path(mask).parts else None


def named(record: Record) -> str:
    """The error of a study, with its image's name once."""
    error, image = record["error"], record["image"]
    return error if error.startswith(image) else f"{image}: {error}"


def fingerprint(*images: str | Path, prompts: Path | None = None) -> list[int]:
    """What is known without reading of an image's files or folders, and of its file of prompts: their number, their
    bytes, the time of the last change, and a checksum of all names, sizes and times."""
    files: list[Path] = []
    for path in map(Path, images):
        files += series_of(path).files if path.is_dir() or is_dicom(path) else with_values(path)
    files += [prompts] if prompts is not None and prompts.exists() else []
    states = [file.stat() for file in files]
    each = [(file.name, s.st_size, s.st_mtime_ns) for file, s in zip(files, states, strict=True)]
    last = max((s.st_mtime_ns for s in states), default=0)
    return [len(states), sum(s.st_size for s in states), last, zlib.crc32(repr(sorted(each)).encode())]


def of_prompts(image: str, dims: int) -> Record:
    """What a record says of the prompts beside an image."""
    file = prompts_beside(image)
    objects = read_objects(file, dims)
    if not corrects(file):
        return {PROMPTED: len(objects)}  # the last ones may have been answered with nothing
    return {CORRECTED: list(dict.fromkeys(one["label"] for one in objects))} if objects else {}


def voxels(mask: Tensor, regions: Regions | None = None) -> dict[str, int]:
    """How many voxels each label has, by its number."""
    if regions is not None:
        found = masks_of(together(mask), len(regions), regions)
        return {str(i): n for i, one in enumerate(found, 1) if (n := int(one.sum()))}
    values, counts = mask.unique(return_counts=True)
    return {str(int(v)): int(n) for v, n in zip(values, counts, strict=True) if v > 0}


def cause_of(error: BaseException) -> str:
    """The message for people, or what Python says."""
    return str(input_error_in(error) or f"{type(error).__name__}: {error}")


def by_depth(network: Any) -> dict[str, int]:
    """How many slices pass together, where those of volumes see each other, which decides what a mask is like."""
    module = getattr(network, "module", network)
    volumes = getattr(module, "preprocessing", {}).get("spatial_dims") == 3
    deep = volumes and getattr(module, "depth_attention", False)
    return {"slices_per_batch": module.slices_per_batch} if deep else {}
