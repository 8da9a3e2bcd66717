"""Prompts from a JSON file beside an image, brought to the grid that the network sees."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.path import Path as Outline
from monai.data import MetaTensor
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..data.dicom_series import is_dicom
from ..data.frames import frames_of
from ..errors import InputError, several, warn_once
from .rough_masks import signed_distance
from .schema import Object, corrects, read_objects

SUFFIX = ".prompts.json"
EDGE = 1e-3  # of a voxel
LASSO_SLOPE = 2.0  # logits a voxel, from the line inwards


def prompts_beside(path: str | Path) -> Path:
    """Where an image's prompts are looked for: ``scan.nii.gz`` has them in ``scan.nii.gz.prompts.json``."""
    return Path(f"{path}{SUFFIX}")


def name_unused(images: set[Path], channels: Mapping[Path, Path]) -> None:
    """Warn of files of prompts, beside the images to segment or in the folder of a series, that belong to none.
    ``channels``: of files of further channels, the image."""
    for folder in sorted({image.parent for image in images} | {image for image in images if image.is_dir()}):
        for file in sorted(folder.glob(f"*{SUFFIX}")):
            image = file.with_name(file.name.removesuffix(SUFFIX))
            if image in channels:
                warn_once(
                    f"{file}: is not used, for {image.name} is a channel of {channels[image].name}, beside which the "
                    "prompts of the image lie"
                )
            elif not image.exists():
                warn_once(f"{file}: is not used, for there is no {image.name} (prompts of a.png: a.png{SUFFIX})")
            elif image not in images and is_dicom(image):
                warn_once(
                    f"{file}: is not used, for {image.name} is a part of a series, whose prompts lie in PATH{SUFFIX}, "
                    f"where PATH is what sam-monai series {shlex.quote(str(folder))} prints first"
                )


def check_prompts(cases: Iterable[Mapping[str, Any]], dims: int) -> None:
    """Refuse, before a network is loaded, prompts beside the images of ``cases`` that make no sense. Whether they lie
    in their image is known when that is read."""
    wrong = []
    for path in (prompts_beside(case["image"]) for case in cases):
        try:
            if os.path.lexists(path):
                read_objects(path, dims)
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        raise several(wrong)


def with_prompts(batch: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any) -> tuple:
    """The evaluator's ``prepare_batch`` for a batch of one image: the prompts beside its file, if there are any, go to
    the inferer."""
    image = batch["image"]
    label = batch.get("label")
    label = label.to(device, non_blocking=non_blocking) if isinstance(label, Tensor) else label
    prompts = read_prompts(prompts_beside(image.meta["filename_or_obj"][0]), image[0])
    moved = image.to(device, non_blocking=non_blocking, **kwargs)
    on_device = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in prompts.items()}
    return moved, label, (), on_device


def read_prompts(path: Path, image: MetaTensor) -> dict[str, Any]:
    """Keyword arguments of :class:`~sam_monai.prompts.prompted_inference.PromptedInference` for all objects of a file;
    none where there is no file.

    The file gives voxels of the image as it is stored: (i, j, k) of a volume's file, (row, column) of a picture. The
    image is (C, *spatial) as the network gets it, whose metadata say where it came from.
    """
    if not os.path.lexists(path):
        return {}
    objects = read_objects(path, image.ndim - 1)
    prompts = prompts_on_grid(objects, image, str(path)) if objects else {}
    return {**prompts, "correct": True} if prompts and corrects(path) else prompts


def prompts_on_grid(objects: list[Object], image: MetaTensor, path: str) -> dict[str, Any]:
    """Keyword arguments of :class:`~sam_monai.prompts.prompted_inference.PromptedInference` for objects of
    :func:`sam_monai.prompts.schema.check_objects` with prompts in voxels of the file. The image is (C, *spatial) as
    the network gets it. Errors name ``path``."""
    dims = image.ndim - 1
    if (frames := frames_of(image)) > 1:
        raise InputError(
            f"{path}: prompts lie in one volume, and its image has {frames} frames; save the frame as a file"
        )
    clicks = [torch.tensor(one["points"], dtype=torch.float32).reshape(-1, dims) for one in objects]
    labels = [torch.tensor(one["labels"], dtype=torch.int64) for one in objects]
    boxes = [torch.tensor(one["box"], dtype=torch.float32) if "box" in one else None for one in objects]
    move = to_network_grid(image)
    size = torch.tensor(image.shape[1:])
    most = max(1, *(len(c) for c in clicks))
    coords, kinds = torch.zeros(len(objects), most, dims), torch.full((len(objects), most), -1)
    corners = torch.full((len(objects), 1, 2 * dims), torch.nan)
    for i, (points, values, box) in enumerate(zip(clicks, labels, boxes, strict=True)):
        coords[i, : len(points)], kinds[i, : len(points)] = move(points), values
        if box is not None:
            corners[i, 0] = box_on_grid(box.view(2, dims), move, size, f"{path}: the box of object {i + 1}")
    # The last voxel of a file may lie half a voxel beyond the last one of a coarser grid.
    outside = (coords < -0.5 - EDGE) | (coords > size - 0.5 + EDGE)
    coords = torch.where(outside, coords, torch.minimum(coords.clamp(min=0), size - 1.0))
    wrong = (outside.any(2) & (kinds != -1)).any(1)
    if wrong.any():
        i = int(wrong.nonzero()[0])
        stored = [int(n) for n in image.meta.get("spatial_shape", image.shape[1:])][:dims]
        click = clicks[i][outside[i, : len(clicks[i])].any(1)][0]
        raise InputError(
            f"{path}: a click of object {i + 1} lies outside the image: {[round(x, 2) for x in click.tolist()]}. Give "
            f"voxels of the file, from 0 on; it has {' x '.join(map(str, stored))}"
        )
    prompts: dict[str, Any] = {}
    if any("label" in one for one in objects):
        prompts["label"] = [one.get("label") for one in objects]
    if any("lasso" in one for one in objects):
        lassos = [move(torch.tensor(one.get("lasso", []), dtype=torch.float32).reshape(-1, dims)) for one in objects]
        for i, lasso in enumerate(lassos):
            if len(lasso):
                inside_lasso(lasso, image.shape[1:], f"{path}: the lasso of object {i + 1}")
        prompts["lasso"] = pad_sequence(lassos, batch_first=True, padding_value=torch.nan)
    if (kinds != -1).any():
        prompts |= {"point_coords": coords, "point_labels": kinds}
    if not corners.isnan().all():
        prompts["boxes"] = corners
    return prompts


def box_on_grid(box: Tensor, move: Callable[[Tensor], Tensor], size: Tensor, which: str) -> Tensor:
    """The voxels of another grid whose centres lie in a box of whole voxels, at least one: corners (2, dims) to
    (2 dims,)."""
    edges = torch.stack([box[0] - 0.5, box[1] + 0.5])
    ends = move(torch.tensor(list(product(*edges.T.tolist()))))
    low, high = ends.amin(0), ends.amax(0)
    if ((high < -0.5) | (low > size - 0.5)).any():
        raise InputError(f"{which} lies outside the image, whose grid is {tuple(size.tolist())} after loading")
    lower, upper = (low + 1e-3).ceil(), (high - 1e-3).floor()
    middle = ((low + high) / 2).round()
    thin = upper < lower
    corners = torch.stack([torch.where(thin, middle, lower), torch.where(thin, middle, upper)])
    return corners.clamp(torch.zeros(len(size)), size - 1.0).flatten()


def inside_lasso(corners: Tensor, shape: Sequence[int], which: str = "a lasso") -> tuple[Tensor, int]:
    """Logits (H, W) that are positive inside of a lasso, and the number of its slice, 0 in a picture. The corners of
    its polygon (N, dims) are in the image's voxels."""
    k = 0
    if len(shape) == 3:
        at = corners[:, 2]
        k = int(at.mean().clamp(0, shape[2] - 1).round()) if -0.5 - EDGE <= at.mean() <= shape[2] - 0.5 + EDGE else -1
        if at.max() - at.min() > 1:
            raise InputError(f"{which} does not lie in one slice of the volume, in the plane that the network sees")
        if not 0 <= k < shape[2]:
            raise InputError(f"{which} lies outside the image, whose grid is {tuple(shape)} after loading")
    voxels = np.stack(np.mgrid[: shape[0], : shape[1]], 2).reshape(-1, 2)
    inside = Outline(corners[:, :2].cpu().numpy()).contains_points(voxels).reshape(tuple(shape[:2]))
    if not inside.any():
        raise InputError(f"{which} holds no voxel of the image, whose grid is {tuple(shape)} after loading")
    return torch.as_tensor(LASSO_SLOPE * signed_distance(inside[..., None])[..., 0], dtype=torch.float32), k


def lasso_as_mask(prompts: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """One object's prompts with its lasso as a mask on the grid of an image (1, C, *spatial)."""
    found = {key: value for key, value in prompts.items() if key != "lasso"}
    if "lasso" in prompts and not prompts["lasso"].isnan().all():
        corners = prompts["lasso"][0]
        plane, k = inside_lasso(corners[~corners.isnan().any(1)], image.shape[2:])
        masks = torch.full((1, 1, *image.shape[2:]), torch.nan, device=image.device)
        (masks[..., k] if image.ndim == 5 else masks).copy_(plane)
        found["masks"] = masks
    return found


def to_network_grid(image: MetaTensor) -> Any:
    """What takes voxels (N, dims) of the file to voxels of the loaded, turned and resampled image."""
    dims = image.ndim - 1
    original = image.meta.get("original_affine")
    if original is None and not image.applied_operations:
        return lambda points: points
    original = torch.eye(4) if original is None else original  # a picture's, as it is loaded
    original = torch.as_tensor(original, dtype=torch.float64)
    matrix = torch.linalg.inv(image.affine.double().cpu()) @ original
    return lambda points: (points.double() @ matrix[:dims, :dims].T + matrix[:dims, 3]).float()
