"""What a request of MONAI Label says of clicks, scribbles and lassos, as prompts of the network."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

from monai.data import MetaTensor
from monai.transforms import Transform
from torch import Tensor

from ..errors import InputError, warn_once
from .prompt_files import prompts_beside, prompts_on_grid
from .schema import check_objects

CLICKS = {"foreground": 1, "background": 0}
DRAWN = ("scribbles", "lasso")


class KeepClicks(Transform):
    """Leaves the clicks, scribbles and lasso of a MONAI Label request with the image, which alone reaches the
    inferer.

    Args:
        method: of a network that answers no prompts, where it is known: those that are given are named.
    """

    def __init__(self, method: str = "") -> None:
        self.method = method

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        clicks = {key: data[key] for key in (*CLICKS, *DRAWN) if key in data and data[key] not in (None, [], "")}
        if clicks:
            data["image"].meta["clicks"] = clicks
        file = str(data["image"].meta.get("filename_or_obj", ""))
        if self.method and (clicks or os.path.lexists(prompts_beside(file))):
            warn_once(
                f"{file}: has prompts, and {self.method} answers none: its mask is of the labels. Take an adapter of "
                "medsa, or take the prompts away"
            )
        return data


def clicks_of_request(image: Tensor) -> dict[str, Tensor]:
    """Keyword arguments of the network for the clicks that :class:`KeepClicks` left with an image (C, *spatial).

    MONAI Label gives ``foreground`` and ``background`` as lists of voxels (i, j, k) of the image's file; of a picture,
    (column, row). ``scribbles`` and ``lasso`` are as in a prompts file, with voxels likewise.

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
    drawn = {key: clicks[key] for key in DRAWN if key in clicks}
    if image.ndim == 3:
        points = by_rows(points)
        drawn = {key: by_rows(value) for key, value in drawn.items()}
    labels = [value for key, value in CLICKS.items() for _ in clicks.get(key, [])]
    objects = check_objects([{"points": points, "labels": labels, **drawn}], image.ndim - 1, where)
    return prompts_on_grid(objects, image, where)


def by_rows(points: Any) -> Any:
    """Points (column, row) of a picture, or of the paths of scribbles, as (row, column). Some viewers add a slice to
    them. What is neither stays as it is."""
    if isinstance(points, dict):
        return {key: by_rows(value) for key, value in points.items()}
    if not isinstance(points, list):
        return points
    if len(points) in (2, 3) and not any(isinstance(one, list | dict) for one in points):
        return points[1::-1]
    return [by_rows(one) for one in points]
