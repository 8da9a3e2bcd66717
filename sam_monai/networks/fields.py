"""A small language for what a key may hold: in words, and as a test.

Both the keys of configurations and the keys of adapters' records are written in it. The command line answers a mistake
before it imports torch and MONAI, so this module must not import them.
"""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from .regions import wrong_with

# What MONAI's configurations run, look up or act upon.
RUN = re.compile(r"\s*[$@%]|.*[@%][\w.]*(#|::)|_\w+_$", re.DOTALL)
CODE = r"[A-Z]{2,16}"  # of a modality, as DICOM has them: CT, MR, PT
PLANES = ("axial", "coronal", "sagittal")  # as in sam_monai.data.slicing; a test compares
MOST_CHANNELS = 64  # of an image


class Field(NamedTuple):
    """By default a record must have the key. ``needed`` false: it may be missing. ``absent``: what a record without the
    key means, which then gets it."""

    words: str
    fits: Callable[[Any], bool]
    needed: bool = True
    absent: Any = ...


def plain(value: Any) -> Any:
    """A value as JSON holds it, so that tuples, and numpy's numbers and arrays, compare with what a file gave back."""
    return json.loads(
        json.dumps(value, default=lambda other: other.tolist() if hasattr(other, "tolist") else str(other))
    )


def is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def real(value: Any) -> Any:
    """The number, of any type, as Python's; NaN where it is none. numpy's of few bits overflow where they are compared
    with large ones."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    return cast(Any, value).item() if hasattr(value, "item") else value


def is_number(value: Any) -> bool:
    """Finite, and no larger than a float may be."""
    return -1e300 < real(value) < 1e300


def is_name(value: Any) -> bool:
    """Of a label or a channel: not blank, and nothing that a configuration would run, look up or act upon."""
    return isinstance(value, str) and value.strip() != "" and not RUN.match(value)


def are_names(value: Any, least: int = 1) -> bool:
    names = [name.strip() for name in value if is_name(name)] if isinstance(value, list | tuple) else []
    return len(names) >= least and len({*names}) == len(value)


def are_axis_codes(value: Any) -> bool:
    axes = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
    return isinstance(value, str) and sorted(axes.get(code, -1) for code in value) == [0, 1, 2]


def whole(low: int, high: float = math.inf, step: int = 1) -> Field:
    words = f"a whole number from {low} {'on' if high == math.inf else f'to {high}'}"
    return Field(
        f"{words}, a multiple of {step}" if step > 1 else words,
        lambda v: is_whole(v) and low <= v <= high and v % step == 0,
    )


def number(low: float, high: float = math.inf) -> Field:
    words = f"a number from {low:g} {'on' if high == math.inf else f'to {high:g}'}"
    return Field(words, lambda v: is_number(v) and low <= real(v) <= high)


def text(words: str, pattern: str = r"(?s).{1,200}") -> Field:
    return Field(words, lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None)


def one_of(*choices: Any) -> Field:
    # By type as well, for 2.0 == 2 and True == 1.
    return Field(
        "one of " + ", ".join(map(str, choices)), lambda v: any(type(v) is type(c) and v == c for c in choices)
    )


def listed(field: Field, least: int, most: int) -> Field:
    size = f"{least}" if least == most else f"{least} to {most}"
    return Field(
        f"a list of {size}, each {field.words}",
        lambda v: isinstance(v, list | tuple) and least <= len(v) <= most and all(map(field.fits, v)),
    )


def mapping(fields: Mapping[str, Field], every: bool = False) -> Field:
    """A dict of some, or of all, of these keys."""
    return Field(
        f"a dict of {', '.join(fields)}",
        lambda v: (
            isinstance(v, Mapping)
            and all(key in fields and fields[key].fits(v[key]) for key in v)
            and (len(v) == len(fields) or not every)
        ),
    )


def optional(field: Field, meaning: str = "") -> Field:
    words = f"{field.words}, or None ({meaning})" if meaning else f"{field.words}, or None"
    return field._replace(words=words, fits=lambda v: v is None or field.fits(v))


def absent(fields: Mapping[str, Field]) -> dict[str, Any]:
    """What later keys mean where a record has none."""
    return {key: field.absent for key, field in fields.items() if field.absent is not ...}


FLAG = one_of(True, False)._replace(words="True or False")
POSITIVE = Field("a number above 0", lambda v: is_number(v) and v > 0)
SHARE = number(0, 1)
NAMES = Field(
    "a list of different names, none of which begins with $, @ or %, for MONAI would run it: ['liver', 'spleen']",
    are_names,
)
KIND = one_of("ct", "mr", "picture")
WINDOW = Field(
    "two numbers, the lower first: [-160, 240]",
    lambda v: isinstance(v, list | tuple) and len(v) == 2 and all(map(is_number, v)) and v[0] < v[1],
)
# What images are, and how they are prepared, in a record.
PREPARATION: dict[str, Field] = {
    "spatial_dims": one_of(2, 3),
    "intensity": Field(
        f"{KIND.words}, or a list with one for each channel",
        lambda v: KIND.fits(v) or listed(KIND, 2, MOST_CHANNELS).fits(v),
    ),
    "ct_window": optional(WINDOW),
    "orientation": Field(
        f"coarsest, {', '.join(PLANES)}, or three axis codes such as RAS",
        lambda v: v in ("coarsest", *PLANES) or are_axis_codes(v),
    ),
    "spacing": optional(listed(number(1e-6, 1e6), 2, 3)),
    "channels": optional(
        listed(whole(0, 9999), 1, MOST_CHANNELS)._replace(words="a list of channels, counted from 0: [0]"),
        "as in the file",
    ),
    # 1 is grey; 3 are colours where they are not named.
    "image_channels": optional(whole(1, MOST_CHANNELS), "not checked")._replace(absent=None),
    "channel_names": optional(
        Field(f"a list of at least two names: {NAMES.words}", lambda v: are_names(v, least=2)), "grey or colours"
    )._replace(absent=None),
    "regions": optional(
        Field(
            "for each label a list of its values in label files, first the one that a mask holds where no later label "
            "lies: [[1, 2, 3], [2, 3], [3]]",
            lambda v: not wrong_with(v),
        ),
        "one value each: 1, 2, ...",
    )._replace(absent=None),
    "modality": optional(
        listed(text("a code", CODE), 1, 16)._replace(words="a list of DICOM's codes, such as ['CT'] or ['CT', 'PT']"),
        "not checked",
    )._replace(absent=None),
    "frames": FLAG._replace(absent=False),  # whether the training's files held frames, each an image
    "frames_together": FLAG._replace(absent=False),  # whether depth attention looks along time
    "instances": FLAG._replace(absent=False),  # whether the labels are the inside and the border of objects
    "scale": one_of("whole", "patch"),
}
