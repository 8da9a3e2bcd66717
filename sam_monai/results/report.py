"""What training and evaluation end with: a table, pictures and a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine
from torch import nn

from ..data.dataset import is_picture
from ..data.names import CaseNames
from ..distributed import first_process
from ..files import check_writable, release
from ..inference.outputs import RUN, Outputs, picture_file
from ..networks.adapter_files import load_adapter
from ..training.checkpoints import Checkpoints
from ..training.plan import Plan
from ..training.resume import read_history
from .html_report import evaluation_report
from .metrics import CaseTable
from .pictures import Pictures
from .tables import read_table

FILES = ("plan.json", "cases.csv", "report.html", "training_cases.txt", "prompts.csv", "corrective_clicks.png")


def check_outputs(output_dir: str | Path, cases: Sequence[Mapping[str, Any]]) -> None:
    """Find out before a training or an evaluation whether its results can be written.

    Args:
        output_dir: where they go.
        cases: that are validated.

    Raises:
        InputError: the folder cannot be written, or something else would be replaced.
    """
    check_writable(output_dir, "output_dir")
    folder, names = Path(output_dir), CaseNames()
    Outputs(folder).check((folder / name, RUN) for name in FILES)
    named = [(names(case["image"]), case["image"]) for case in cases]
    for place in (folder, folder / "validation"):
        Outputs(place).check((picture_file(place, name, 2 if is_picture(image) else 3), image) for name, image in named)


def show_plan(plan: Plan, output_dir: str | Path | None = None) -> None:
    """Print what was planned for a training and why, and write it to ``plan.json`` in a folder of results."""
    if plan.why and first_process():
        print(plan, flush=True)
        if output_dir is not None:
            Outputs(output_dir).write(json.dumps(plan.as_dict(), indent=2), Path(output_dir) / "plan.json")


def show_result(
    evaluator: Engine,
    network: nn.Module,
    labels: Sequence[str],
    folder: str | Path,
    output_dir: str | Path,
    settings: Mapping[str, Any],
    training: Sequence[Mapping[str, Any]],
    pictures: int = 4,
) -> None:
    """Evaluate the best adapter once more: Dice per label as a table, pictures of the first validation cases, and the
    names of the cases that were trained on. Without validation cases only the names.

    Args:
        evaluator: of the validation cases.
        network: gets the best adapter.
        labels: names of the foreground labels.
        folder: where the checkpoints are.
        output_dir: where pictures and ``cases.csv`` go.
        settings: how the images were prepared.
        training: the cases trained on, listed in ``training_cases.txt``.
        pictures: cases to draw.
    """
    path = Path(folder) / Checkpoints.BEST
    idist.barrier()  # until the first process has written it
    load_adapter(getattr(network, "module", network), path)
    best = evaluator.state.best_metric_epoch
    drawing = Pictures(labels, Path(output_dir) / "validation", settings, most=pictures)
    if evaluator.data_loader:
        drawing.attach(evaluator)
        CaseTable(tuple(labels), output_dir).attach(evaluator)
        evaluator.run(max(1, best))
    else:
        print("there are no validation cases: nothing was measured, the adapter is that of the last epoch")
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    if not first_process():
        return
    names = [Path(case["image"]).name for case in training]
    Outputs(output_dir).write("".join(f"{name}\n" for name in names), Path(output_dir) / "training_cases.txt")
    shown = ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")
    print(f"trained on {len(names)} case{'s' * (len(names) > 1)}: {shown}")
    size = path.stat().st_size
    print(f"adapter: {path} ({size / 1024:.0f} KB), {f'best after epoch {best}' if best > 0 else 'of the last epoch'}")
    if evaluator.data_loader:
        print("pictures: " + ", ".join(str(file) for file in drawing.written), flush=True)
        write_report(output_dir, folder, settings, Path(output_dir) / "validation")
    release(output_dir)


def write_report(
    output_dir: str | Path, ckpt_dir: str | Path, settings: Mapping[str, Any], pictures: str | Path | None = None
) -> Path:
    """Write ``report.html`` of an evaluation's ``cases.csv`` and pictures, and of the training that led to it.

    Args:
        output_dir: where ``cases.csv`` is and the report goes.
        ckpt_dir: where the training's checkpoints are.
        settings: how the images were prepared.
        pictures: folder of the pictures, if another.
    """
    folder = Path(output_dir)
    if not first_process():
        return folder / "report.html"
    rows = read_table(folder / "cases.csv")
    for row in rows:
        row.update({key: float(value or "nan") for key, value in row.items() if key not in ("case", "label")})
    shown = {row["case"]: picture_file(Path(pictures or folder), row["case"], settings["spatial_dims"]) for row in rows}
    history = read_history(Path(ckpt_dir), Checkpoints.RESUME)
    curves = [folder / "corrective_clicks.png"]
    path = evaluation_report(rows, shown, settings, history, folder / "report.html", curves)
    print(f"report: {path}", flush=True)
    release(folder)
    return path
