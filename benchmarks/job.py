"""What a benchmark's job is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sam_monai.networks.slicewise import fast_bfloat16

from .measure import Run, device

Build = Callable[[], Run]


@dataclass(frozen=True)
class Job:
    """Args:
    builders: make the runs, ready to be timed; the first is ours.
    items: slices or images of a run; 0 for a command, whose operations cannot be counted.
    yardstick: whose time the ratio is of; the last builder's.
    answers: whether runs give the same tensor, so that ours can be compared with the yardstick's.
    """

    builders: Mapping[str, Build]
    items: int = 1
    answers: bool = False

    @property
    def yardstick(self) -> str:
        return list(self.builders)[-1]


def own_precision() -> str:
    """In which sam_monai computes on this device unless it is told otherwise."""
    return "bf16" if fast_bfloat16(device()) else "fp32"


def precision(contender: str) -> str:
    """In which a contender of this name computes."""
    if "bf16" in contender or "fp32" in contender:
        return "bf16" if "bf16" in contender else "fp32"
    return own_precision() if contender.startswith("sam_monai") else "fp32"


def on_cpu(builders: Mapping[str, Build]) -> dict[str, Build]:
    """Contenders that compute on a CPU alone: none of them beside a GPU."""
    return dict(builders) if device().type == "cpu" else {}
