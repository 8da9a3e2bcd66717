"""What ``import sam_monai`` does to the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

TAKEN_ANEW = """
import resource
import torch
{}
def array():
    torch.ones(2**25)  # 128 MB, which are freed at once
for _ in range(10):
    array()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    array()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_taken_anew(imports: str = "", **environment: str) -> int:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "THP_", "GLIBC_"))}
    code = [sys.executable, "-c", TAKEN_ANEW.format(imports)]
    return int(subprocess.run(code, env=known | environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory as it likes")
def test_freed_memory_serves_the_next_array_unless_the_environment_says_otherwise():
    kept = pages_taken_anew("import sam_monai")
    assert 2 * kept < pages_taken_anew("import sam_monai", MALLOC_TRIM_THRESHOLD_="131072")  # large pages
    assert 20 * kept < pages_taken_anew()
