"""Masks as contours over a few slices of their image, as a PNG."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.orientations import aff2axcodes

from ..data.slicing import ACROSS, ToSlices
from ..networks.regions import Regions
from .metrics import short

OPPOSITE = dict(zip("LRAPSI", "RLPAIS", strict=True))
EDGES = (
    (0.02, 0.5, "left", "center"),
    (0.98, 0.5, "right", "center"),
    (0.5, 0.98, "center", "top"),
    (0.5, 0.02, "center", "bottom"),
)


class View(NamedTuple):
    """A channel-first map as a person looks at it."""

    planes: np.ndarray
    """(C, rows, columns, slices)."""
    numbers: list[int]
    """Of the slices, along the axis of the file that they lie across, from 0 on, as prompts and viewers count them."""
    aspect: float
    """Of a pixel: its height by its width."""
    plane: str = ""
    """Of a volume: axial, coronal or sagittal."""
    axis: str = ""
    """Of the file, which the numbers run along: i, j or k."""
    sides: str = ""
    """Directions of the patient at the left, right, upper and lower edge, as in RLAP."""
    matrix: np.ndarray = np.eye(4)
    """From voxels of the file to row, column and slice of ``planes``."""


class Row(NamedTuple):
    """What :func:`draw_rows` draws in a row: an image in [0, 1], and what is shown over it."""

    plane: np.ndarray
    """(1 or 3, rows, columns)."""
    maps: Mapping[str, np.ndarray | None]
    """Column titles and label maps (rows, columns); ``None``: the image alone."""
    note: str = ""
    """Written into the first column."""
    aspect: float = 1.0
    sides: str = ""
    """Letters at the left, right, upper and lower edge."""
    clicks: Sequence[tuple[float, float, int]] = ()
    """Row and column of each, and 1 for one on the object, 0 for one beside it."""


def view(volume: Any, orientation: str) -> View:
    """A channel-first map on its file's grid as a person looks at it: a picture as it is, a volume in slices."""
    if volume.ndim == 3:
        return View(np.asarray(volume)[..., None], [1], 1.0)
    turned: Any = ToSlices(orientation)(volume)
    before, after = (np.asarray(getattr(x, "affine", np.eye(4)), float) for x in (volume, turned))
    steps = np.linalg.inv(before) @ after  # from voxels of the view to those of the file
    axis = int(np.abs(steps[:3, 2]).argmax())
    numbers = [round(steps[axis, 2] * k + steps[axis, 3]) for k in range(turned.shape[3])]
    spacing = np.linalg.norm(after[:3, :3], axis=0)
    rows, columns, across = map(str, aff2axcodes(after))  # towards which each runs
    sides = OPPOSITE[columns] + columns + OPPOSITE[rows] + rows
    return View(
        np.asarray(turned),
        numbers,
        float(spacing[0] / spacing[1]),
        ACROSS[across],
        "ijk"[axis],
        sides,
        np.linalg.inv(steps),
    )


def in_words(spacing: Sequence[float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing) + " mm"


def chosen_slices(mask: np.ndarray, number: int) -> list[int]:
    """Slices evenly spread over those that hold a label, or over all where none does."""
    held = np.flatnonzero(mask.any((0, 1)))
    if len(held) == 0:
        held = np.arange(mask.shape[-1])
    places = np.linspace(0, len(held) - 1, min(number, len(held)) + 2)[1:-1]
    return sorted({int(held[round(place)]) for place in places})


def legible(text: str, most: int = 40) -> str:
    """A text of bounded length in which ``?`` stands for characters that the font of pictures lacks."""
    return "".join(c if has_glyph(c) else "?" for c in short(text, most))


@functools.cache
def has_glyph(character: str) -> bool:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties())).get_char_index(ord(character)) != 0


def slice_in_words(image: View, k: int) -> str:
    number = len(image.numbers)
    return f"{image.plane}, {image.axis} = {image.numbers[k]} of 0 to {number - 1}" if number > 1 else image.plane


def case_rows(
    image: View, maps: Mapping[str, np.ndarray], slices: int = 3, clicks: Sequence[tuple[Sequence[float], int]] = ()
) -> list[Row]:
    """Some slices of a case: the image, then each label map, (rows, columns, slices). The first map that marks
    anything decides which. ``clicks``: voxels of the file, and 1 or 0."""
    shown = stretched(image.planes)
    placed = [(image.matrix @ [*voxel, *[0] * (3 - len(voxel)), 1], on) for voxel, on in clicks]
    marked = next((each for each in maps.values() if each.any()), next(iter(maps.values())))
    return [
        Row(
            shown[..., k].astype(np.float32),  # a copy: a view would keep the whole volume in memory
            {"image": None, **{name: each[..., k].copy() for name, each in maps.items()}},
            slice_in_words(image, k),
            image.aspect,
            image.sides,
            [(place[0], place[1], on) for place, on in placed if round(place[2]) == k],
        )
        for k in chosen_slices(marked, slices)
    ]


def stretched(image: np.ndarray) -> np.ndarray:
    """An image with its range mapped to [0, 1], but for its extremes."""
    low, high = np.percentile(image, (0.5, 99.5))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def label_colours(number: int) -> list[str]:
    """The same in every picture and figure."""
    return [f"C{i % 10}" for i in (1, 0, 2, *range(3, number + 1))][:number]


def draw_rows(
    rows: Sequence[Row], labels: Sequence[str], title: str, path: Path, regions: Regions | None = None
) -> None:
    """Write one PNG of planes in rows, with label maps as contours over them and a legend. Column titles that are those
    of the row above are left out; a label's name that the font cannot write is told by its number."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = label_colours(len(labels))
    heights = [row.plane.shape[1] / row.plane.shape[2] * row.aspect for row in rows]
    columns = len(rows[0].maps)
    figure = Figure(figsize=(3 * columns, 3 * sum(heights) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    above: list[str] = []
    for line, height, (plane, maps, note, aspect, sides, clicks) in zip(axes, heights, rows, strict=True):
        plane = np.moveaxis(plane, 0, -1)
        plane = np.repeat(plane, 3, -1) if plane.shape[-1] == 1 else plane
        for axis, (name, mask) in zip(line, maps.items(), strict=True):
            axis.imshow(plane, interpolation="nearest", aspect=aspect)
            axis.set_axis_off()
            if list(maps) != above:
                axis.set_title(legible(name), fontsize=10, parse_math=False)
            for values, colour in zip(regions or range(1, len(colours) + 1), colours, strict=True):
                of_label = None if mask is None else np.isin(mask, values)
                if of_label is not None and of_label.any():
                    shade = of_label[..., None] * np.array(to_rgba(colour, 0.25))
                    axis.imshow(shade, interpolation="nearest", aspect=aspect)
                    axis.contour(of_label, [0.5], colors=[colour], linewidths=1.2)
        box = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 2}
        style = {"color": "white", "fontsize": 8, "bbox": box}
        if note:
            line[0].text(0.02, 0.03, note, transform=line[0].transAxes, **style)
        for letter, (x, y, across, up) in zip(sides, EDGES if height > 0.3 else EDGES[:2], strict=False):
            line[-1].text(x, y, letter, ha=across, va=up, transform=line[-1].transAxes, **style)
        for row, column, on in clicks:
            line[0].plot(column, row, "+", color="lime" if on else "red", markersize=8, markeredgewidth=1.5)
        above = list(maps)
    names = [name if "?" not in (name := legible(label)) else f"{i}: {name}" for i, label in enumerate(labels, 1)]
    # Numbers first, for matplotlib leaves out names that begin with "_" and takes "$" for mathematics.
    handles = [Line2D([], [], color=c, label=str(i)) for i, c in enumerate(colours, 1)]
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(labels), 4), fontsize=9, frameon=False
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    figure.suptitle(legible(title, 80), fontsize=10, parse_math=False)
    figure.savefig(path, dpi=100, format="png")
