"""Dice, HD95 and surface Dice of every case and label, as a table to print and a CSV file to keep."""

from __future__ import annotations

import csv
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from monai.networks.utils import one_hot
from torch import Tensor

from ..data.names import CaseNames
from ..distributed import first_process, gathered
from ..files import aside

METRICS = ("dice", "hd95", "surface_dice")


def case_metrics(
    pred: Tensor, label: Tensor, labels: int, spacing: list[float], tolerance: float
) -> list[dict[str, float]]:
    """Metrics of one case for each label.

    Args:
        pred: label map (1, *spatial).
        label: the truth, likewise.
        labels: number of foreground labels.
        spacing: of the grid, millimetres (volumes) or 1 for pixels (pictures).
        tolerance: of the surface Dice, in the same unit.

    Returns:
        A dict a label: ``dice``, ``hd95`` (95th percentile of the symmetric surface distance) and ``surface_dice``, in
        the unit of the spacing. All are NaN where the truth lacks the label; the distance is infinite where only the
        prediction does.
    """
    # MONAI warns of an argument that its own functions pass on.
    warnings.filterwarnings("ignore", message=".*always_return_as_numpy.*", category=FutureWarning)
    y_pred, y = (one_hot(x[None].long(), labels + 1) for x in (torch.as_tensor(pred), torch.as_tensor(label)))
    dice = compute_dice(y_pred, y, include_background=False)[0].tolist()
    rows = []
    for i in range(labels):
        a, b = y_pred[:, i + 1 : i + 2], y[:, i + 1 : i + 2]
        row = {"dice": dice[i], "hd95": float("nan"), "surface_dice": float("nan")}
        if b.any():
            row |= {"hd95": float("inf"), "surface_dice": 0.0}
        if a.any() and b.any():
            row["hd95"] = compute_hausdorff_distance(
                a, b, include_background=True, percentile=95, spacing=spacing
            ).item()
            row["surface_dice"] = compute_surface_dice(
                a, b, [tolerance], include_background=True, spacing=spacing
            ).item()
        rows.append(row)
    return rows


class CaseTable:
    """Collects the metrics of every case of an evaluator's run, prints the means and writes ``cases.csv``. There ``ml``
    are the millilitres of the prediction in a volume.

    Args:
        labels: names of the foreground labels.
        folder: where ``cases.csv`` goes; none is written without it.
        tolerance: of the surface Dice: millimetres for volumes, pixels for pictures.
    """

    def __init__(self, labels: tuple[str, ...], folder: str | Path | None = None, tolerance: float = 2.0) -> None:
        self.labels, self.tolerance = tuple(labels), tolerance
        self.folder = None if folder is None else Path(folder)
        self.names = CaseNames()
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def collect(self, engine: Engine) -> None:
        cases: Any = engine.state.output
        for case in cases:
            label = case["label"]
            spacing = [float(x) for x in label.pixdim[: label.ndim - 1]]
            metrics = case_metrics(case["pred"], label, len(self.labels), spacing, self.tolerance)
            if len(spacing) == 3:
                for value, row in enumerate(metrics, 1):
                    row["ml"] = float((case["pred"] == value).sum()) * math.prod(spacing) / 1000
            file = str(case["image"].meta["filename_or_obj"])
            self.rows += [{"file": file, "label": n, **m} for n, m in zip(self.labels, metrics, strict=True)]

    def finish(self, engine: Engine) -> None:
        cases = [self.rows[i : i + len(self.labels)] for i in range(0, len(self.rows), len(self.labels))]
        # Where there are fewer cases than processes, all evaluated the same.
        rows = {(row["file"], row["label"]): row for case in gathered(cases) for row in case}
        if not first_process():
            return
        self.rows = [{"case": self.names(row["file"]), **row} for row in rows.values()]
        print(self.table(), flush=True)
        if self.folder is None:
            return
        with aside(self.folder / "cases.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["case", "label", *METRICS, "ml"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)
        print(f"every case: {self.folder / 'cases.csv'}", flush=True)

    def table(self) -> str:
        """Means over the cases that hold the label, and how many those are."""
        width = max(len(name) for name in (*self.labels, "label"))
        lines = [f"{'label':{width}}  {'Dice':>7} {'HD95':>7} {'surface Dice':>12}  cases"]
        for name in self.labels:
            rows = [row for row in self.rows if row["label"] == name]
            held = [row for row in rows if row["dice"] == row["dice"]]
            if held:
                dice, hd95, surface = (sum(row[m] for row in held) / len(held) for m in METRICS)
                lines.append(f"{name:{width}}  {dice:7.4f} {hd95:7.2f} {surface:12.4f}  {len(held)} of {len(rows)}")
            else:
                lines.append(f"{name:{width}}  {'-':>7} {'-':>7} {'-':>12}  0 of {len(rows)}")
        return "\n".join(lines)
