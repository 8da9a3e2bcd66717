"""Where trained adapters lie, as far as a command line alone says it.

A mistake is answered before torch and MONAI are imported, so this module must not import them at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .typed import is_expression

RESUMED = "model_resume.pt"  # as where it is written; a test compares, as with the next
DEMO_LABELS = ["grey matter", "white matter"]


def models_of(given: Mapping[str, Any], bundle: Path, config: Mapping[str, Any]) -> Path | None:
    """The folder of adapters, where a command line alone says where it is."""
    places = [given[key] for key in ("adapter", "ckpt_dir", "bundle_root") if key in given]
    if not all(isinstance(place, str) and not is_expression(place) for place in places):
        return None
    if any(not str(config[key]).startswith("$os.path.join(@") for key in ("adapter", "ckpt_dir") if key in config):
        return None
    folder = Path(given.get("ckpt_dir", Path(given.get("bundle_root", bundle)) / "models"))
    return folder / "quick" if "quick" in config and str(given.get("quick")) == "True" else folder


def refuse_missing_adapter(given: Mapping[str, Any], models: Path | None) -> Path | None:
    """Say at once that there is nothing to segment or to measure; else give the adapter's file, where it is known."""
    if models is None:
        return None
    path = Path(given.get("adapter", models / "model.pt"))
    if not path.is_file():
        remedy = "train one by `sam-monai train FOLDER`, or give its file by --adapter"
        raise InputError(f"there is no trained adapter at {path}: {remedy}")
    return path


def labels_of(adapter: Path) -> list[str]:
    """The labels of an adapter, by its record."""
    from ..networks.adapter_files import read_adapter
    from ..networks.identity import from_tensor

    return from_tensor(read_adapter(adapter)["identity"])["labels"]
