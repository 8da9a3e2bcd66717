"""Dice, HD95 and surface Dice of every case and label, as a table to print and a CSV file to keep."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from monai.metrics import compute_dice
from monai.metrics.utils import get_edge_surface_distance
from torch import Tensor

from ..data.channels import files_in
from ..data.frames import frames_of, together
from ..data.grids import refuse_apart
from ..data.matching import OBJECTS, matched, matched_in_all
from ..data.names import CaseNames
from ..data.unlabelled import ANNOTATED, LEFT_OUT
from ..distributed import first_process, gathered
from ..errors import InputError, counted
from ..inference.outputs import RUN, Outputs
from ..inference.quality import KEY as GUESS
from ..networks.regions import Regions, each_mask
from ..training.cases import content_of_all
from ..training.checkpoints import ABOUT
from .page import cell
from .tables import write_table

METRICS = ("dice", "hd95", "surface_dice")
# Of a label in the prediction and in the reference, and what is marked of it where the reference lacks it.
SIZES = ("ml", "reference_ml", "pixels", "reference_pixels", "false_positive")
TOLERANCE = 2.0
LENGTHS = {"ml": "mm", "pixels": "px"}  # the unit of distances, by that of sizes


def case_metrics(
    pred: Tensor, label: Tensor, labels: int, spacing: list[float], tolerance: float, regions: Regions | None = None
) -> list[dict[str, float]]:
    """Metrics of one case for each label.

    Args:
        pred: label map (1, *spatial), or of T frames (T, *spatial): see :func:`of_frames`.
        label: the reference, likewise.
        labels: number of foreground labels.
        spacing: of the grid, millimetres (volumes) or 1 for pixels (pictures).
        tolerance: of the surface Dice, in the same unit.
        regions: the values of each label where they are several.

    Returns:
        A dict a label: ``dice``, ``hd95`` (95th percentile of the symmetric surface distance) and ``surface_dice``, in
        the unit of the spacing, and ``false_positive``, the volume or area marked where the reference lacks the label.
        The first three are NaN where the reference lacks the label, the last where it holds it. The distance is
        infinite where the prediction misses the label.
    """
    if len(label) > 1:
        return of_frames(pred, label, labels, spacing, tolerance, regions)
    # MONAI warns of an argument that its own functions pass on.
    warnings.filterwarnings("ignore", message=".*always_return_as_numpy.*", category=FutureWarning)
    y_pred, y = (torch.as_tensor(x) for x in (pred, label))
    voxel = math.prod(spacing)
    if 1 in y.shape[1:] and y.ndim == 4:  # of one slice each voxel would lie on the surface
        flat = list(y.shape[1:]).index(1)
        y_pred, y = (x.squeeze(1 + flat) for x in (y_pred, y))
        spacing = [mm for axis, mm in enumerate(spacing) if axis != flat]
    rows = []
    for masks in zip(*(each_mask(x, labels, regions) for x in (y_pred, y)), strict=True):
        a, b = (mask[None].float() for mask in masks)
        row = {
            "dice": compute_dice(a, b).item(),
            "hd95": math.nan,
            "surface_dice": math.nan,
            "false_positive": math.nan,
        }
        if b.any():
            row |= {"hd95": math.inf, "surface_dice": 0.0}
        else:
            row["false_positive"] = a.sum().item() * voxel
        if a.any() and b.any():
            # As compute_hausdorff_distance and compute_surface_dice, which would find the same distances twice.
            _, distances, _ = get_edge_surface_distance(a[0, 0], b[0, 0], spacing=spacing, symmetric=True)
            row["hd95"] = max(map(percentile_95, distances))
            row["surface_dice"] = (torch.cat(distances) <= tolerance).float().mean().item()
        rows.append(row)
    return rows


def percentile_95(values: Tensor) -> float:
    if values.numel() <= 2**24:  # of which torch makes one
        return torch.quantile(values, 0.95).item()
    return float(np.quantile(values.cpu().numpy(), 0.95))


def of_frames(
    pred: Tensor, label: Tensor, labels: int, spacing: list[float], tolerance: float, regions: Regions | None = None
) -> list[dict[str, float]]:
    """:func:`case_metrics` of frames: Dice of all their voxels together, distances and surface Dice as means over the
    frames that show the label (distances: in both), false positives as the mean of all frames."""
    pairs = zip(pred.split(1), label.split(1), strict=True)
    each = [case_metrics(*pair, labels, spacing, tolerance, regions) for pair in pairs]
    rows = overlap(pred, label, labels, regions)
    for row, frames in zip(rows, zip(*each, strict=True), strict=True):
        held = [frame for frame in frames if not math.isnan(frame["dice"])]
        row |= {key: mean([frame[key] for frame in held]) for key in ("hd95", "surface_dice")}
        row["hd95"] = math.inf if held and math.isnan(row["hd95"]) else row["hd95"]
        row["false_positive"] *= math.prod(spacing) / len(label)
    return rows


class CaseTable:
    """Collects the metrics of every case of an evaluator's run, prints the means and writes ``cases.csv``.

    There ``ml`` and ``reference_ml`` are the label's volume in millilitres, in the prediction and in the reference; in
    pictures it is ``pixels`` and ``reference_pixels``. ``false_positive`` is what is marked of a label in a case
    without it, in the same unit. ``guess`` is what :mod:`sam_monai.inference.quality` guessed the Dice to be, where the
    evaluator has its handler. ``evaluation.json`` beside it holds the unit, the tolerance, and hashes of each
    image's content and of its reference, by which two evaluations are known to be of the same cases.

    Frames of a file are one case, and their volume is the mean of those in which anybody has annotated.

    Refused are predictions or references that are no label maps, that lie on different grids, and two cases of one
    file.

    Args:
        labels: names of the foreground labels.
        folder: where ``cases.csv`` goes; none is written without it.
        tolerance: of the surface Dice: millimetres for volumes, pixels for pictures.
        regions: the values of each label where they are several.
        instances: whether the maps number objects of one label, which are matched (:mod:`sam_monai.data.matching`).
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        folder: str | Path | None = None,
        tolerance: float = TOLERANCE,
        regions: Regions | None = None,
        instances: bool = False,
    ) -> None:
        self.instances = instances
        self.labels, self.tolerance, self.regions = tuple(labels), tolerance, regions
        self.folder = None if folder is None else Path(folder)
        self.names = CaseNames()
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        self.collect_from(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def collect_from(self, engine: Engine) -> list[RemovableEventHandle]:
        """Without printing or writing at the end of a run. Removing what is returned ends it."""
        begin = engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.rows.clear())
        return [begin, engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)]

    def collect(self, engine: Engine) -> None:
        cases: Any = engine.state.output
        for case in cases:
            pred, label, file = case["pred"], case["label"], str(case["image"].meta["filename_or_obj"])
            self.refuse(pred, label, frames_of(case["image"]), file)
            marked = np.asarray(label.cpu()).astype(np.uint16).tobytes()
            reference = hashlib.sha256(marked + case.get(LEFT_OUT, "").encode()).hexdigest()[:16]
            objects = matched(pred, label) if self.instances else {}
            if self.instances:
                pred, label = pred.clamp(max=1), label.clamp(max=1)
            spacing = [float(x) for x in label.pixdim] if label.ndim == 4 else [1.0, 1.0]
            metrics = case_metrics(pred, label, len(self.labels), spacing, self.tolerance, self.regions)
            masks = (each_mask(together(x), len(self.labels), self.regions) for x in (pred, label))
            sizes = [[float(mask.sum()) for mask in each] for each in masks]
            frames = max(1, case.get(ANNOTATED, len(label)))  # the others are background in both
            unit, each = ("ml", math.prod(spacing) / 1000 / frames) if len(spacing) == 3 else ("pixels", 1)
            guessed = case[GUESS].tolist() if GUESS in case else None
            for row in metrics if case.get(LEFT_OUT) else ():  # surfaces end where the annotation does
                row |= {"surface_dice": math.nan} | ({} if math.isinf(row["hd95"]) else {"hd95": math.nan})
            for i, (row, found, held) in enumerate(zip(metrics, *sizes, strict=True)):
                row["false_positive"] *= len(label) / frames / 1000 if unit == "ml" else 1
                row[unit] = found * each
                row[f"reference_{unit}"] = held * each
                row |= objects | ({GUESS: guessed[i]} if guessed else {})
            image = {"file": file, "image": content_of_all(files_in(case["image"].meta)), "reference": reference}
            self.rows += [{**image, "label": n, **m} for n, m in zip(self.labels, metrics, strict=True)]

    def refuse(self, pred: Tensor, label: Tensor, frames: int, file: str) -> None:
        """Refuse what would be measured wrongly."""
        if not len(pred) == len(label) == frames:
            raise InputError(
                f"{file}: prediction and reference have {len(pred)} and {len(label)} channels, not "
                f"{counted(frames, 'label map')}: give the numbers of the labels, not a channel for each"
            )
        refuse_apart(pred, label, file)
        if any(row["file"] == file for row in self.rows):
            raise InputError(
                f"{file}: two cases of this run are of the same file: evaluate whole volumes, or give each part a "
                "filename_or_obj of its own"
            )

    def guess(self, guesses: Sequence[Sequence[float] | None]) -> None:
        """Take the guesses of each case that was collected, before the end of the run."""
        each = [value for one in guesses for value in one or [math.nan] * len(self.labels)]
        for row, value in zip(self.rows, each, strict=True):
            row[GUESS] = value

    def finish(self) -> None:
        cases = [self.rows[i : i + len(self.labels)] for i in range(0, len(self.rows), len(self.labels))]
        # Where there are fewer cases than processes, all evaluated the same.
        rows = {(row["file"], row["label"]): row for case in gathered(cases) for row in case}
        if not first_process():
            return
        self.rows = [{"case": self.names(row["file"]), **row} for row in rows.values()]
        print(self.table(), flush=True)
        if self.folder is None:
            return
        path, outputs = self.folder / "cases.csv", Outputs(self.folder)
        sizes = [key for key in (*SIZES, *OBJECTS, GUESS) if any(key in row for row in self.rows)]
        with outputs.writing(path) as part:
            write_table(part, ["case", "label", *METRICS, *sizes], self.rows)
        about = {
            "unit": unit_of(self.rows),
            "surface_tolerance": self.tolerance,
            "images": {row["case"]: row.get("image", "") for row in self.rows},
            "references": {row["case"]: row.get("reference", "") for row in self.rows},
        }
        outputs.write(json.dumps(about, indent=2, ensure_ascii=False) + "\n", self.folder / ABOUT, RUN)
        print(f"every case: {path}", flush=True)

    def table(self) -> str:
        """Means over the cases that hold the label, how many of them were missed, and what is marked in the others."""
        unit = unit_of(self.rows)
        length = LENGTHS[unit]
        heads = ["label", "Dice", f"HD95 ({length})", f"surface Dice ({self.tolerance:g} {length})", "cases", "missed",
                 "false positives"]  # fmt: skip
        lines = [heads]
        for name in self.labels:
            rows = [row for row in self.rows if row["label"] == name]
            found = summary(rows)
            means = [f"{found[key]:.{digits}f}" for key, digits in zip(METRICS, (4, 2, 4), strict=True)]
            counts = [f"{found['held']} of {len(rows)}", str(found["missed"])]
            false = f"{found['false_cases']} of {len(rows) - found['held']}, {cell(found['false_positive'])} {unit}"
            lines.append([short(name), *(mean.replace("nan", "-") for mean in means), *counts, false])
        widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
        pad = (str.ljust, *(len(heads) - 1) * (str.rjust,))
        text = "\n".join("  ".join(p(x, w) for p, x, w in zip(pad, line, widths, strict=True)) for line in lines)
        return f"{text}\n{matched_in_all(self.rows)}" if self.instances else text


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the rows of one label come to: means of :data:`METRICS` over the cases that hold it (of distances, over
    those in which it was found), NaN over none; how many hold it (``held``) and were ``missed``; in how many others
    something is marked (``false_cases``), and how much in all (``false_positive``)."""
    held = [row for row in rows if not math.isnan(row["dice"])]
    false = [row["false_positive"] for row in rows if row.get("false_positive", 0) > 0]
    means = {key: mean([row[key] for row in held]) for key in METRICS}
    missed = sum(math.isinf(row["hd95"]) for row in held)
    return means | {"held": len(held), "missed": missed, "false_cases": len(false), "false_positive": sum(false)}


def unit_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of the sizes: of volumes, or of pictures."""
    return "ml" if any("ml" in row for row in rows) else "pixels"


def mean(values: Sequence[float]) -> float:
    """Of the finite ones; NaN if there is none."""
    return statistics.fmean(finite(values)) if finite(values) else math.nan


def finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def overlap(pred: Tensor, label: Tensor, labels: int, regions: Regions | None = None) -> list[dict[str, float]]:
    """Dice and false positives alone, as in :func:`case_metrics` but in voxels: quick enough to rank cases by."""
    rows = []
    found, reference = (each_mask(together(x).cpu(), labels, regions) for x in (pred, label))
    for a, b in zip(found, reference, strict=True):
        marked, held = int(a.sum()), int(b.sum())
        dice = 2 * int((a & b).sum()) / (marked + held) if held else math.nan
        rows.append({"dice": dice, "hd95": math.nan, "surface_dice": math.nan,
                     "false_positive": math.nan if held else marked})  # fmt: skip
    return rows


def badness(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Sorts cases, the worst first: by mean Dice over the labels; those without any last, by what is marked in them."""
    dice = mean([row["dice"] for row in rows])
    return (2.0 if math.isnan(dice) else dice, -summary(rows)["false_positive"])


def short(name: str, most: int = 40) -> str:
    """A name on one line of bounded length."""
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most - 8]}...{name[-5:]}"
