"""What was typed on a command line: keys and values, and whether there are such keys.

The command line answers a mistake before it imports torch and MONAI, so this module must not import them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..errors import InputError
from .keys import KEYS


def arguments(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Keys and values of a command line as they were typed, and the words that belong to no key, by the rules of fire,
    which hands them to MONAI as what they look like in Python."""
    given, others = {}, []
    words = [*words, "--"]
    at = 0
    while at < words.index("--"):
        word, following = words[at], words[at + 1]
        at += 1
        if not is_flag(word):
            others.append(word)
            continue
        key, has_value, value = word.lstrip("-").partition("=")
        if not has_value:
            value, at = ("True", at) if is_flag(following) else (following, at + 1)
        given[key.replace("-", "_")] = value
    return given, others


def refuse_valueless(words: Sequence[str], keys: Collection[str]) -> None:
    """Refuse one of ``keys`` that stands at the end or before another key, which fire would take for ``True``."""
    for word, following in pairwise([*words, "--"]):
        key = word.lstrip("-").replace("-", "_")
        if is_flag(word) and is_flag(following) and key in keys:
            raise InputError(f"--{key} needs a value: give it as --{key} VALUE")


def refuse_single_dash(words: Sequence[str]) -> None:
    """Refuse a key behind a single dash, which fire would take in silence for one behind two."""
    for word in words:
        if is_flag(word) and word[1] != "-" and word != "-h":
            raise InputError(f"{word}: keys begin with two dashes: -{word}")


def is_flag(word: str) -> bool:
    return re.match(r"--|-[a-zA-Z]", word) is not None


def is_expression(value: Any) -> bool:
    return isinstance(value, str) and value[:1] in ("$", "@", "%")


def refuse_unknown(given: Collection[str], config: Mapping[str, Any], options: Collection[str]) -> None:
    """Refuse a key that was ``given`` and is neither in the configuration ``config`` nor an option of the program; name
    the nearest."""
    for key in given:
        path = key.lstrip("+").replace("::", "#").split("#")
        # The last part of a nested key may be new: "_disabled_", or an argument that the file leaves at its default.
        wanted = path[:1] if len(path) == 1 else path[:-1]
        if key not in options and not _holds(config, wanted):
            known = [name for name in config if name in KEYS] or [name for name in config if name[0] != "_"]
            near = difflib.get_close_matches(path[0], [*known, *options], n=1)
            hint = f"did you mean --{near[0]}?" if near else f"keys are {', '.join(known)}"
            raise InputError(f"unknown key --{key}: {hint}")


def refuse_lone(others: Sequence[str]) -> None:
    """Refuse a word that belongs to no key."""
    if others:
        raise InputError(f"{others[0]!r} stands alone: keys are given as --key value")


def _holds(config: Any, path: Sequence[str]) -> bool:
    for part in path:
        if isinstance(config, Mapping) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            # What a reference or an expression stands for is not known here.
            return isinstance(config, str)
    return True


def literal(text: str) -> str:
    """A configuration's value that MONAI takes for this very text, whatever is in it: what it would run, look up, read
    from a file or alter stands escaped in an expression."""
    return f"${quoted(text)}" if re.search(r"[$@%#]|::", text) else text


def quoted(text: str) -> str:
    """A text as it stands in an expression of a configuration."""
    return re.sub(r"[$@%#:]", lambda found: f"\\x{ord(found[0]):02x}", ascii(text))
