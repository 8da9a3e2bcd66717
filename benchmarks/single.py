"""A job in a process of its own, where nothing else has run before."""

from __future__ import annotations

import statistics
from typing import Any

from . import measure
from .job import precision
from .jobs import JOBS


def timed(name: str, rounds: int, most_seconds: float) -> dict[str, Any]:
    """Seconds of the job's contenders, the share of the machine's rate that each reaches with its own operations, and
    how far ours is from the yardstick's answer."""
    job = JOBS[name]()
    runs = {contender: build() for contender, build in job.builders.items()}
    answers: dict[str, Any] = {contender: one() for contender, one in runs.items()} if job.answers else {}
    truth = answers.get(job.yardstick)
    rates = {kind: measure.rate(kind) for kind in {precision(contender) for contender in runs}} if job.items else {}
    seconds = measure.alternating(runs, rounds, most_seconds)
    results: dict[str, Any] = {}
    for contender, values in seconds.items():
        result = results[contender] = {
            "median": statistics.median(values),
            "least": min(values),
            "most": max(values),
            "rounds": len(values),
        }
        if job.items and "openvino" not in contender.lower() and "onnx" not in contender:  # torch cannot see theirs
            work, kind = measure.work(runs[contender]), precision(contender)
            result |= {"work": work, "precision": kind, "share": work / result["median"] / rates[kind]}
        answer = answers.get(contender)
        if truth is not None and answer is not None and contender.startswith("sam_monai"):
            result["difference"] = ((answer - truth).pow(2).mean().sqrt() / truth.std()).item()
    return {"items": job.items, "yardstick": job.yardstick, "rates": rates, "runs": results}


def peak_memory(name: str, contender: str) -> float | None:
    return measure.peak_memory(JOBS[name]().builders[contender])
