"""Keys in words, for the command line and the documentation.

The command line answers a mistake before it imports torch and MONAI, so this module must not import them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from .keys import KEYS

# Each by the first of its keys.
HEADS = {"dataset_dir": "Data", "minutes": "Time", "backbone": "Network", "scale": "Scale", "batch_size": "Training",
         "largest_component": "Masks", "device": "Device and folders", "mask_format": "Results"}  # fmt: skip


def default_of(name: str, value: Any) -> str:
    """What a configuration's value is where nothing else is said, for people."""
    if isinstance(value, str) and (usual := re.fullmatch(r"\$\S+ if @quick else (\S+)", value)):
        value = ast.literal_eval(usual[1])
    if isinstance(value, str) and value.startswith("$@record["):
        return "as trained"
    if value is None:
        return KEYS[name].default or "None"
    if isinstance(value, str) and (otherwise := re.fullmatch(r"\$@(\w+) if @(\w+) else (\S+)", value)):
        return f"{otherwise[3]}, with {otherwise[2]} that of {otherwise[1]}"
    return KEYS[name].default or "as trained" if isinstance(value, str) and value[:1] in ("$", "@") else str(value)


def in_words(config: Mapping[str, Any]) -> str:
    """A configuration's keys, for people, under heads: default, meaning, what is allowed."""
    lines, head, last = [], "", ""
    for name, key in KEYS.items():
        head = HEADS.get(name, head)
        if name not in config:
            continue
        if head != last:
            lines += ["", head.upper()] if lines else [head.upper()]
            last = head
        lines.append(f"--{name}  (default: {default_of(name, config[name])})")
        lines.append(f"    {unlinked(key.help)}: {key.kind.words}")
    return "\n".join(lines)


def unlinked(text: str) -> str:
    """A text of the documentation for a terminal: a page in parentheses is named, other links are their words."""
    text = re.sub(r"\(\[[^]]*\]\(([^)#]+)[^)]*\)\)", r"(docs/\1)", text)
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
