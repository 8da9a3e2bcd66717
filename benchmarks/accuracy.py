"""Dice of sam_monai and of a U-Net on the same cases: ``python -m benchmarks.accuracy FOLDER [FOLDER ...]``.

A cell is a dataset, a contender and a seed. Each is trained in a process of its own with one thread, two side by side,
and written at once; a finished cell is never run again. Dice is that of the last epoch, on each file's own grid: mean
over the validation cases that hold a label, then over the labels. ``accuracy.json``, a table and a picture are made of
all cells; without folders they are made of the cells of an ``accuracy.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from sam_monai.data import read_dataset
from sam_monai.files import write_aside, write_json

from .picture import draw_dice

HERE = Path(__file__).parent
BUNDLES = HERE.parent / "bundles"
RIVALS: dict[str, tuple[str, ...]] = {"U-Net whole": (), "U-Net patch": ("--patch",)}
RIVALS_3D: dict[str, tuple[str, ...]] = {
    f"U-Net {size}": ("--size", str(size), "--epochs", "60") for size in (48, 64, 96)
}
OF_CASES = {"--fold": "--fold", "--train_cases": "--cases"}  # keys, and what they are called for the U-Net
METHODS: dict[str, tuple[str, ...]] = {  # bundle and keys
    "S-SAM": ("ssam",),
    "PTSAM": ("ptsam",),
    "Med-SA": ("medsa",),
    "Med-SA, labels alone": ("medsa", "--draws", "0"),
}


def contenders(folder: str, methods: Sequence[str], settings: Sequence[str]) -> dict[str, list[str]]:
    """Command lines by name, of which OUTPUT and SEED are to be filled in. Settings that choose cases are the rivals'
    too."""
    rivals = RIVALS if read_dataset(folder).spatial_dims == 2 else RIVALS_3D
    shared = [word for key, value in pairwise(settings) if key in OF_CASES for word in (key, value)]
    found = {}
    for name, more in rivals.items():
        command = ["-m", "benchmarks.unet", folder, "OUTPUT/found.json", "--seed", "SEED", *more]
        found[" ".join([name, *shared])] = [*command, *(OF_CASES.get(word, word) for word in shared)]
    for method in methods:
        bundle, *keys = METHODS[method]
        config = str(BUNDLES / bundle / "configs" / "train.json")
        command = ["-m", "monai.bundle", "run", "--config_file", config, "--dataset_dir", folder, "--seed", "SEED"]
        # Validated once, after the last epoch, whose adapter is then the best: nothing is chosen by what is reported.
        command += [
            "--ckpt_dir",
            "OUTPUT/models",
            "--output_dir",
            "OUTPUT/output",
            "--val_interval",
            "1000000",
            *keys,
            *settings,
        ]
        found[" ".join([method, *settings])] = command
    return found


def cell(folder: str, name: str, command: Sequence[str], seed: int, results: Path, threads: int) -> str:
    """Train one contender and keep what it reached, if it was not kept before. Gives what went wrong, or nothing."""
    dataset = Path(folder).resolve().name
    more = f" {threads} threads" * (threads > 1)
    file = results / f"{dataset} {name.replace('/', '_')} {seed}{more}.json"
    if file.is_file():
        return ""
    with tempfile.TemporaryDirectory() as output:
        words = [word.replace("OUTPUT", output).replace("SEED", str(seed)) for word in command]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        started = time.monotonic()
        log = Path(output) / "log.txt"
        with log.open("w") as lines:
            done = subprocess.run([sys.executable, *words], env=environment, stdout=lines, stderr=lines)
        if done.returncode:
            print(f"{file.stem}: ended with {done.returncode}: {log.read_text()[-500:]}", flush=True)
            return f"{file.stem} (ended with {done.returncode})"
        seconds = time.monotonic() - started
        found = Path(output) / "found.json"
        if found.is_file():
            kept = json.loads(found.read_text(encoding="utf-8"))
        else:
            with (Path(output) / "output" / "cases.csv").open(encoding="utf-8") as table:
                kept = {"cases": [row | {"dice": float(row["dice"] or "nan")} for row in csv.DictReader(table)]}
        plan = Path(output) / "output" / "plan.json"
        if plan.is_file():
            kept["plan"] = json.loads(plan.read_text(encoding="utf-8"))
    if not by_label(kept["cases"]):
        return f"{file.stem} (no validation case holds a label)"
    about = {"dataset": dataset, "contender": name, "seed": seed, "threads": threads, "wall": seconds}
    write_json({**about, **kept}, file)
    print(f"{file.stem}: Dice {mean_dice(kept['cases']):.3f} in {seconds / 60:.1f} min", flush=True)
    return ""


def by_label(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean Dice of each label over the cases that hold it."""
    labels = dict.fromkeys(row["label"] for row in rows)
    each = {label: [r["dice"] for r in rows if r["label"] == label and r["dice"] == r["dice"]] for label in labels}
    return {label: round(statistics.fmean(values), 4) for label, values in each.items() if values}


def mean_dice(rows: Sequence[Mapping[str, Any]]) -> float:
    """Over the cases that hold a label, then over the labels."""
    return statistics.fmean(by_label(rows).values())


def cells_of(results: Path) -> list[dict[str, Any]]:
    """What each finished cell reached, in short."""
    kept = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("* *.json"))]
    return [
        {"dataset": k["dataset"], "contender": k["contender"], "seed": k["seed"], "dice": by_label(k["cases"])}
        | {"plan": k.get("plan", {}).get("plan"), "minutes": round(k["wall"] / 60, 1)}
        for k in kept
    ]


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a dataset, a column a contender, mean and spread over the seeds."""
    rows: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        values = rows.setdefault(cell["dataset"], {}).setdefault(cell["contender"], [])
        values.append(statistics.fmean(cell["dice"].values()))
    names = sorted({name for row in rows.values() for name in row}, key=lambda name: (not name.startswith("U"), name))
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for dataset, row in rows.items():
        shown = [spread(row[name]) if name in row else "" for name in names]
        lines.append(f"| {dataset} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    text = f"{statistics.fmean(values):.3f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.3f} ({len(values)})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--methods", nargs="*", default=["S-SAM"], choices=list(METHODS))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of train.json")
    parser.add_argument("--without-rivals", action="store_true", help="no U-Net")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "accuracy")
    words = parser.parse_args()
    settings = [part for pair in words.set for part in (f"--{pair.partition('=')[0]}", pair.partition("=")[2])]
    names = [Path(folder).resolve().name for folder in words.folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        parser.error(
            f"two folders are called {twice}, and results are known by that name: rename one, or run them apart"
        )
    cells_run: list[Future[str]] = []
    with ThreadPoolExecutor(words.processes) as pool:
        for seed in words.seeds:
            for folder in words.folders:
                for name, command in contenders(folder, words.methods, settings).items():
                    if words.without_rivals and name.startswith("U-Net"):
                        continue
                    arguments = (folder, name, command, seed, words.output, words.threads)
                    cells_run.append(pool.submit(cell, *arguments))
    failed = [said for run in cells_run if (said := run.result())]  # an error of its own comes out here
    file = words.output / "accuracy.json"
    if words.folders:
        write_json(cells_of(words.output), file)
    cells = json.loads(file.read_text(encoding="utf-8"))
    write_aside(table(cells), words.output / "accuracy.md")
    draw_dice(cells, words.output / "accuracy.png")
    print(table(cells))
    if failed:
        raise SystemExit(f"not measured: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
