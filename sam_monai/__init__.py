"""MONAI bundles that adapt the Segment Anything Model to medical images with a handful of labelled scans."""

from __future__ import annotations

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
