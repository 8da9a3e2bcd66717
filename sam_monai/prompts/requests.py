"""Prompts from a JSON file beside an image or a request of MONAI Label, brought to the grid that the network sees."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import Tensor

from ..errors import InputError

SUFFIX = ".prompts.json"
CLICKS = {"foreground": 1, "background": 0}

EXAMPLE = '{"objects": [{"points": [[40, 52, 7]], "labels": [1], "box": [30, 44, 5, 60, 61, 9]}]}'


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
        InputError: broken JSON, or prompts that do not fit the image.
    """
    if not path.is_file():
        return {}
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))["objects"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it like {EXAMPLE}") from error
    return prompts_on_grid(objects, image, str(path))


class KeepClicks(Transform):
    """Leaves the clicks of a MONAI Label request with the image, which alone reaches the inferer."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        clicks = {key: data[key] for key in CLICKS if data.get(key)}
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
    try:
        points = [list(point) for key in CLICKS for point in clicks.get(key, [])]
    except TypeError as error:
        raise InputError(f"the request's clicks are lists of voxels, not {clicks}") from error
    if image.ndim == 3:
        points = [point[1::-1] for point in points]
    labels = [value for key, value in CLICKS.items() for _ in clicks.get(key, [])]
    return prompts_on_grid([{"points": points, "labels": labels}], image, "the request's clicks")


def prompts_on_grid(objects: Any, image: MetaTensor, path: str) -> dict[str, Tensor]:
    """Keyword arguments of the network for objects with ``points``, ``labels`` and ``box`` in voxels of the file.

    Args:
        objects: a list of dicts, as in :data:`EXAMPLE`.
        image: (C, *spatial) as the network gets it.
        path: where they come from, for errors.

    Raises:
        InputError: they do not fit the image.
    """
    dims = image.ndim - 1
    try:
        clicks = [torch.tensor(o.get("points", []), dtype=torch.float32).reshape(-1, dims) for o in objects]
        labels = [torch.tensor(o.get("labels", [])).long() for o in objects]
        boxes = [torch.tensor(o["box"]).float() if "box" in o else None for o in objects]
        fits = all(len(c) == len(m) and bool(((m == 0) | (m == 1)).all()) for c, m in zip(clicks, labels, strict=True))
        fits = fits and objects and all(box is None or box.shape == (2 * dims,) for box in boxes)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it like {EXAMPLE}") from error
    if not fits:
        raise InputError(
            f"{path}: points of {dims} numbers, as many labels (1 or 0), boxes of {2 * dims}, as {EXAMPLE}"
        )
    move = to_network_grid(image)
    size = torch.tensor(image.shape[1:])
    most = max(1, *(len(c) for c in clicks))
    coords, kinds = torch.zeros(len(objects), most, dims), torch.full((len(objects), most), -1)
    corners = torch.full((len(objects), 1, 2 * dims), torch.nan)
    for i, (points, values, box) in enumerate(zip(clicks, labels, boxes, strict=True)):
        coords[i, : len(points)], kinds[i, : len(points)] = move(points), values
        if box is not None:
            corners[i, 0] = box_on_grid(box.view(2, dims), move, size, path)
    outside = (coords.round() < 0) | (coords.round() >= size)
    if outside[kinds != -1].any():
        raise InputError(
            f"{path}: a click lies outside the image, whose grid is {tuple(image.shape[1:])} after loading"
        )
    prompts = {}
    if (kinds != -1).any():
        prompts |= {"point_coords": coords, "point_labels": kinds}
    if not corners.isnan().all():
        prompts["boxes"] = corners
    if any(len(c) == 0 and box is None for c, box in zip(clicks, boxes, strict=True)):
        raise InputError(f"{path}: an object has neither points nor a box; write it like {EXAMPLE}")
    return prompts


def box_on_grid(box: Tensor, move: Callable[[Tensor], Tensor], size: Tensor, path: str) -> Tensor:
    """The voxels of another grid whose centres lie in a box of whole voxels, at least one: corners (2, dims) to
    (2 dims,).

    Raises:
        InputError: the box does not meet the image.
    """
    edges = torch.stack([box.amin(0) - 0.5, box.amax(0) + 0.5])
    ends = move(torch.tensor(list(product(*edges.T.tolist()))))
    low, high = ends.amin(0), ends.amax(0)
    if ((high < -0.5) | (low > size - 0.5)).any():
        raise InputError(f"{path}: a box lies outside the image, whose grid is {tuple(size.tolist())} after loading")
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
