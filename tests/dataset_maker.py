"""A Decathlon dataset.json, for tests that need no images."""

from __future__ import annotations

import json
from pathlib import Path


def case(n: int, suffix: str = ".nii.gz") -> dict[str, str]:
    return {"image": f"./imagesTr/{n}{suffix}", "label": f"labelsTr/{n}{suffix}"}


def write(folder: Path, **changes) -> Path:
    """A dataset.json with ten training cases and two of validation; a change to None takes a key out."""
    content = {
        "name": "made",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "training": [case(n) for n in range(10)],
        "validation": [case(n) for n in (10, 11)],
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return folder
