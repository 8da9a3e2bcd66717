"""Adapters: those in a folder, and those that a command trains on data that come with an extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..networks.adapter_files import header
from . import shipped

# Where a training, a packaged bundle and a folder of such keep adapters.
PLACES = ("*.safetensors", "models/*.safetensors", "*/*.safetensors", "*/models/*.safetensors",
          "bundles/*/models/*.safetensors", "adapters/*/*.safetensors")  # fmt: skip
DATA = "the MNI152 template (extra demo; its licence is in the dataset.json that is made)"


def listed(folder: str | Path) -> str:
    """The adapters in a folder and what they are, then the commands that train one with each bundle on data that
    anybody may have, and make a bundle with a model card of it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one with bundles or adapters in it")
    files = sorted({file for place in PLACES for file in folder.glob(place)})
    found = [line for file in files if (line := described(file, folder)) is not None]
    lines = [f"adapters in {folder}:", *(found or ["  none"]), "", f"to train, on {DATA}, each in four minutes:"]
    for name in shipped.names():
        made = f"mni152_{name}"
        lines += [
            f"  {made}",
            f"    sam-monai train --bundle {name} --ckpt_dir adapters/{made} --output_dir adapters/{made}/output",
            f"    sam-monai package {name} {made} --adapter adapters/{made}/model.pt",
        ]
    return "\n".join(lines)


def described(file: Path, folder: Path) -> str | None:
    """A line about an adapter; ``None`` where a file is something else, such as base weights."""
    try:
        words = header(file)
    except Exception as error:  # safetensors raises its own kinds for a file that is none
        return f"  {file.relative_to(folder)}  cannot be read ({error})" if isinstance(error, InputError) else None
    if "identity" not in words:
        return None
    record, training = words["identity"], words.get("training", {})
    parts = [record["method"], ", ".join(record["labels"]), f"{record['backbone']} at {record['image_size']} px"]
    return f"  {file.relative_to(folder)}  {'; '.join([*parts, *results(training)])}"


def results(training: Mapping[str, Any]) -> list[str]:
    if not training:
        return ["training not recorded"]
    dice, cases = training["validation_dice"], training["validation_cases"]
    measured = "not measured" if dice is None else f"Dice {dice:.3f} on {cases} case{'s' * (cases != 1)}"
    return [measured, training["date"][:10], *(["a trial run"] if training.get("quick") else [])]
