"""Dice against the time since the command was given: ``python -m benchmarks.time_to_dice FOLDER [FOLDER ...]``.

Each method trains with its bundle's own plan, and MONAI's U-Net as :mod:`benchmarks.unet` has it, one after the other,
each in a process of its own. Every Dice that a training prints is noted with the seconds since its process began, in
which its validations count too. A training is written to ``time_to_dice.json`` in the current folder when it ends, and
not run again with the same minutes and threads; the table and the picture are made of all that are there. Several runs
with ``--only`` may share a machine's cores, a core each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam_monai.data import read_dataset
from sam_monai.files import write_json

from .accuracy import BUNDLES, METHODS
from .picture import draw_curves

VALIDATED = re.compile(r"epoch \d+: validation Dice ([\d.]+)")


def commands(folder: str, minutes: float, output: str) -> dict[str, list[str]]:
    """Command lines by contender."""
    found = {}
    for method, (bundle, *keys) in METHODS.items():
        config = str(BUNDLES / bundle / "configs" / "train.json")
        where = ["--dataset_dir", folder, "--ckpt_dir", f"{output}/models", "--output_dir", f"{output}/output"]
        found[method] = ["-m", "monai.bundle", "run", "--config_file", config, *where, "--minutes", str(minutes), *keys]
    rival = ["-m", "benchmarks.unet", folder, f"{output}/found.json", "--judge_every"]
    if read_dataset(folder).spatial_dims == 2:
        return found | {"U-Net whole": [*rival, "15"], "U-Net patch": [*rival, "15", "--patch"]}
    return found | {f"U-Net {size}": [*rival, "10", "--size", size, "--epochs", "60"] for size in ("64", "96")}


def curve(command: Sequence[str], threads: int) -> list[tuple[float, float]]:
    """Seconds and Dice of each validation that a command prints.

    Raises:
        RuntimeError: the command failed.
    """
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    environment["PYTHONUNBUFFERED"] = "1"  # each line comes when it is printed
    started, found, last = time.monotonic(), [], ""
    with subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        for last in running.stdout or ():
            if said := VALIDATED.search(last):
                found.append((round(time.monotonic() - started, 1), float(said[1])))
    if running.returncode:
        raise RuntimeError(f"ended with {running.returncode}: {last}")
    return found


def reached(points: Sequence[Sequence[float]], dice: float) -> float | None:
    """Seconds after which a validation had such a Dice; ``None``: none had."""
    return next((seconds for seconds, value in points if value >= dice), None)


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: of each set and contender the last Dice, and the time to that of the better U-Net."""
    lines = [
        "| set | contender | last Dice | minutes in all | minutes to the better U-Net's last Dice |",
        "|---" * 5 + "|",
    ]
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        row = [cell for cell in cells if cell["dataset"] == dataset]
        rival = max((c["points"][-1][1] for c in row if c["contender"].startswith("U-Net")), default=1.0)
        for cell in row:
            seconds, dice = cell["points"][-1]
            there = reached(cell["points"], rival)
            to = "" if there is None else f"{there / 60:.1f}"
            lines.append(f"| {dataset} | {cell['contender']} | {dice:.3f} | {seconds / 60:.1f} | {to} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_dice", description=__doc__)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--only", nargs="*", help="contenders: S-SAM, PTSAM, Med-SA, 'U-Net whole', 'U-Net 64', ...")
    parser.add_argument("--minutes", type=float, default=15.0, help="the budget of a method")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("time_to_dice.json"))
    words = parser.parse_args()
    for folder in words.folders:
        with tempfile.TemporaryDirectory() as output:
            for name, command in commands(folder, words.minutes, output).items():
                known = read(words.output)
                key = {"dataset": Path(folder).resolve().name, "contender": name, "threads": words.threads}
                key |= {} if name.startswith("U-Net") else {"minutes": words.minutes}  # a U-Net takes what it takes
                if words.only and name not in words.only or any(key.items() <= cell.items() for cell in known):
                    continue
                points = curve(command, words.threads)
                print(f"{key['dataset']}, {name}: {points}", flush=True)
                made = {**key, "minutes": words.minutes, "points": points}
                write_json([*read(words.output), made], words.output)
    cells = read(words.output)
    print(table(cells))
    draw_curves(cells, words.output.with_suffix(".png"))


def read(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


if __name__ == "__main__":
    main()
