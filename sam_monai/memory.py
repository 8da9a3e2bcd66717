"""How the process takes and keeps memory: a setting of the whole process, made when training or segmenting begins."""

from __future__ import annotations

import ctypes
import os


def keep_freed_memory() -> None:
    """Let Linux keep the memory of freed arrays for the next ones: a tenth to a fifth of the time of training and
    inference on a CPU.

    The C library then keeps up to a GiB, which it would otherwise give back to the system and take anew at every step,
    and torch takes large arrays in large pages. ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or
    ``GLIBC_TUNABLES`` in the environment leave the C library as they say, ``THP_MEM_ALLOC_ENABLE`` the pages. Bundles
    and benchmarks call this when they begin; ``import sam_monai`` does not. On other systems it does nothing.
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
