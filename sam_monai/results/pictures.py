"""Masks as contours over a few slices, with the reference and the prediction side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from ..data.load import LoadCased
from ..data.names import CaseNames
from ..data.slicing import ToSlices
from ..distributed import first_process
from ..inference.outputs import Outputs, picture_file
from .metrics import short


def upright(volume: Any, orientation: str) -> np.ndarray:
    """A channel-first map on its file's grid as an array (C, rows, columns, slices) as a person looks at it."""
    if volume.ndim == 3:
        return np.asarray(volume)[..., None]
    return np.asarray(ToSlices(orientation)(volume))


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


def case_picture(
    image: np.ndarray, maps: Mapping[str, np.ndarray], labels: Sequence[str], title: str, path: Path, slices: int = 3
) -> None:
    """Write one PNG: a row a slice, the image and then each label map as contours over it.

    Args:
        image: (1 or 3, rows, columns, slices), any range.
        maps: column titles and label maps (rows, columns, slices), values 0 to len(labels).
        labels: names for the legend; a name that the font cannot write is told by its number.
        title: heading.
        path: file to write, in place.
        slices: rows at most.
    """
    shown = stretched(image)
    places = chosen_slices(next(iter(maps.values())), slices)
    rows = [(shown[..., k], {"image": None, **{name: each[..., k] for name, each in maps.items()}}) for k in places]
    draw_rows(rows, labels, title, path)


def stretched(image: np.ndarray) -> np.ndarray:
    """An image with its range mapped to [0, 1], but for its extremes."""
    low, high = np.percentile(image, (0.5, 99.5))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def draw_rows(
    rows: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray | None]]], labels: Sequence[str], title: str, path: Path
) -> None:
    """Write one PNG of planes in rows, with label maps as contours over them and a legend.

    Args:
        rows: of each an image (1 or 3, rows, columns) in [0, 1] and what is shown over it: column titles and label maps
            (rows, columns), or ``None`` for the image alone. Titles that are those of the row above are left out.
        labels: names for the legend; a name that the font cannot write is told by its number.
        title: heading.
        path: file to write, in place.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = [f"C{i % 10}" for i in (1, 0, 2, *range(3, len(labels) + 1))]
    heights = [plane.shape[1] / plane.shape[2] for plane, _ in rows]
    columns = len(rows[0][1])
    figure = Figure(figsize=(3 * columns, 3 * sum(heights) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    above: list[str] = []
    for line, (plane, maps) in zip(axes, rows, strict=True):
        plane = np.moveaxis(plane, 0, -1)
        plane = np.repeat(plane, 3, -1) if plane.shape[-1] == 1 else plane
        for axis, (name, mask) in zip(line, maps.items(), strict=True):
            axis.imshow(plane, interpolation="nearest")
            axis.set_axis_off()
            if list(maps) != above:
                axis.set_title(legible(name), fontsize=10, parse_math=False)
            for value, colour in enumerate(colours[: len(labels)], 1):
                of_label = None if mask is None else mask == value
                if of_label is not None and of_label.any():
                    axis.imshow(of_label[..., None] * np.array(to_rgba(colour, 0.25)), interpolation="nearest")
                    axis.contour(of_label, [0.5], colors=[colour], linewidths=1.2)
        above = list(maps)
    names = [name if "?" not in (name := legible(label)) else f"{i}: {name}" for i, label in enumerate(labels, 1)]
    # Numbers first, for matplotlib leaves out names that begin with "_" and takes "$" for mathematics.
    handles = [Line2D([], [], color=c, label=str(i)) for i, c in enumerate(colours[: len(labels)], 1)]
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(labels), 4), fontsize=9, frameon=False
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    figure.suptitle(legible(title, 80), fontsize=10, parse_math=False)
    figure.savefig(path, dpi=100, format="png")


class Pictures:
    """Writes a picture of every case that an evaluator sees: the image, the reference if there is one, the prediction.

    Args:
        labels: names of the foreground labels; a function without arguments where they are known only later.
        folder: where the pictures go, ``<case>.png`` of volumes and ``<case>_picture.png`` of 2D images.
        settings: how the images were prepared (``orientation``, ``channels``), see :mod:`sam_monai.inference.pipeline`.
        most: cases at most.
        names: of the cases.
        prompted: tells of an image's path whether its mask holds the objects of prompts, and not the labels.
    """

    def __init__(
        self,
        labels: Any,
        folder: str | Path,
        settings: Mapping[str, Any],
        most: int = 20,
        prompted: Callable[[Path], bool] = lambda file: False,
        names: CaseNames | None = None,
    ) -> None:
        self.prompted = prompted
        self.labels = labels if callable(labels) else lambda: labels
        self.folder, self.settings, self.most = Path(folder), settings, most
        self.load = LoadCased(("image",), (), settings["channels"])
        self.names = names or CaseNames()
        self.written: list[Path] = []

    def attach(self, engine: Engine) -> None:
        if first_process():
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)

    def draw(self, engine: Engine) -> None:
        cases: Any = engine.state.output
        for case in cases:
            if len(self.written) >= self.most:
                return
            file = Path(case["image"].meta["filename_or_obj"])
            image = self.load({"image": str(file)})["image"]
            maps = {} if case.get("label") is None else {"truth": case["label"]}
            maps["prediction"] = case["pred"]
            turned = {}
            for name, labelled in maps.items():
                on_grid = MetaTensor(np.asarray(torch.as_tensor(labelled).cpu()), affine=image.affine)
                turned[name] = upright(on_grid, self.settings["orientation"])[0]
            path = picture_file(self.folder, self.names(file), case["pred"].ndim - 1)
            labels = self.labels()
            if self.prompted(file):
                labels = [f"object {i}" for i in range(1, int(case["pred"].max()) + 1)] or ["object"]
            with Outputs(self.folder).writing(path, file) as part:
                case_picture(upright(image, self.settings["orientation"]), turned, labels, file.name, part)
            self.written.append(path)
