"""Tables as CSV files in which a spreadsheet finds names and numbers, and nothing to compute."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FORMULA = tuple("=+-@\t\r")  # what a spreadsheet computes, and may let it start a program
TEXT = "'"  # before it, which spreadsheets take for "this is text"


def write_table(path: Path, heads: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, of which other keys are left out. A text that a spreadsheet would compute, and one that begins with
    an apostrophe, gets an apostrophe in front; :func:`read_table` takes it off again."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, heads, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({key: as_text(value) for key, value in row.items()} for row in rows)


def as_text(value: Any) -> Any:
    return f"{TEXT}{value}" if isinstance(value, str) and value.lstrip(" ").startswith((*FORMULA, TEXT)) else value


def read_table(path: Path) -> list[dict[str, Any]]:
    """What :func:`write_table` wrote, all of it texts. A ValueError or a ``csv.Error`` for what is no such table."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if odd := [number for number, row in enumerate(rows, 2) if None in row]:
        raise ValueError(f"line {odd[0]} has more cells than there are columns")
    return [{key: (value or "").removeprefix(TEXT) for key, value in row.items()} for row in rows]
