"""How the process takes and keeps memory, and how much of it is free."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def keep_freed_memory() -> None:
    """Let Linux keep the memory of freed arrays for the next ones: a tenth to a fifth of the time of training and
    inference on a CPU.

    The C library then keeps up to a GiB, which it would otherwise give back to the system and take anew at every step,
    and torch takes large arrays in large pages. ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or
    ``GLIBC_TUNABLES`` in the environment leave the C library as they say, ``THP_MEM_ALLOC_ENABLE`` the pages. Bundles
    and benchmarks call this when they begin; ``import sam_monai`` does not. On other systems it does nothing.

    Example:
        >>> keep_freed_memory()  # at the start of a program of your own
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not os.environ.keys() & {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}:
        try:
            set_option = ctypes.CDLL(None).mallopt
        except (AttributeError, OSError, TypeError):  # another system's library
            return
        trim_threshold, mmap_threshold = -1, -3
        set_option(trim_threshold, 2**30)
        set_option(mmap_threshold, 2**29)  # larger arrays go back at once


def free_memory() -> int | None:
    """Bytes that the process can still take, of the machine, of its container and of a cluster's job: of several that
    torchrun started here, its share. ``None`` where that is not known."""
    try:
        free = 1024 * number("/proc/meminfo", "MemAvailable:")
    except OSError:  # another system than Linux
        return None
    for group in groups():
        for limit, used, cache in LIMITS:
            with suppress(OSError, ValueError):  # of another version, or without a limit
                left = int(Path(group, limit).read_text()) - int(Path(group, used).read_text())
                free = min(free, left + number(f"{group}/memory.stat", cache))  # files that were read can be dropped
    return max(0, free) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def groups(of: str = "/proc/self/cgroup", top: str = "/sys/fs/cgroup") -> list[Path]:
    """The control groups whose limits hold for the process: its own, as a cluster makes one for each job, and all above
    it. In a container its own one is at the top."""
    found = [Path(top), Path(top, "memory")]
    with suppress(OSError):
        for line in Path(of).read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                own = Path(top, controllers, path.strip("/"))
                found += [own, *(parent for parent in own.parents if Path(top) in parent.parents)]
    return found


def number(file: str, name: str) -> int:
    """The number after a name in a file of names and numbers; 0 without the name."""
    lines = (line.split() for line in Path(file).read_text().splitlines())
    return next((int(line[1]) for line in lines if line[0] == name), 0)
