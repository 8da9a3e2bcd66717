"""A report to look at: one HTML file that needs nothing else, with pictures, tables and curves."""

from __future__ import annotations

import base64
import html
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from ..inference.outputs import RUN, Outputs
from .metrics import METRICS, mean, summary

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 } th, td { padding: .2em .8em; text-align: right }
th { border-bottom: 1px solid #999 } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) td { background: #f4f4f4 } img { max-width: 100% } .error { color: #a00 }
section { border-top: 1px solid #ddd; margin-top: 1.5em } h2 { font-size: 1.1em } body { overflow-wrap: anywhere }
"""
HEADS = {"dice": "Dice", "hd95": "HD95", "surface_dice": "surface Dice", "ml": "prediction, ml",
         "false_positive": "false positive"}  # fmt: skip


def evaluation_report(
    rows: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Path],
    settings: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    path: str | Path,
    curves: Sequence[Path] = (),
) -> Path:
    """Write what an evaluation found, the worst cases first.

    Args:
        rows: a case and label each, as in ``cases.csv``.
        pictures: of the cases, by their names.
        settings: whatever the reader should know of the run.
        history: of the training, an epoch each: ``epoch``, ``loss`` and, where there was a validation, ``dice``.
        path: of the HTML file.
        curves: further pictures, as far as they are there.
    """
    keys = [key for key in (*METRICS, "ml", "false_positive") if any(is_number(row.get(key)) for row in rows)]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    unit = "ml" if "ml" in keys else "pixels"
    means = []
    for name in labels:
        of = [row for row in rows if row["label"] == name]
        found = summary(of)
        volume = mean([row.get("ml", math.nan) for row in of])
        counts = [f"{found['held']} of {len(of)}", found["missed"], found["false_cases"], found["false_positive"]]
        means.append([name, *(found[key] for key in METRICS), *counts, volume])
    mean_heads = ["label", *(HEADS[key] for key in METRICS), "cases that hold it", "of these missed",
                  "false positive in", f"false positive, {unit}", HEADS["ml"]]  # fmt: skip
    cases = sorted({row["case"] for row in rows}, key=lambda name: worst_first(name, rows))
    sections = [
        section(case, table([[r["label"], *(r[k] for k in keys)] for r in rows if r["case"] == case],
                            ["label", *(HEADS[k] for k in keys)]), pictures.get(case))
        for case in cases
    ]  # fmt: skip
    curve = f"<h2>Training</h2>{picture(draw_history(history))}" if history else ""
    curve += "".join(picture(file.read_bytes()) for file in curves if file.is_file())
    body = [f"<h2>Means over {len(cases)} cases</h2>", table(means, mean_heads), curve]
    return write_page(path, "Evaluation", [*body, "<h2>Cases, the worst first</h2>", *sections, about(settings)])


def studies_report(
    records: Sequence[Mapping[str, Any]],
    labels: Mapping[str, Sequence[str]],
    pictures: Mapping[str, Path],
    settings: Mapping[str, Any],
    path: str | Path,
) -> Path:
    """Write what :class:`sam_monai.inference.studies.Studies` did: volumes of each label, failures first.

    Args:
        records: of the studies.
        labels: names of what each mask's values mean, by the image's path.
        pictures: likewise.
        settings: whatever the reader should know of the run.
        path: of the HTML file.
    """
    sections = []
    for record in sorted(records, key=lambda record: not record["error"]):
        image = record["image"]
        if record["error"]:
            content = f'<p class="error">{html.escape(record["error"])}</p>'
        else:
            volumes = record.get("millilitres", {})
            rows = [[name, record["voxels"].get(str(i), 0), volumes.get(str(i), 0.0 if volumes else None)]
                    for i, name in enumerate(labels[image], 1)]  # fmt: skip
            content = table(rows, ["label", "voxels", "ml"]) + f"<p>mask: {html.escape(record['mask'])}</p>"
        sections.append(section(image, content, pictures.get(image)))
    failed = sum(bool(record["error"]) for record in records)
    summary = f"<p>{len(records) - failed} studies segmented, {failed} not.</p>"
    return write_page(path, "Segmentation", [summary, *sections, about(settings)])


def write_page(path: str | Path, title: str, body: Sequence[str]) -> Path:
    path = Path(path)
    head = f'<meta charset="utf-8"><title>sam_monai: {title}</title><style>{STYLE}</style>'
    page = f"<!DOCTYPE html><html><head>{head}</head><body><h1>{title}</h1>{''.join(body)}</body></html>"
    Outputs(path.parent).write(page, path, RUN)
    return path


def section(title: str, content: str, file: Path | None) -> str:
    shown = picture(file.read_bytes()) if file is not None and file.is_file() else ""
    return f"<section><h2>{html.escape(title)}</h2>{content}{shown}</section>"


def picture(data: bytes) -> str:
    return f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def table(rows: Sequence[Sequence[Any]], heads: Sequence[str]) -> str:
    lines = ["".join(f"<th>{html.escape(head)}</th>" for head in heads)]
    lines += ["".join(f"<td>{html.escape(cell(value))}</td>" for value in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if value == math.inf:
        return "missed"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def about(settings: Mapping[str, Any]) -> str:
    versions = {name: version(name) for name in ("monai", "torch", "segment-anything", "kornia")}
    from .. import __version__

    rows = [[key, json.dumps(value, ensure_ascii=False, default=str)] for key, value in settings.items()]
    rows += [["sam_monai", __version__], *map(list, versions.items()), ["Python", platform.python_version()]]
    return "<section><h2>Settings and versions</h2>" + table(rows, ["", ""]) + "</section>"


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not math.isnan(value)


def worst_first(case: str, rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, str]:
    """Lowest Dice first; cases that hold no label last, those with the most false positives before the others."""
    of = [row for row in rows if row["case"] == case]
    dice = mean([row["dice"] for row in of])
    return (2.0 if math.isnan(dice) else dice, -summary(of)["false_positive"], case)


def draw_history(history: Sequence[Mapping[str, float]]) -> bytes:
    """Loss of every epoch and validation Dice of some, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    left = figure.subplots()
    left.plot([h["epoch"] for h in history], [h["loss"] for h in history], color="C0")
    left.set(xlabel="epoch")
    left.set_ylabel("training loss", color="C0")
    validated = [h for h in history if "dice" in h]
    if validated:
        right = left.twinx()
        right.plot([h["epoch"] for h in validated], [h["dice"] for h in validated], color="C1", marker="o", ms=3)
        right.set_ylabel("validation Dice", color="C1")
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
