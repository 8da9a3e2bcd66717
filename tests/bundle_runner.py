"""Runs a bundle's configuration in this process, as ``python -m monai.bundle run`` does, on small made data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow

from sam_monai import InputError

ROOT = Path(__file__).parents[1]
SMALL = {"image_size": 32, "epochs": 2, "val_interval": 1, "batch_size": 2, "slices": 2}


def start(bundle: str, *configs: str, **overrides: Any) -> ConfigWorkflow:
    files = [str(ROOT / "bundles" / bundle / "configs" / f"{name}.json") for name in configs]
    kind = "infer" if configs[0] == "inference" else "train"
    overrides = {"bundle_root": str(ROOT / "bundles" / bundle), **overrides}
    return ConfigWorkflow(files, workflow_type=kind, logging_file=False, **overrides)


def run(bundle: str, *configs: str, **overrides: Any) -> ConfigWorkflow:
    """Initialise and run; an InputError comes out bare, as the command line prints it."""
    workflow = start(bundle, *configs, **overrides)
    try:
        workflow.initialize()
        workflow.run()
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__ or cause.__context__
        raise (cause or error) from None
    return workflow


def oblique(degrees: float = 12.0, spacing: tuple[float, float, float] = (1.2, 0.8, 2.0)) -> np.ndarray:
    """An affine with a turn about two axes, a flip, permuted axes and unequal spacing."""
    a = np.deg2rad(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (x @ z @ np.diag(spacing))[:, [1, 0, 2]] * [1, -1, 1]
    affine[:3, 3] = (-31.0, 17.5, 4.0)
    return affine


def volumes(
    folder: Path,
    shape: tuple[int, int, int] = (30, 26, 6),
    affine: np.ndarray | None = None,
    names: tuple[str, ...] = ("bright", "dark"),
) -> Path:
    """A Decathlon folder of noisy volumes in which a bright ball is label 1 and a dark one, if wanted, label 2."""
    rng = np.random.default_rng(0)
    affine = oblique() if affine is None else affine
    items = []
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name in ("a", "b", "c", "d"):
        label = np.zeros(shape, np.uint8)
        for value in range(1, len(names) + 1):
            centre = [rng.uniform(0.3, 0.7) * n for n in shape]
            grid = np.indices(shape)
            far = sum(((grid[i] - centre[i]) / max(0.22 * shape[i], 1.0)) ** 2 for i in range(3))
            label[far < 1] = value
        intensity = np.array([100.0, 180.0, 30.0])[label] + rng.normal(0, 10, shape)
        nib.save(nib.Nifti1Image(intensity.astype(np.float32), affine), folder / f"images/{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / f"labels/{name}.nii.gz")
        items.append({"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"})
    labels = {str(i): name for i, name in enumerate(("background", *names))}
    write_json(folder, labels=labels, training=items[:2], validation=items[2:3], test=[items[3]["image"]])
    return folder


def write_json(folder: Path, **changes: Any) -> None:
    path = folder / "dataset.json"
    content: dict[str, Any] = {"name": "made", "modality": {"0": "MRI"}}
    if path.is_file():
        content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))
