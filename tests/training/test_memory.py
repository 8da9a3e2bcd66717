"""Many hours' worth of steps and studies: memory does not grow."""

from __future__ import annotations

import re

import pytest
from endurance_jobs import job

pytestmark = pytest.mark.slow


def growth(output: str) -> dict[str, tuple[int, float]]:
    found = re.findall(r"(steps|studies) (\d+) growth (\S+)", output)
    return {what: (int(number), float(megabytes)) for what, number, megabytes in found}


def test_memory_is_flat_over_500_steps_and_200_inferences_and_a_leak_would_be_seen(tmp_path):
    for name in ("memory", "leaking"):
        (tmp_path / name).mkdir()
    flat = growth(job("memory", tmp_path / "memory"))
    assert flat["steps"][0] == 500 and flat["studies"][0] == 200
    leaking = growth(job("leaking", tmp_path / "leaking"))
    print(flat, leaking)
    assert all(megabytes < 5 for _, megabytes in flat.values())
    assert all(megabytes > 8 for _, megabytes in leaking.values())
