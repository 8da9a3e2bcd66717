"""The results as a picture: how many times faster than the yardstick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw(found: dict[str, Any], path: Path) -> None:
    rows = []
    for name, job in found["jobs"].items():
        if name.startswith("growth") or len(job["runs"]) < 2:
            continue
        whole = job["runs"][job["yardstick"]]["median"]
        for contender, result in job["runs"].items():
            rows.append((f"{name}: {contender}", whole / result["median"], contender))
    figure = Figure(figsize=(11, 0.24 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:blue" if contender.startswith("sam_monai") else "lightgrey" for _, _, contender in rows]
    bars = axes.barh(range(len(rows)), [value for _, value, _ in rows], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="times as fast as the last of its job", title=found["device"])
    figure.savefig(path, dpi=150)
