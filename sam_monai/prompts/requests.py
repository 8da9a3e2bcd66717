"""Prompts from a JSON file beside an image or a request of MONAI Label, brought to the grid that the network sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import Tensor

from ..errors import InputError
from .schema import Object, check_objects, read_objects

SUFFIX = ".prompts.json"
CLICKS = {"foreground": 1, "background": 0}


def prompts_beside(path: str | Path) -> Path:
    """Where an image's prompts are looked for: ``scan.nii.gz`` has them in ``scan.nii.gz.prompts.json``."""
    return Path(f"{path}{SUFFIX}")


def with_prompts(batch: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any) -> tuple:
    """The evaluator's ``prepare_batch`` for a batch of one image: the prompts beside its file, if there are any, go to
    the inferer.

    Raises:
        InputError: a prompts file that cannot be read or does not fit.
    """
    image = batch["image"]
    label = batch.get("label")
    label = label.to(device, non_blocking=non_blocking) if isinstance(label, Tensor) else label
    prompts = read_prompts(prompts_beside(image.meta["filename_or_obj"][0]), image[0])
    moved = image.to(device, non_blocking=non_blocking, **kwargs)
    return moved, label, (), {key: value.to(device) for key, value in prompts.items()}


def read_prompts(path: Path, image: MetaTensor) -> dict[str, Tensor]:
    """Keyword arguments of the network for all objects of a file.

    The file gives voxels of the image as it is stored: (i, j, k) of a volume's file, (row, column) of a picture.

    Args:
        path: of the prompts; nothing is returned if there is none.
        image: (C, *spatial) as the network gets it, whose metadata say where it came from.

    Raises:
        InputError: a file that is not as :mod:`sam_monai.prompts.schema` asks, or prompts outside the image.
    """
    if not os.path.lexists(path):
        return {}
    return prompts_on_grid(read_objects(path, image.ndim - 1), image, str(path))


class KeepClicks(Transform):
    """Leaves the clicks of a MONAI Label request with the image, which alone reaches the inferer."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        clicks = {key: data[key] for key in CLICKS if key in data and data[key] not in (None, [], "")}
        if clicks:
            data["image"].meta["clicks"] = clicks
        return data


def clicks_of_request(image: Tensor) -> dict[str, Tensor]:
    """Keyword arguments of the network for the clicks that :class:`KeepClicks` left with an image (C, *spatial).

    MONAI Label gives ``foreground`` and ``background`` as lists of voxels (i, j, k) of the image's file; of a picture,
    (column, row).

    Raises:
        InputError: points that do not fit the image.
    """
    clicks = image.meta.get("clicks") if isinstance(image, MetaTensor) else None
    if not isinstance(image, MetaTensor) or not clicks:
        return {}
    where = "the request's clicks"
    if not all(isinstance(clicks.get(key, []), list) for key in CLICKS):
        raise InputError(f"{where}: foreground and background are lists of points, as in [[40, 52, 7]]")
    points = [point for key in CLICKS for point in clicks.get(key, [])]
    if image.ndim == 3:  # some viewers add a slice to a picture's points
        points = [point[1::-1] if isinstance(point, list) and len(point) in (2, 3) else point for point in points]
    labels = [value for key, value in CLICKS.items() for _ in clicks.get(key, [])]
    objects = check_objects([{"points": points, "labels": labels}], image.ndim - 1, where)
    return prompts_on_grid(objects, image, where)


def prompts_on_grid(objects: list[Object], image: MetaTensor, path: str) -> dict[str, Tensor]:
    """Keyword arguments of the network for objects with ``points``, ``labels`` and ``box`` in voxels of the file.

    Args:
        objects: as :func:`sam_monai.prompts.schema.check_objects` gives them.
        image: (C, *spatial) as the network gets it.
        path: where they come from, for errors.

    Raises:
        InputError: they lie outside the image.
    """
    dims = image.ndim - 1
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
    outside = (coords.round() < 0) | (coords.round() >= size)
    wrong = (outside.any(2) & (kinds != -1)).any(1)
    if wrong.any():
        raise InputError(
            f"{path}: a click of object {int(wrong.nonzero()[0]) + 1} lies outside the image, whose grid is "
            f"{tuple(image.shape[1:])} after loading; give voxels of the file, from 0 on"
        )
    prompts = {}
    if (kinds != -1).any():
        prompts |= {"point_coords": coords, "point_labels": kinds}
    if not corners.isnan().all():
        prompts["boxes"] = corners
    return prompts


def box_on_grid(box: Tensor, move: Callable[[Tensor], Tensor], size: Tensor, which: str) -> Tensor:
    """The voxels of another grid whose centres lie in a box of whole voxels, at least one: corners (2, dims) to
    (2 dims,).

    Raises:
        InputError: the box does not meet the image.
    """
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


def to_network_grid(image: MetaTensor) -> Any:
    """What takes voxels (N, dims) of the file to voxels of the loaded, turned and resampled image."""
    if image.ndim == 3:
        return lambda points: points
    original = torch.as_tensor(image.meta["original_affine"], dtype=torch.float64)
    matrix = torch.linalg.inv(image.affine.double().cpu()) @ original
    return lambda points: (points.double() @ matrix[:3, :3].T + matrix[:3, 3]).float()
