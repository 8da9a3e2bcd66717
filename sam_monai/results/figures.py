"""Figures of an evaluation as SVG for a page: text stays text, and black takes the colour of the page's."""

from __future__ import annotations

import math
import re
import statistics
import warnings
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from .metrics import finite, short

INK = "#010203"  # of axes and words, until the page puts its own in their place
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sam_monai",
    "font.size": 10,
    "text.parse_math": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
WIDTH = 5.2  # inches


def agreement(rows: Sequence[Mapping[str, Any]], label: str, unit: str, colour: str) -> str:
    """A Bland-Altman figure of one label: by how much the predicted size differs from that of the reference, both in
    ``unit``, ``ml`` or ``pixels``."""
    pairs = [(row[f"reference_{unit}"], row[unit]) for row in rows]
    differences = [predicted - reference for reference, predicted in pairs]
    with rc_context(STYLE):
        figure, axes = blank(3.2)
        axes.scatter([(a + b) / 2 for a, b in pairs], differences, s=18, color=colour, alpha=0.8)
        middle = statistics.fmean(differences)
        levels = {"mean": middle}
        if len(pairs) > 2:
            spread = 1.96 * statistics.stdev(differences)
            levels |= {"+1.96 SD": middle + spread, "-1.96 SD": middle - spread}
        axes.axhline(0, color=INK, linewidth=0.6)
        for name, level in levels.items():
            axes.axhline(level, color=colour, linewidth=1, linestyle="-" if name == "mean" else "--")
            axes.annotate(f"{name} {in_digits(level)}", (1, level), xycoords=("axes fraction", "data"), fontsize=8,
                          xytext=(-2, 2), textcoords="offset points", ha="right")  # fmt: skip
        axes.set(xlabel=f"mean of reference and prediction, {unit}", ylabel=f"prediction - reference, {unit}")
        axes.set_title(f"{short(label)}: agreement of sizes", fontsize=10)
        return svg(figure)


def in_digits(value: float) -> str:
    """A difference with its sign, in three digits or as a whole number."""
    return f"{value:+,.0f}" if abs(value) >= 100 else f"{value:+.3g}"


def boxes(rows: Sequence[Mapping[str, Any]], colours: Mapping[str, Any], key: str, title: str) -> str:
    """A box for each label, which has its colour, over its cases, and each case as a point."""
    labels = list(colours)
    values = [finite([row[key] for row in rows if row["label"] == label]) for label in labels]
    with rc_context(STYLE):
        figure, axes = blank(1.0 + 0.45 * len(labels))
        places = range(len(labels), 0, -1)
        plain = {"color": INK, "linewidth": 1}
        axes.boxplot(values, positions=list(places), orientation="horizontal", widths=0.55, showfliers=False,
                     boxprops=plain, whiskerprops=plain, capprops=plain, medianprops=plain)  # fmt: skip
        for place, of_label, colour in zip(places, values, colours.values(), strict=True):
            heights = [place + 0.16 * math.sin(7 * i) for i in range(len(of_label))]  # apart, the same each time
            axes.scatter(of_label, heights, s=14, color=colour, alpha=0.7, zorder=3)
        axes.set_yticks(list(places), [short(label, 24) for label in labels])
        axes.set_xlim(-0.02, 1.02)
        axes.set_title(title, fontsize=10)
        return svg(figure)


def curve(history: Sequence[Mapping[str, float]]) -> str:
    """Loss of every epoch and validation Dice of some."""
    with rc_context(STYLE):
        figure, left = blank(3.0)
        left.plot([h["epoch"] for h in history], [h["loss"] for h in history], color="C0", marker="o", ms=2)
        left.set(xlabel="epoch")
        left.xaxis.get_major_locator().set_params(integer=True)
        left.set_ylabel("training loss", color="C0")
        validated = [h for h in history if "dice" in h]
        if validated:
            right = left.twinx()
            right.plot([h["epoch"] for h in validated], [h["dice"] for h in validated], color="C1", marker="o", ms=3)
            right.set_ylabel("validation Dice", color="C1")
            right.set_ylim(0, 1)
            right.spines["top"].set_visible(False)
        return svg(figure)


def blank(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: Figure) -> str:
    """A figure as an element of a page."""
    file = StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's browser has it
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub("font-family: [^;]*;", "", file.getvalue())
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace(INK, "currentColor")
