"""MONAI bundles that adapt the Segment Anything Model to medical images with a handful of labelled scans."""

from __future__ import annotations

import ctypes
import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import InputError
    from .networks.medsa import MedSA
    from .networks.ptsam import PTSAM
    from .networks.ssam import SSAM

__version__ = "0.1.0"

# torch on Linux then takes large pieces of memory in large pages: clearing small ones is a fifth of TinyViT's time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _keep_freed_memory() -> None:
    """Let the C library of Linux keep a GiB for the next arrays, which else it gives back to the system and takes anew
    at every step: a tenth to a fifth of the time. ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or
    ``GLIBC_TUNABLES`` in the environment say otherwise."""
    if not os.environ.keys() & {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}:
        try:
            set_option = ctypes.CDLL(None).mallopt
        except (AttributeError, OSError, TypeError):  # another system's library
            return
        trim_threshold, mmap_threshold = -1, -3
        set_option(trim_threshold, 2**30)
        set_option(mmap_threshold, 2**29)  # larger arrays go back at once


_keep_freed_memory()

__all__ = ["PTSAM", "SSAM", "InputError", "MedSA", "__version__"]

_HOMES = {"MedSA": ".networks.medsa", "PTSAM": ".networks.ptsam", "SSAM": ".networks.ssam", "InputError": ".errors"}


def __getattr__(name: str) -> Any:
    # Configurations say `sam_monai.training` or `sam_monai.SSAM` after `import sam_monai` alone, and a program that
    # wants one of them need not wait for the others.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
