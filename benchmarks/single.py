"""A job in a process of its own, where nothing else has run before."""

from __future__ import annotations

import statistics
from typing import Any

from . import measure
from .job import precision
from .jobs import JOBS


def timed(name: str, rounds: int, most_seconds: float) -> dict[str, Any]:
    """Seconds of the job's contenders, the share of the machine's rate that each reaches with its own operations, how
    far ours is from the yardstick's answer, and on a GPU the peak memory."""
    job = JOBS[name]()
    runs = {contender: build() for contender, build in job.builders.items()}
    rates = {kind: measure.rate(kind) for kind in {precision(contender) for contender in runs}} if job.items else {}
    seconds = measure.alternating(runs, rounds, most_seconds)
    once_more: dict[str, tuple[Any, float]] = {}
    if job.items:
        once_more = {contender: measure.counted(run) for contender, run in runs.items() if counts(contender)}
    results: dict[str, Any] = {}
    for contender, values in seconds.items():
        result = results[contender] = {
            "median": statistics.median(values),
            "least": min(values),
            "most": max(values),
            "rounds": len(values),
        }
        if job.items and measure.device().type == "cuda":
            result["memory"] = measure.peak_memory_of_gpu(runs[contender])
        if contender in once_more:
            answer, work = once_more[contender]
            kind = precision(contender)
            result |= {"work": work, "precision": kind, "share": work / result["median"] / rates[kind]}
            if job.answers and contender.startswith("sam_monai"):
                truth = once_more[job.yardstick][0]
                result["difference"] = ((answer - truth).pow(2).mean().sqrt() / truth.std()).item()
    return {"items": job.items, "yardstick": job.yardstick, "rates": rates, "runs": results}


def counts(contender: str) -> bool:
    """Whether torch sees a contender's operations."""
    return "openvino" not in contender.lower() and "onnx" not in contender


def peak_memory(name: str, contender: str) -> float | None:
    return measure.peak_memory(JOBS[name]().builders[contender])
