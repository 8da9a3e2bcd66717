"""MONAI bundles that adapt the Segment Anything Model to medical images with a handful of labelled scans.

Subpackages, in order; each may import those before it: ``backbones``, ``adaptations``, ``networks``, ``data``,
``prompts``, ``training``, ``inference``, ``results``, ``bundle``. Each says in its ``__init__`` what it holds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import InputError
    from .memory import keep_freed_memory
    from .networks.base import AdaptedSAM
    from .networks.medsa import MedSA
    from .networks.ptsam import PTSAM
    from .networks.ssam import SSAM

__version__ = "0.1.0"

__all__ = ["PTSAM", "SSAM", "AdaptedSAM", "InputError", "MedSA", "__version__", "keep_freed_memory"]

_HOMES = {
    "AdaptedSAM": ".networks.base",
    "InputError": ".errors",
    "MedSA": ".networks.medsa",
    "PTSAM": ".networks.ptsam",
    "SSAM": ".networks.ssam",
    "keep_freed_memory": ".memory",
}


def modules_of(package: str) -> Callable[[str], Any]:
    """A package's ``__getattr__`` that imports its modules when they are first named: configurations say
    ``sam_monai.training.losses`` after ``import sam_monai`` alone, and a program waits only for what it uses."""

    def find(name: str) -> Any:
        try:
            return importlib.import_module(f"{package}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{package}.{name}":
                raise
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None

    return find


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    return modules_of(__name__)(name)
