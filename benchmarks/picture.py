"""The results as pictures: how many times faster than the yardstick, Dice beside a U-Net's, and Dice against time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
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


def draw_dice(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A row a dataset: Dice of the better U-Net, and of each other contender, mean over the seeds."""
    rows: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        rows.setdefault(cell["dataset"], {}).setdefault(cell["contender"], []).append(
            statistics.fmean(cell["dice"].values())
        )
    means = {d: {name: statistics.fmean(values) for name, values in row.items()} for d, row in rows.items()}
    others = sorted({name for row in means.values() for name in row if not name.startswith("U-Net")})
    rivals = {d: [v for n, v in row.items() if n.startswith("U-Net")] for d, row in means.items()}
    best = {d: max(found) for d, found in rivals.items() if found}
    order = sorted(means, key=lambda d: max((means[d].get(name, 0.0) for name in others), default=0.0))
    figure = Figure(figsize=(8, 0.24 * len(order) + 0.6), layout="constrained")
    axes = figure.subplots()
    for row, dataset in enumerate(order):
        found = [means[dataset][name] for name in others if name in means[dataset]]
        if dataset in best and found:
            axes.plot([best[dataset], found[0]], [row, row], color="lightgrey", linewidth=3, zorder=1)
    there = [(best[d], row) for row, d in enumerate(order) if d in best]
    if there:
        axes.scatter(*zip(*there, strict=True), color="grey", label="the better U-Net", zorder=2)
    for name in others:
        there = [(means[d][name], row) for row, d in enumerate(order) if name in means[d]]
        axes.scatter(*zip(*there, strict=True), label=name, zorder=3)
    axes.set_yticks(range(len(order)), [dataset.replace("_", " ") for dataset in order], fontsize=9)
    axes.set(xlim=(0, 1), xlabel="Dice")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def draw_curves(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel a dataset: Dice of each contender against minutes, the U-Nets in grey."""
    datasets = list(dict.fromkeys(cell["dataset"] for cell in cells))
    methods = dict.fromkeys(cell["contender"] for cell in cells if not cell["contender"].startswith("U-Net"))
    colours = {name: f"C{number}" for number, name in enumerate(sorted(methods, reverse=True))}
    figure = Figure(figsize=(4 * len(datasets), 3), layout="constrained")
    for panel, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        for cell in (cell for cell in cells if cell["dataset"] == dataset):
            name, (seconds, dice) = cell["contender"], zip(*cell["points"], strict=True)
            colour = colours.get(name, "grey")
            style = {"color": colour, "linestyle": "-" if name in colours else "--" if "patch" in name else "-"}
            panel.plot([second / 60 for second in seconds], dice, marker=".", label=name, **style)
        panel.set(title=dataset.replace("_", " "), xlabel="minutes since the command", ylim=(0, 1), xlim=(0, None))
        panel.legend(loc="lower right", fontsize=8)
    figure.axes[0].set_ylabel("validation Dice")
    figure.savefig(path, dpi=120)
