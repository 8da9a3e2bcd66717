"""A bundle of one's own: a copy of the method's bundle that is about one trained adapter."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..distributed import first_process
from ..files import write_json
from ..networks.adapter_files import read_adapter, read_training, write_adapter
from .folder import metadata_labels, read_json, read_metadata, record
from .shipped import copy, default_root, new_folder


def package(bundle_root: str | Path, output: str | Path, adapter: str | Path | None = None) -> Path:
    """Make a bundle of a trained adapter: what is known of it becomes part of its configuration and metadata, so that
    further training, by a server too, continues this very network.

    Args:
        bundle_root: the bundle it was trained with.
        output: folder to make; there must be none, or an empty one.
        adapter: ``None``: the bundle's ``models/model.pt``.

    Raises:
        InputError: the output is there, the bundle is not one, the adapter is missing or of another method, or its
            record holds what no configuration may take.
    """
    root, output = Path(bundle_root), Path(output)
    adapter = root / "models" / "model.pt" if adapter is None else Path(adapter)
    state, known = read_adapter(adapter), record(root, adapter)
    # What was checked one by one, and nothing else of the record: a configuration is code.
    values = {key: value for key, value in known.items() if key not in ("method", "preprocessing")}
    values |= known["preprocessing"]
    metadata = described(read_metadata(root), known)
    with new_folder(output) as part:
        copy(root, part)
        write_json(metadata, part / "configs" / "metadata.json")
        for file in sorted((part / "configs").glob("*.json")):
            config = read_json(file)
            if file.name == "train.json":
                config |= {key: value for key, value in values.items() if not isinstance(config.get(key, {}), dict)}
                config["dataset_dir"] = None
            if "bundle_root" in config:
                config["bundle_root"] = default_root(output)
                write_json(config, file)
        write_adapter(state, part / "models" / "model.pt", read_training(adapter))
    return output


def suggest(bundle_root: str | Path, ckpt_dir: str | Path) -> None:
    """The last line of a training: how to make a bundle of the adapter, where the metadata describe another."""
    adapter = Path(ckpt_dir) / "model.pt"
    if first_process() and (Path(bundle_root) / "configs" / "metadata.json").is_file():
        metadata, ours = read_metadata(bundle_root), record(bundle_root, adapter)
        if metadata_labels(metadata) != ours["labels"] or any(ours.get(k) != v for k, v in metadata["adapter"].items()):
            command = shlex.join(
                ["python", "-m", "sam_monai", "package", str(bundle_root), "OUTPUT", "--adapter", str(adapter)]
            )
            print(f"metadata.json describes another adapter; for a bundle of this one: {command}", flush=True)


def described(metadata: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle's metadata, brought up to date with a trained adapter: labels, channels, sizes, preparation of images.

    Args:
        metadata: of the bundle.
        known: the adapter's record, as :func:`sam_monai.bundle.folder.record` gives it.
    """
    names = ["background", *known["labels"]]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    pred["num_channels"] = len(names)
    pred["channel_def"] = {str(i): name for i, name in enumerate(names)}
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    metadata["label_classes"], metadata["pred_classes"] = f"label map: {listed}", f"logits: {listed}"
    dims = known["preprocessing"]["spatial_dims"]
    shape = [known["image_size"]] * 2 + [8] * (dims - 2)
    image = metadata["network_data_format"]["inputs"]["image"]
    for tensor in (pred, image):
        tensor["spatial_shape"] = shape
    intensity = known["preprocessing"]["intensity"]
    image["modality"] = {"ct": "CT", "mr": "MR", "picture": "RGB"}[intensity]
    image["num_channels"] = 3 if intensity == "picture" else 1
    image["channel_def"] = {str(i): name for i, name in enumerate(("red", "green", "blue"))}
    if intensity != "picture":
        image["channel_def"] = {"0": "image"}
    metadata["data_type"] = "nifti" if dims == 3 else "png"
    metadata["adapter"] = {key: value for key, value in known.items() if key not in ("method", "labels")}
    return metadata
