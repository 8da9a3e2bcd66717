"""Times sam_monai beside the packages that have SAM too: ``python -m benchmarks [words of a job's name ...]``.

Each job runs in a process of its own, its contenders in turn; peak memory is measured in a further process each, a
GPU's in the same. Jobs that the output folder holds are not measured again, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

from . import measure, single
from .jobs import JOBS

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("words", nargs="*", help="only the jobs whose names hold one of these")
    parser.add_argument("--rounds", type=int, default=5, help="of a job at most; medians are reported")
    parser.add_argument("--seconds", type=float, default=60, help="of a job at most, as far as three rounds allow")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="where the JSON, table and picture go")
    parser.add_argument("--anew", action="store_true", help="measure again what the output folder holds already")
    words = parser.parse_args()
    chosen = [name for name in JOBS if not words.words or any(word in name for word in words.words)]
    words.output.mkdir(parents=True, exist_ok=True)
    kept = words.output / "benchmarks.json"
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() and not words.anew else {"jobs": {}}
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), **alone(measure.machine), "jobs": before["jobs"]}
    for what in ("device", "threads", "versions"):
        if before["jobs"] and before.get(what) != found[what]:
            parser.error(f"{kept} was measured with another {what}, {before.get(what)}: give --output or --anew")
    print(heading(found), flush=True)
    ended = []
    for number, name in enumerate(chosen, 1):
        try:
            if name not in found["jobs"]:
                found["jobs"][name] = measured(name, words.rounds, words.seconds)
        except BrokenProcessPool:
            ended.append(name)
            print(f"\n{name}: the system ended its process, perhaps for want of memory", flush=True)
            continue
        print("\n".join([*lines(name, found["jobs"][name]), f"({number} of {len(chosen)} jobs)"]), flush=True)
        found["jobs"] = {name: found["jobs"][name] for name in JOBS if name in found["jobs"]}
        write(kept, json.dumps(found, indent=1))
    write(words.output / "benchmarks.md", table(found))
    from .picture import draw

    draw(found, words.output / "benchmarks.png")
    print(f"written: {words.output}/benchmarks.json, .md and .png")
    if ended:
        raise SystemExit(f"not measured, for the system ended their processes: {'; '.join(ended)}")


def measured(name: str, rounds: int, most_seconds: float) -> dict[str, Any]:
    """A job's times, and its contenders' peak memory.

    Raises:
        BrokenProcessPool: the system ended a process, most likely for want of memory.
    """
    job = alone(single.timed, name, rounds, most_seconds)
    for contender, result in job["runs"].items():
        if job["items"] and "memory" not in result:  # a command's memory is another process's
            result["memory"] = alone(single.peak_memory, name, contender)
    return job


def alone(function: Callable[..., Any], *arguments: object) -> Any:
    """What a function gives in a process of its own, which begins with the imports done where the system can fork."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(["benchmarks.jobs"])
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(function, *arguments).result()


def heading(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{found['date']}, {found['device']}, {found['threads']} threads; matrix products: fp32 "
        f"{found['fp32'] / 1e9:.0f}, bf16 {found['bf16'] / 1e9:.0f} GFLOP/s; {versions}"
    )


COLUMNS = ("", "seconds (least to most)", "ratio", "a second", "peak GiB", "of the rate", "difference")


def cells(name: str, job: dict[str, Any]) -> list[str]:
    """One contender's row."""
    result, whole = job["runs"][name], job["runs"][job["yardstick"]]["median"]
    median = result["median"]
    share, memory, difference = (result.get(key) for key in ("share", "memory", "difference"))
    return [
        name,
        f"{median:.3f} ({result['least']:.3f} to {result['most']:.3f})",
        f"{median / whole:.3f}",
        f"{job['items'] / median:.1f}" if job["items"] else "",
        "" if memory is None else f"{memory:.2f}",
        "" if share is None else f"{share:.0%} of {result['precision']}",
        "" if difference is None else f"{difference:.1e}",
    ]


def lines(name: str, job: dict[str, Any]) -> list[str]:
    rows = [cells(contender, job) for contender in job["runs"]]
    return [
        f"\n{name}",
        *("  ".join(f"{cell:>{len(head) or 28}}" for cell, head in zip(row, COLUMNS, strict=True)) for row in rows),
    ]


def table(found: dict[str, Any]) -> str:
    """All of it in Markdown."""
    text = [heading(found), ""]
    for name, job in found["jobs"].items():
        rows = [cells(contender, job) for contender in job["runs"]]
        text += [f"| {name} | {' | '.join(COLUMNS[1:])} |", "|---" * len(COLUMNS) + "|"]
        text += [f"| {' | '.join(row)} |" for row in rows] + [""]
    return "\n".join(text)


def write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    main()
