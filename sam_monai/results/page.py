"""What pages to look at are made of: one HTML file that needs nothing else, for light and dark and for a phone."""

from __future__ import annotations

import base64
import html
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..inference.outputs import RUN, Outputs

STYLE = """
:root { color-scheme: light dark; --line: #ddd; --soft: #f5f5f5; --quiet: #666; --error: #a00 }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #222; --quiet: #aaa; --error: #f77 } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 78em; padding: 0 1em;
  overflow-wrap: anywhere }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em } h3 { font-size: 1em; margin: 1.5em 0 .3em }
.wide { overflow-x: auto } .side { display: flex; flex-wrap: wrap; gap: 0 3em; align-items: flex-start }
table { border-collapse: collapse; margin: .5em 0; font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { padding: .2em .7em; text-align: right; vertical-align: top } th { border-bottom: 1px solid var(--line) }
.words td, td:first-child, th:first-child { text-align: left; overflow-wrap: break-word; max-width: 24em;
  min-width: 4em }
tr:nth-child(even) td { background: var(--soft) } .words td:first-child { color: var(--quiet) }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24em), 1fr)); gap: 1em 2em }
svg { width: 100%; max-width: 36em; height: auto } img { max-width: 100%; background: #fff; border-radius: 4px }
@media (max-width: 40em) { section img { max-width: none; width: 60em }
  .wide::before { content: "↔"; color: var(--quiet) } }
.note { color: var(--quiet); font-size: .9em } .error { color: var(--error) }
section { border-top: 1px solid var(--line); margin-top: 1em }
"""


def write_page(path: str | Path, title: str, body: Sequence[str]) -> Path:
    path = Path(path)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    )
    page = f'<!DOCTYPE html><html lang="en"><head>{head}</head><body><h1>{html.escape(title)}</h1>{"".join(body)}'
    Outputs(path.parent).write(f"{page}</body></html>", path, RUN)
    return path


def section(title: str, content: str, file: Path | None) -> str:
    shown = picture(file.read_bytes(), title) if file is not None and file.is_file() else ""
    shown = f'<div class="wide">{shown}</div>' if shown else ""
    return f"<section><h3>{html.escape(title)}</h3>{content}{shown}</section>"


def picture(data: bytes, words: str) -> str:
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def table(rows: Sequence[Sequence[Any]], heads: Sequence[str]) -> str:
    lines = ["".join(f"<th>{html.escape(head)}</th>" for head in heads)]
    lines += ["".join(f"<td>{html.escape(cell(value))}</td>" for value in row) for row in rows]
    return '<div class="wide"><table>' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if value == math.inf:
        return "missed"
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if 5e-4 <= abs(value) < 1 else f"{value:.4g}"


def words(value: Any) -> str:
    """A setting's value for people."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def about(settings: Mapping[str, Any]) -> str:
    """Settings as tables, one for each group of them, and the versions of what has computed."""
    from .. import __version__

    groups: dict[str, dict[str, Any]] = {"Settings": {}}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            groups[key] = dict(value)
        else:
            groups["Settings"][key] = value
    versions = {name: version(name) for name in ("monai", "torch", "segment-anything", "kornia")}
    groups["Versions"] = {"sam_monai": __version__, **versions, "Python": platform.python_version()}
    tables = []
    for title, values in groups.items():
        rows = "".join(
            f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(words(value))}</td></tr>"
            for key, value in values.items()
        )
        tables += [f'<div><h3>{html.escape(title)}</h3><table class="words">{rows}</table></div>'] if values else []
    return f'<h2>Settings and versions</h2><div class="side">{"".join(tables)}</div>'
