"""A bundle's folder: where it is, its labels, its trained adapter, and how that wants its images."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from ..errors import InputError
from ..networks import identity
from ..networks.adapter_files import read_adapter


def root(path: str) -> str:
    """The folder of the bundle whose configuration asks: where MONAI's workflow read it, whatever folder it runs in;
    without a workflow the current folder, if that is a bundle's, else ``path`` from there."""
    workflows = (frame.f_locals.get("self") for frame, _ in traceback.walk_stack(None))
    configs = (workflow.config_root_path for workflow in workflows if isinstance(workflow, ConfigWorkflow))
    for folder in (*(Path(folder).parent for folder in configs), Path()):
        if (folder / "configs" / "metadata.json").is_file():
            return str(folder)
    return path


def read_metadata(bundle_root: str | Path) -> dict[str, Any]:
    """The bundle's metadata.json."""
    path = Path(bundle_root) / "configs" / "metadata.json"
    if not path.is_file():
        raise InputError(f"{path} is missing: bundle_root must be the bundle's folder")
    return json.loads(path.read_text(encoding="utf-8"))


def record(bundle_root: str | Path, adapter: str | Path) -> dict[str, Any]:
    """What inference must know of the adapter before it is loaded: the adapter's own record where it is trained, else
    what metadata.json says of the bundle as it is shipped."""
    metadata = read_metadata(bundle_root)
    shipped = metadata["adapter"] | {"labels": metadata_labels(metadata)}
    if not Path(adapter).is_file():
        return shipped
    trained = identity.from_tensor(read_adapter(adapter)["identity"])
    # An adapter that was not trained by a bundle says nothing of its images.
    return trained | {"preprocessing": shipped["preprocessing"] | trained["preprocessing"]}


def metadata_labels(metadata: dict[str, Any]) -> list[str]:
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    return [channels[str(i)] for i in range(1, len(channels))]
