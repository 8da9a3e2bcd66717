"""What Linux has and other systems lack is taken away: the package does without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_runner import ROOT

from sam_monai import InputError, locks, memory
from sam_monai.locks import LOCK, locked
from sam_monai.training.caching import BoundedCache

WINDOWS = """
import os, signal, sys
import monai.bundle  # torch itself looks at the system's name
for module in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[module] = None
del os.register_at_fork, os.fork, signal.SIGALRM, signal.setitimer, signal.SIGCHLD
from sam_monai.bundle.command_line import stop_in_a_line
from sam_monai.__main__ import main
sys.exit(main(["keys", "ssam"]))
"""


@pytest.fixture
def windows(monkeypatch):
    """Locks without fcntl, where a file that is open cannot be removed."""
    unlink = Path.unlink

    def refuse_open(path: Path, missing_ok: bool = False) -> None:
        if any(os.path.realpath(f"/proc/self/fd/{one}") == str(path.resolve()) for one in os.listdir("/proc/self/fd")):
            raise PermissionError(13, "in use", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(Path, "unlink", refuse_open)


def test_without_locks_of_files_a_folder_is_still_had_by_one(windows, tmp_path):
    (tmp_path / LOCK).write_text("{}")  # of a process that was killed
    for _ in range(2):
        with locked(tmp_path, "training"), pytest.raises(InputError, match="is in use by training"):
            with locked(tmp_path, "evaluation"):
                pass
        assert not (tmp_path / LOCK).exists()


def test_where_the_free_memory_is_not_known_every_case_is_kept(monkeypatch):
    monkeypatch.setattr(memory, "number", lambda *_: (_ for _ in ()).throw(FileNotFoundError("/proc/meminfo")))
    assert memory.free_memory() is None
    assert BoundedCache([1, 2, 3], lambda one: one, progress=False)[2] == 3


def test_the_command_line_needs_no_module_that_only_linux_has():
    done = subprocess.run([sys.executable, "-c", WINDOWS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--epochs" in done.stdout, done.stderr
