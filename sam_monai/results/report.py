"""What training and evaluation end with: a table, pictures and a report."""

from __future__ import annotations

import csv
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from torch import nn

from ..backbones.weights import content_hash
from ..data.dataset import is_picture
from ..data.matching import OBJECTS
from ..data.names import CaseNames, told_apart
from ..distributed import first_process
from ..errors import InputError, shown
from ..files import check_writable, from_home
from ..inference import quality
from ..inference.outputs import RUN, Outputs, picture_file
from ..locks import release
from ..networks import identity
from ..networks.adapter_files import BUFFERS, at_temperature, load_adapter, read_adapter, read_training
from ..networks.regions import numbered
from ..training.checkpoints import ABOUT, ADAPTER, BESIDE_REPORT, Checkpoints
from ..training.handlers import Cases
from ..training.plan import Plan
from ..training.resume import read_history
from ..training.room import too_few
from .html_report import evaluation_report
from .last_validation import LastValidation
from .metrics import METRICS, SIZES, TOLERANCE
from .prompted import ANSWERS, CURVE
from .tables import read_table

FILES = ("plan.json", "report.html", "training_cases.txt", *BESIDE_REPORT)


def check_outputs(output_dir: str | Path, cases: Sequence[Mapping[str, Any]]) -> None:
    """Find out before a training or an evaluation whether its results can be written."""
    check_writable(output_dir, "output_dir")
    folder, names = Path(output_dir), CaseNames()
    Outputs(folder).check((folder / name, RUN) for name in FILES)
    named = [(names(case["image"]), case["image"], 2 if is_picture(case["image"]) else 3) for case in cases]
    for place in (folder, folder / "validation"):
        Outputs(place).check((picture_file(place, name, dims), image) for name, image, dims in named)


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
    run: Mapping[str, Any] | None = None,
) -> None:
    """Show what the best adapter does: Dice per label as a table, pictures of the worst validation cases, a report,
    and the names of the cases that were trained on. Without validation cases only the names.

    The network gets the best adapter of those in ``folder``; tables and pictures go to ``output_dir``. ``settings`` say
    how the images were prepared, ``training`` lists the cases trained on, ``pictures`` says how many cases to draw, and
    ``run`` is what :func:`of_run` takes. The adapter is evaluated, unless it is that of the :class:`LastValidation`.
    """
    path = Path(folder) / Checkpoints.BEST
    idist.barrier()  # until the first process has written it
    load_adapter(getattr(network, "module", network), path)
    best = evaluator.state.best_metric_epoch
    found = vars(evaluator).get("last_validation") or LastValidation(evaluator, labels, output_dir, settings, pictures)
    if evaluator.data_loader:
        if not found.is_of(best):
            found.collect()
            Cases().attach(evaluator)
            evaluator.run(max(1, best))
        found.finish(path)
    else:
        print("there are no validation cases: nothing was measured, the adapter is that of the last epoch")
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    if not first_process():
        return
    names = told_apart([case["image"] for case in training])
    listed = Path(output_dir) / "training_cases.txt"
    Outputs(output_dir).write("".join(f"{name}\n" for name in names), listed)
    print(f"trained on {len(names)} case{'s' * (len(names) > 1)}: {listed if len(names) > 4 else shown(names)}")
    size = path.stat().st_size
    print(f"adapter: {path} ({size / 1024:.0f} KB), {f'best after epoch {best}' if best > 0 else 'of the last epoch'}")
    if evaluator.data_loader:
        print("pictures: " + ", ".join(str(file) for file in found.drawing.written), flush=True)
        write_report(output_dir, folder, settings, Path(output_dir) / "validation", path, run, "Training")
    release(output_dir)
    release(folder)


def write_report(
    output_dir: str | Path,
    ckpt_dir: str | Path,
    settings: Mapping[str, Any],
    pictures: str | Path | None = None,
    adapter: str | Path | None = None,
    run: Mapping[str, Any] | None = None,
    title: str = "Evaluation",
) -> Path:
    """Write ``report.html`` of an evaluation's ``cases.csv`` and pictures, and of the training that led to it, whose
    checkpoints are in ``ckpt_dir``. ``adapter`` is what was evaluated, if another than the one there, ``run`` is
    what :func:`of_run` takes, and ``title`` what is reported."""
    folder = Path(output_dir)
    if not first_process():
        return folder / "report.html"
    rows = read_rows(folder / "cases.csv")
    shown = {row["case"]: picture_file(Path(pictures or folder), row["case"], settings["spatial_dims"]) for row in rows}
    file = Path(adapter) if adapter else Path(ckpt_dir) / Checkpoints.BEST
    history = read_history(file, Checkpoints.RESUME)
    images = {key: value for key, value in settings.items() if key not in identity.RECKONED and value is not None}
    if "ct" not in str(images.get("intensity")):
        images.pop("ct_window", None)
    said = {**of_adapter(file), "Images and sizes": images, "This run": of_run(**run or {})}
    notes = said["This run"].pop("notes")
    data = said["This run"]["data"]
    title = f"{title} on {data}" if data else title
    tolerance = about_cases(folder).get("surface_tolerance", TOLERANCE)
    outputs, curve = Outputs(folder), folder / CURVE
    if curve.is_file() and curve.stat().st_mtime < (folder / "cases.csv").stat().st_mtime:  # of another adapter
        for name in (ANSWERS, CURVE):
            outputs.remove(folder / name)
    path = evaluation_report(rows, shown, said, history, folder / "report.html", [curve], tolerance, title, notes)
    if about := about_cases(folder):
        about[ADAPTER] = content_hash(at_temperature(read_adapter(file)))
        outputs.write(json.dumps(about, indent=2, ensure_ascii=False) + "\n", folder / ABOUT, RUN)
    print(f"report: {path}", flush=True)
    release(folder)
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``cases.csv``, with numbers."""
    try:
        rows = read_table(path)
        for row in rows:
            numbers = (*METRICS, *SIZES, *OBJECTS, quality.KEY)
            row.update({key: float(row[key] or "nan") for key in numbers if key in row})
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not rows or not {"case", "label", *METRICS} <= rows[0].keys():
        raise InputError(f"{path}: is no table of an evaluation, which has a row for each case and label")
    for row in rows:
        odd = [f"{key} {row[key]:g}" for key in ("dice", "surface_dice") if row[key] < 0 or row[key] > 1]
        odd += [f"{key} {row[key]:g}" for key in ("hd95", *SIZES) if row.get(key, 0) < 0]
        if odd:
            raise InputError(f"{path}: has the case {row['case']} with {odd[0]}; it was changed by hand")
    return rows


def about_cases(folder: Path) -> dict[str, Any]:
    """What lies beside a ``cases.csv`` about it; nothing beside one of an older version."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if isinstance(found, dict) and isinstance(found.get("surface_tolerance"), int | float):
            return found
    return {}


def of_adapter(path: Path) -> dict[str, dict[str, Any]]:
    """What an adapter is and how it was trained, in groups, for people."""
    state = read_adapter(path)
    record, training = identity.from_tensor(state["identity"]), read_training(path) or {}
    plan, settings = training.get("plan", {}), training.get("settings", {})
    regions, instances = (record["preprocessing"].get(key) for key in ("regions", "instances"))
    about = {
        "method": identity.title_of(record["method"]),
        "base": f"{record['backbone']} (weights {record['base'][:12]})",
        "labels": numbered(record["labels"], regions, instances) if regions or instances else record["labels"],
        "trained parameters": f"{sum(x.numel() for name, x in state.items() if name not in BUFFERS):,}",
        "file": path.name,
    }
    known = {*about, "backbone", "preprocessing"}
    numbers = {key: value for key, value in record.items() if key not in known}
    if not training:
        return {"Adapter": about | numbers}
    trained = {
        "date": training["date"],
        "sam_monai": training["sam_monai"],
        "epochs": training["epochs"],
        "kept": f"epoch {training['best_epoch']}",
        "Dice then" if instances else "Dice then, by which it was chosen": training["validation_dice"],
        "training cases": training["training_cases"],
        "validation cases": training["validation_cases"],
        **{key: plan[key] for key in ("scale", "minutes") if plan.get(key) is not None},
        **({"quick": "a trial run: its figures mean nothing"} if training.get("quick") else {}),
        **({"steps": too_few(training)} if too_few(training) else {}),
    }
    chosen = {key: value for key, value in settings.items() if value is not None}
    return {"Adapter": about | numbers, "Its training": trained, "Keys of its training": chosen}


def of_run(
    dataset_dir: str | Path | None = None, device: Any = None, begun: float | None = None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """What a report says of the run that wrote it, which ``begun`` by ``time.monotonic``. Of its data's folder, also in
    the ``notes`` of :func:`sam_monai.data.examine`, the name alone is told."""
    said: dict[str, Any] = {"date": datetime.now().astimezone().isoformat(" ", "minutes")}
    said["data"] = Path(dataset_dir).resolve().name if dataset_dir else ""
    if device is not None:
        said["device"] = in_full(torch.device(device))
    if begun is not None:
        said["time"] = str(timedelta(seconds=round(time.monotonic() - begun)))
    above = os.path.dirname(os.path.abspath(from_home(dataset_dir or "."))) + os.sep
    said["notes"] = [note.replace(above, "") for note in notes]
    return said


def in_full(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} ({platform.machine()}, {threads} thread{'s' * (threads != 1)})"
