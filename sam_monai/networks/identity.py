"""What an adapter is for: a short record that travels in its state dict as bytes, and the one schema of such records.

A record comes from anywhere, and values of it go into configurations, which MONAI runs. So it is checked wherever it is
read or written: known keys alone, each of its type and range, and no string that a configuration would run or look up.

A method declares the keys of its own in its network class, by ``own``. A key that all methods share is declared in
:data:`COMMON`, one about images in :data:`PREPARATION`. A key that is added after adapters were written has ``absent``,
what records without it mean.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backbones.backbone import LARGEST
from ..errors import InputError
from .regions import wrong_with

LENGTH = 4096  # the same for every adapter: MONAI skips a tensor of another shape in silence
# What MONAI's configurations run, look up or act upon.
RUN = re.compile(r"\s*[$@%]|.*[@%][\w.]*(#|::)|_\w+_$", re.DOTALL)
MOST_CHANNELS = 64  # of an image
METHODS: dict[str, Any] = {}  # network classes by their method; every subclass of AdaptedSAM enters itself


class Field(NamedTuple):
    """What a key may hold: in words, and as a test. By default the key must be there. ``needed`` false: it may be
    missing. ``absent``: what a record without the key means, which then gets it."""

    words: str
    fits: Callable[[Any], bool]
    needed: bool = True
    absent: Any = ...


def whole(low: int, high: int) -> Field:
    return Field(f"a whole number from {low} to {high}", lambda v: is_a(v, int) and low <= v <= high)


def number(low: float, high: float) -> Field:
    return Field(f"a number from {low:g} to {high:g}", lambda v: is_a(v, int | float) and low <= v <= high)


def is_a(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def text(words: str, pattern: str = r"(?s).{1,200}") -> Field:
    return Field(words, lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None)


def one_of(*values: Any) -> Field:
    kinds = set(map(type, values))  # 1 is not True
    return Field(" or ".join(map(repr, values)), lambda v: type(v) in kinds and v in values)


def listed(field: Field, least: int, most: int) -> Field:
    size = f"{least}" if least == most else f"{least} to {most}"
    return Field(
        f"a list of {size}, each {field.words}",
        lambda v: isinstance(v, list | tuple) and least <= len(v) <= most and all(map(field.fits, v)),
    )


def mapping(fields: Mapping[str, Field]) -> Field:
    """A dict of some or all of these keys."""
    return Field(
        f"a dict of {', '.join(fields)}",
        lambda v: isinstance(v, Mapping) and all(key in fields and fields[key].fits(v[key]) for key in v),
    )


def all_of(fields: Mapping[str, Field]) -> Field:
    """A dict of all of these keys."""
    some = mapping(fields)
    return some._replace(fits=lambda v: some.fits(v) and len(v) == len(fields))


def optional(field: Field) -> Field:
    return field._replace(words=f"{field.words}, or null", fits=lambda v: v is None or field.fits(v))


def are_labels(value: Any) -> bool:
    names = [v.strip() if isinstance(v, str) else "" for v in value] if isinstance(value, list | tuple) else []
    return bool(names) and all(names) and len(set(names)) == len(names)


def are_settings(value: Any) -> bool:
    plain = bool | int | float | None
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and key.isidentifier() and isinstance(one, plain) for key, one in value.items()
    )


FLAG = one_of(True, False)
CODE = r"[A-Z]{2,16}"  # of a modality, as DICOM has them: CT, MR, PT
MIRROR = ("turns", "flips", "sides", "none")
LABELS = Field("a list of names, each there once and not empty, as in ['liver', 'spleen']", are_labels)
CHANNEL_NAMES = optional(
    Field("a list of at least two names, each there once, as in ['T1', 'T2']", lambda v: are_labels(v) and len(v) > 1)
)
INTENSITY = one_of("ct", "mr", "picture")
IMAGE_SIZE = whole(32, LARGEST)
POSITIVE = number(1e-6, 1e6)
WINDOW = listed(number(-1e6, 1e6), 2, 2)
PREPARATION: dict[str, Field] = {
    "spatial_dims": one_of(2, 3),
    "intensity": Field(
        f"{INTENSITY.words}, or a list of these, one for each channel",
        lambda v: INTENSITY.fits(v) or listed(INTENSITY, 2, MOST_CHANNELS).fits(v),
    ),
    "ct_window": optional(Field("a lower and a higher number", lambda v: WINDOW.fits(v) and v[0] < v[1])),
    "orientation": text("coarsest, a plane, or MONAI's axis codes", "coarsest|axial|coronal|sagittal|[RLAPSI]{3}"),
    "spacing": optional(listed(POSITIVE, 2, 3)),
    "channels": optional(listed(whole(0, 9999), 1, MOST_CHANNELS)),
    "image_channels": optional(whole(1, MOST_CHANNELS))._replace(absent=None),  # 1: grey; 3: colours, where not named
    "channel_names": CHANNEL_NAMES._replace(absent=None),
    "regions": Field(
        "null, or for each label a list of its values in label files, as in [[1, 2, 3], [2, 3], [3]]",
        lambda v: v is None or not wrong_with(v),
        absent=None,
    ),
    "modality": optional(listed(text("a modality's code, as CT or MR", CODE), 1, 16))._replace(absent=None),
    "frames": FLAG._replace(absent=False),  # whether the training's files held frames, each an image
    "scale": one_of("whole", "patch"),
}
COMMON: dict[str, Field] = {
    "method": text("the name of a method"),
    "backbone": text("the name of known weights or of an architecture", r"[\w.+-]{1,100}"),
    "base": text("the hash of the base weights, 64 hexadecimal digits", r"[0-9a-f]{64}|random( \d{1,9})?"),
    "labels": LABELS,
    "image_size": IMAGE_SIZE,
    "resize": one_of("pad", "stretch"),
    "depth_attention": FLAG,
    "channel_names": CHANNEL_NAMES._replace(absent=None),
    "temperature": number(0.01, 100)._replace(absent=1.0),  # see sam_monai.inference.calibration
    "preprocessing": mapping(PREPARATION),
}
COUNT = whole(0, 10**9)
HASHES = listed(text("a hash", r"[0-9a-f]{1,64}"), 0, 10**6)._replace(needed=False)
PLAN: dict[str, Field] = {
    "scale": PREPARATION["scale"],
    "image_size": IMAGE_SIZE,
    "epochs": COUNT,
    "mirror": one_of(*MIRROR)._replace(absent="turns"),
    "val_interval": number(1, 1e9),
    "checkpointing": FLAG,
    "minutes": optional(number(0, 1e9)),
    "seconds": number(0, 1e9),
    "validation": number(0, 1e9),
}
SHARE = number(0, 1)
GUESS: dict[str, Field] = {  # see sam_monai.inference.quality
    "masks": whole(1, 10**9),
    "guess": SHARE,
    "dice": SHARE,
    "error": SHARE,
    "correlation": optional(number(-1, 1)),
}
TRAINING: dict[str, Field] = {  # the summary beside a record
    "sam_monai": text("a version"),
    "epochs": COUNT,
    "best_epoch": COUNT,
    "validation_dice": optional(number(-1e6, 1e6)),
    "training_cases": COUNT,
    "validation_cases": COUNT,
    "date": text("a date"),
    "training_hashes": HASHES,
    "validation_hashes": HASHES,
    "training_voxels": HASHES,  # of what the images show, whatever files hold them
    "quick": FLAG._replace(needed=False),
    "plan": mapping(PLAN)._replace(needed=False),
    "dice_by_label": listed(optional(SHARE), 1, 9999)._replace(needed=False),
    "calibration_error": listed(SHARE, 2, 2)._replace(needed=False),  # at temperature 1, and at the adapter's
    "guess": all_of(GUESS)._replace(needed=False),
    "settings": Field("a dict of keys and numbers", lambda v: are_settings(v), needed=False),
}


def methods() -> dict[str, Any]:
    """Every network class by its ``method``: those of this folder, and what else was imported."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__name__.rpartition('.')[0]}.{module.name}")
    return METHODS


def check(record: Any) -> dict[str, Any]:
    """A record as it is, with what later keys mean where it has none.

    Raises:
        InputError: anything in it that no record of ours holds; names the key.
    """
    if not isinstance(record, dict):
        raise InputError(f"the adapter's record is {type(record).__name__} and not a dict: the file is damaged")
    method, known = record.get("method"), METHODS
    if not isinstance(method, str) or method not in known:
        known = methods()
    if not isinstance(method, str) or method not in known:
        raise InputError(f"the adapter's method is {short(method)}; this sam_monai has {', '.join(known)}")
    if record.get("detail") is False:  # an option of before, which few adapters have
        record = {key: value for key, value in record.items() if key != "detail"}
    record = checked(record, COMMON | known[method].own, "the adapter's record")
    regions = record["preprocessing"].get("regions")
    if regions is not None and len(regions) != len(record["labels"]):
        raise InputError(f"the adapter's record has {len(record['labels'])} labels and {len(regions)} regions in "
                         "preprocessing: the file is damaged")  # fmt: skip
    return record


def check_training(summary: Any) -> dict[str, Any]:
    """Likewise for the summary of a training in an adapter's file."""
    if not isinstance(summary, dict):
        raise InputError(f"the training's summary is {type(summary).__name__} and not a dict: the file is damaged")
    return checked(summary, TRAINING, "the training's summary")


def checked(values: Mapping[str, Any], fields: Mapping[str, Field], what: str) -> dict[str, Any]:
    """Values with those of absent keys.

    Raises:
        InputError: an unknown, a missing or a wrong key; ``what`` says whose.
    """
    values = absent(fields) | dict(values)
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{what} has the key {short(key)}, which is not known: it has {', '.join(fields)}")
        for string in strings(value):
            if RUN.match(string) or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in string):
                raise InputError(
                    f"{what} holds {short(string)} in {key}, which a configuration would run or look up, or which is "
                    "no plain text: rename it"
                )
        if not fields[key].fits(value):
            raise InputError(f"{what}: {key} is {short(value)}; it is {fields[key].words}")
    if missing := [key for key, field in fields.items() if field.needed and key not in values]:
        raise InputError(f"{what} has no {', '.join(missing)}: the file is damaged, or of another version of sam_monai")
    return values


def absent(fields: Mapping[str, Field]) -> dict[str, Any]:
    """What later keys mean where a record has none."""
    return {key: field.absent for key, field in fields.items() if field.absent is not ...}


def strings(value: Any) -> Iterator[str]:
    """Every string inside, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value:
            yield from strings(part)
        if isinstance(value, Mapping):
            yield from strings(list(value.values()))


def short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:77]}..."


def to_tensor(record: dict[str, Any]) -> Tensor:
    """A record as uint8 tensor (4096,), padded JSON. A string in a state dict breaks federated learning.

    Raises:
        InputError: what :func:`check` refuses, or a record that is too long, in practice by its label names.
    """
    data = json.dumps(check(record), ensure_ascii=False, separators=(",", ":")).encode()
    if len(data) > LENGTH:
        raise InputError(f"the label names are too long: the adapter's record takes {len(data)} bytes of {LENGTH}")
    return torch.frombuffer(bytearray(data.ljust(LENGTH)), dtype=torch.uint8).clone()


def from_tensor(tensor: Tensor) -> dict[str, Any]:
    """The record back. A floating-point average of equal bytes is read too.

    Raises:
        InputError: the tensor holds no record, or one that :func:`check` refuses.
    """
    try:
        if tensor.shape != (LENGTH,):
            raise ValueError(f"it is a tensor of shape {tuple(tensor.shape)}")
        record = json.loads(bytes(tensor.detach().cpu().round().to(torch.uint8).tolist()))
    except (ValueError, RuntimeError, RecursionError, TypeError) as error:
        raise InputError(f"the adapter's identity cannot be read ({error}): the file is damaged") from error
    return check(record)
