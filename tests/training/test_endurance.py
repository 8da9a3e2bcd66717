"""Fifty kills and many hours' worth of steps: nothing is lost, nothing grows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_runner import ROOT
from tiny_training import same

pytestmark = pytest.mark.slow


def job(name: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/endurance_jobs.py"), name, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_training_killed_thirty_times_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    assert "killed 30 times" in job("training", tmp_path)
    assert same(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").glob("replaced_*"))


@pytest.mark.parametrize(("name", "kills"), [("saving", 8), ("studies", 6), ("packaging", 6)])
def test_whatever_is_killed_leaves_whole_files_and_can_be_run_again(name, kills, tmp_path):
    assert f"killed {kills} times" in job(name, tmp_path)


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
