"""What an adapter is for: a short record that travels in its state dict as bytes, and the one schema of such records.

A record comes from anywhere, and values of it go into configurations, which MONAI runs. So it is checked wherever it is
read or written: known keys alone, each of its type and range, and no string that a configuration would run or look up.

A method declares the keys of its own in its network class, by ``own``. A key that all methods share is declared in
:data:`COMMON`, one about images in :data:`~sam_monai.networks.fields.PREPARATION`. A key that is added later
declares ``absent``, the value that older records without it are taken to have.
"""

from __future__ import annotations

import importlib
import json
import operator
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones.backbone import LARGEST
from ..errors import InputError
from .fields import (
    FLAG,
    NAMES,
    PREPARATION,
    RUN,
    SHARE,
    Field,
    absent,
    listed,
    mapping,
    number,
    one_of,
    optional,
    text,
    whole,
)

LENGTH = 4096  # the same for every adapter: MONAI skips a tensor of another shape in silence
METHODS: dict[str, Any] = {}  # network classes by their method; every subclass of AdaptedSAM enters itself
MIRROR = ("turns", "flips", "sides", "none")
IMAGE_SIZE = whole(32, LARGEST)
COMMON: dict[str, Field] = {
    "method": text("the name of a method"),
    "backbone": text("the name of known weights or of an architecture", r"[\w.+-]{1,100}"),
    "base": text("the hash of the base weights, 64 hexadecimal digits", r"[0-9a-f]{64}|random( \d{1,9})?"),
    "labels": NAMES,
    "image_size": IMAGE_SIZE,
    "resize": one_of("pad", "stretch"),
    "depth_attention": FLAG,
    "channel_names": PREPARATION["channel_names"],
    "temperature": number(0.01, 100)._replace(absent=1.0),  # see sam_monai.inference.calibration
    "preprocessing": mapping(PREPARATION),
}


def are_settings(value: Any) -> bool:
    plain = bool | int | float | None
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and key.isidentifier() and isinstance(one, plain) for key, one in value.items()
    )


COUNT = whole(0, 10**9)
HASHES = listed(text("a hash of 16 hexadecimal digits", r"[0-9a-f]{16}"), 0, 10**6)._replace(needed=False)
PLAN: dict[str, Field] = {
    "scale": PREPARATION["scale"],
    "spacing": PREPARATION["spacing"]._replace(absent=None),
    "image_size": IMAGE_SIZE,
    "batch_size": COUNT._replace(needed=False),  # planned later than the others
    "epochs": COUNT,
    "mirror": one_of(*MIRROR)._replace(absent="turns"),
    "val_interval": number(1, 1e9),
    "checkpointing": FLAG,
    "minutes": optional(number(0, 1e9)),
    "seconds": number(0, 1e9),
    "validation": number(0, 1e9),
}
RECKONED = ("seconds", "validation", "epochs", "val_interval")  # of a plan: how it was to end, not how it ended
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
    "steps": COUNT._replace(needed=False),  # in all; adapters of before have none
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
    "missed_by_label": listed(listed(COUNT, 2, 2), 1, 9999)._replace(
        needed=False
    ),  # and of how many cases that hold it
    "calibration_error": listed(SHARE, 2, 2)._replace(needed=False),  # at temperature 1, and at the adapter's
    "guess": mapping(GUESS, every=True)._replace(needed=False),
    "settings": Field("a dict of keys and numbers", are_settings, needed=False),
}


def methods() -> dict[str, Any]:
    """Every network class by its ``method``: those of this folder, and what else was imported."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__name__.rpartition('.')[0]}.{module.name}")
    return METHODS


def title_of(method: str) -> str:
    """A method's name for people."""
    return getattr(methods()[method], "title", "") or method


def check(record: Any) -> dict[str, Any]:
    """A record as it is, with what later keys mean where it has none. Refuses anything that no record of ours holds."""
    if not isinstance(record, dict):
        raise InputError(f"the adapter's record is {type(record).__name__} and not a dict: the file is damaged")
    method, known = record.get("method"), METHODS
    if not isinstance(method, str) or method not in known:
        known = methods()
    if not isinstance(method, str) or method not in known:
        raise InputError(f"the adapter's method is {short(method)}; this sam_monai has {', '.join(sorted(known))}")
    if record.get("detail") is False:  # an option of before, which few adapters have
        record = {key: value for key, value in record.items() if key != "detail"}
    record = checked(record, COMMON | known[method].own, "the adapter's record")
    regions = record["preprocessing"].get("regions")
    if record["preprocessing"].get("instances") and (
        len(record["labels"]) != 2 or regions is not None or record["preprocessing"].get("spatial_dims") != 2
    ):
        raise InputError(
            "the adapter's record has instances, which are of pictures and two labels: the file is damaged"
        )
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
    """Values with those of absent keys. Refuses an unknown, a missing or a wrong key; ``what`` says whose."""
    values = absent(fields) | dict(values)
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{what} has the key {short(key)}, which is not known: it has {', '.join(fields)}")
        for string in strings(value):
            if RUN.match(string) or not string.isprintable():
                raise InputError(
                    f"{what} holds {short(string)} in {key}, which a configuration would run or look up, or which is "
                    "no plain text: rename it"
                )
        if not fields[key].fits(value):
            raise InputError(f"{what}: {key} is {short(value)}; it is {fields[key].words}")
    if missing := [key for key, field in fields.items() if field.needed and key not in values]:
        raise InputError(f"{what} has no {', '.join(missing)}: the file is damaged, or of another version of sam_monai")
    return values


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
    """A record as uint8 tensor (4096,), padded JSON. A string in a state dict breaks federated learning."""
    plain = operator.methodcaller("item")  # numpy's numbers are numbers too
    data = json.dumps(check(record), ensure_ascii=False, separators=(",", ":"), default=plain).encode()
    if len(data) > LENGTH:
        raise InputError(f"the label names are too long: the adapter's record takes {len(data)} bytes of {LENGTH}")
    return torch.frombuffer(bytearray(data.ljust(LENGTH)), dtype=torch.uint8).clone()


def from_tensor(tensor: Tensor) -> dict[str, Any]:
    """The record back. A floating-point average of equal bytes is read too."""
    try:
        if tensor.shape != (LENGTH,):
            raise ValueError(f"it is a tensor of shape {tuple(tensor.shape)}")
        record = json.loads(bytes(tensor.detach().cpu().round().to(torch.uint8).tolist()))
    except (ValueError, RuntimeError, RecursionError, TypeError) as error:
        raise InputError(f"the adapter's identity cannot be read ({error}): the file is damaged") from error
    return check(record)
