"""What ``import sam_monai`` does to the process, and what begins when a bundle does."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys

import pytest

TAKEN_ANEW = """
import resource
import monai.bundle, segment_anything, torch
import sam_monai
from sam_monai.networks import medsa, ptsam, ssam
{}
def array():
    torch.ones(2**24)  # 64 MB, which are freed at once
for _ in range(3):
    array()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    array()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
BEGIN = "sam_monai.bundle.command_line.begin()"


@functools.cache
def run(code: str, **environment: str) -> str:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "THP_", "GLIBC_"))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=known | environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_importing_the_package_imports_nothing_that_takes_time():
    heavy = {"torch", "monai", "ignite", "numpy", "pandas", "matplotlib", "tensorboard", "transformers", "highdicom"}
    assert run(f"import sys, sam_monai, sam_monai.__main__; print(sorted({heavy} & set(sys.modules)))").strip() == "[]"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory as it likes")
def test_freed_memory_serves_the_next_array_once_a_bundle_begins_unless_the_environment_says_otherwise():
    kept = int(run(TAKEN_ANEW.format(BEGIN)))
    assert 2 * kept < int(run(TAKEN_ANEW.format(BEGIN), MALLOC_TRIM_THRESHOLD_="131072"))  # large pages
    assert 20 * kept < int(run(TAKEN_ANEW.format("")))


def test_importing_changes_nothing_in_the_process():
    modules = "networks.medsa, sam_monai.networks.ssam, sam_monai.inference.studies, sam_monai.training.checkpoints"
    code = f"""
import os, signal, sys, ignite.engine, monai.bundle, segment_anything, kornia, torch
def state():
    hooks = sys.excepthook, sys.displayhook, torch.get_num_threads(), torch.get_default_dtype()
    return dict(os.environ), hooks, [signal.getsignal(n) for n in (2, 15)], torch.is_grad_enabled()
before = state()
import sam_monai, sam_monai.{modules}, sam_monai.bundle.command_line
print(before == state())
"""
    assert run(code).strip() == "True"
    # The C library's settings cannot be read; what they do can be counted.
    if platform.libc_ver()[0] == "glibc":
        without = TAKEN_ANEW.replace("import sam_monai\nfrom sam_monai.networks import medsa, ptsam, ssam\n", "")
        assert int(run(TAKEN_ANEW.format(""))) > 0.9 * int(run(without.format("")))
