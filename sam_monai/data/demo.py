"""A small dataset to try everything on, made from the brain template that nilearn ships."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..backbones.weights import weights_folder
from ..errors import InputError
from ..files import from_home

FOLDER = "demo_mni152"
# First slice and number of slices of each slab, from 24 mm below the commissures to 69 mm above them. Two slices
# between neighbours belong to none, so that no two slabs share a slice or touch.
_SLABS = {
    "training_1": (48, 16),
    "training_2": (66, 16),
    "validation_1": (84, 12),
    "training_3": (98, 16),
    "test_1": (116, 8),
    "training_4": (126, 16),
}


def demo_dataset(cache: str | Path | None = None) -> Path:
    """Give the folder of a Decathlon dataset: T1 slabs of the MNI152 template with grey and white matter as labels.

    Slabs are axial, 1 mm voxels, cropped to the brain, and lie where they lie in MNI space: four of 16 slices for
    training, one of 12 for validation, one of 8 for test. A label is a tissue whose probability is above one half.
    Written at the first call, which takes some seconds; later calls find it there.

    Args:
        cache: folder to keep it in; by default SAM_MONAI_CACHE, else XDG_CACHE_HOME/sam_monai, else ~/.cache/sam_monai.

    Raises:
        InputError: nilearn is not installed, or the folder cannot be written.

    Example:
        >>> sorted(path.name for path in demo_dataset().iterdir())
        ['dataset.json', 'imagesTr', 'imagesTs', 'labelsTr']
    """
    parent = Path(from_home(cache)) if cache is not None else weights_folder().parent
    folder = parent / FOLDER
    if _is_complete(folder):
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        # A folder is renamed when it is complete: of two processes that make it at once, either may come first.
        with tempfile.TemporaryDirectory(prefix="demo_mni152.", dir=parent) as aside:
            _write(Path(aside) / "new")
            if folder.exists() and not _is_complete(folder):
                os.replace(folder, Path(aside) / "incomplete")
            try:
                os.replace(Path(aside) / "new", folder)
            except OSError:
                if not _is_complete(folder):
                    raise
    except OSError as e:
        raise InputError(f"{folder}: cannot be written ({e}); set SAM_MONAI_CACHE to a folder that can") from e
    return folder


def is_demo(folder: str | Path) -> bool:
    """Whether a folder is that of :func:`demo_dataset`."""
    return os.path.abspath(folder) == os.path.abspath(weights_folder().parent / FOLDER)


def _is_complete(folder: Path) -> bool:
    names = [f"{sub}/{name}.nii.gz" for name in _SLABS for sub in _folders(name)]
    return all((folder / name).is_file() for name in ["dataset.json", *names])


def _folders(name: str) -> tuple[str, ...]:
    return ("imagesTs",) if name.startswith("test") else ("imagesTr", "labelsTr")


def _write(folder: Path) -> None:
    try:
        from nilearn import datasets
    except ImportError as e:
        raise InputError('the demonstration data come with nilearn: pip install "sam_monai[demo]"') from e
    import nibabel
    import numpy as np

    template = datasets.load_mni152_template(resolution=1)
    tissues = datasets.load_mni152_gm_template(resolution=1), datasets.load_mni152_wm_template(resolution=1)
    t1, grey, white = (np.asarray(image.dataobj, dtype=np.float32) for image in (template, *tissues))
    labels = np.where(np.maximum(grey, white) > 0.5, np.where(white > grey, 2, 1), 0).astype(np.uint8)
    for name, (start, depth) in _SLABS.items():
        x, y = np.nonzero(t1[:, :, start : start + depth].any(axis=2))
        corner = np.array([x.min(), y.min(), start])
        box = tuple(slice(a, b) for a, b in zip(corner, (x.max() + 1, y.max() + 1, start + depth), strict=True))
        affine = template.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ corner
        for sub, array in zip(_folders(name), (t1, labels), strict=False):
            image = nibabel.Nifti1Image(array[box], affine)
            image.set_sform(affine, "mni")
            image.set_qform(affine, "mni")
            image.header.set_xyzt_units("mm")
            (folder / sub).mkdir(parents=True, exist_ok=True)
            nibabel.save(image, folder / sub / f"{name}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(_description(), indent=1) + "\n", encoding="utf-8")


def _description() -> dict[str, Any]:
    def cases(part: str) -> list[dict[str, str]]:
        names = [name for name in _SLABS if name.startswith(part)]
        return [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names]

    return {
        "name": "MNI152 slabs",
        "description": "Grey and white matter on slabs of one template (ICBM 152 2009a nonlinear symmetric), "
        "a demonstration, not a benchmark",
        "reference": "Fonov et al., NeuroImage 54 (2011) 313-327, doi 10.1016/j.neuroimage.2010.07.033; "
        "Fonov et al., NeuroImage 47 (2009) S102, doi 10.1016/S1053-8119(09)70884-5; taken from nilearn",
        "licence": "nilearn documents the template's licence as unknown; its makers' notice is: "
        "Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, "
        "McGill University; use, copying, modification and distribution for any purpose permitted without fee "
        "if this notice is kept",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "grey matter", "2": "white matter"},
        "numTraining": len(cases("training")),
        "training": cases("training"),
        "validation": cases("validation"),
        "test": [f"imagesTs/{name}.nii.gz" for name in _SLABS if name.startswith("test")],
    }
