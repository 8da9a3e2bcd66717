"""The clicks, boxes, scribbles and lassos of a MONAI Label request as prompts of the network."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import Tensor

from ..errors import InputError, warn_once
from .prompt_files import prompts_beside, prompts_on_grid
from .schema import check_objects

logger = logging.getLogger(__name__)

CLICKS = {"foreground": 1, "background": 0}
DRAWN, BOX, CORRECT = ("scribbles", "lasso"), "box", "correct"
KEYS = (*CLICKS, *DRAWN, BOX, CORRECT)
SEGMENT, OTHERS, MISSPELT = "label", "others", "misspelt"
MEANT = {"boxes": BOX, "bbox": BOX, "points": "foreground", "point_coords": "foreground", "point_labels": "foreground"}


class KeepClicks(Transform):
    """Leaves the clicks, box, scribbles and lasso of a MONAI Label request, and its segment's name, with the image,
    which alone reaches the inferer.

    Args:
        method: of a network that answers no prompts, where it is known: those that are given are named.
    """

    def __init__(self, method: str = "") -> None:
        self.method = method

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        clicks = {key: data[key] for key in KEYS if key in data and data[key] not in (None, [], "")}
        others = [key for key, value in data.items() if key not in clicks and isinstance(value, list) and value]
        misspelt = {key: right for key in data if (right := stands_for(str(key))) and data[key] not in (None, [], "")}
        others = [key for key in others if isinstance(data[key][0], list)]
        if clicks or others or misspelt:
            told = {SEGMENT: data.get(SEGMENT), OTHERS: others, MISSPELT: misspelt}
            data["image"].meta["clicks"] = {**clicks, **told}
        file = str(data["image"].meta.get("filename_or_obj", ""))
        if self.method and (clicks or misspelt or os.path.lexists(prompts_beside(file))):
            warn_once(
                f"{file}: has prompts, but {self.method} takes none, so its mask shows the labels. Use an adapter of "
                "medsa, or remove the prompts"
            )
        if isinstance(data.get(SEGMENT), str):  # what follows takes it for a label map
            data = {key: value for key, value in data.items() if key != SEGMENT}
        return data


class AsServerWrites(Transform):
    """The mask (1, H, W) of a picture that a request of MONAI Label asks about, as its writer takes one: (1, W, H, 1),
    in numbers that a picture's file may hold, at the place that ITK gives a picture. Any other stays as it is."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        image, pred = data.get("image"), data["pred"]
        if "image_path" not in data or not isinstance(image, MetaTensor) or image.ndim != 3:
            return data
        mask = torch.as_tensor(pred)[0].T[None, ..., None]
        mask = mask.to(torch.uint8 if int(mask.max()) < 2**8 else torch.uint16)
        place = torch.diag(torch.tensor([-1.0, -1, 1, 1]))
        meta = {**image.meta, "spatial_shape": mask.shape[1:], "original_affine": place}
        kept = str(data["image_path"]).lower().endswith((".png", ".tif", ".tiff"))  # by formats that change no number
        kind = {} if kept or data.get("result_extension") else {"result_extension": ".png"}
        shown = MetaTensor(image.as_tensor(), meta=meta)
        return {**data, **kind, "image": shown, "pred": MetaTensor(mask, affine=place)}


def clicks_of_request(image: Tensor, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Keyword arguments of :class:`~sam_monai.prompts.prompted_inference.PromptedInference` for the clicks that
    :class:`KeepClicks` left with an image (C, *spatial).

    MONAI Label gives ``foreground`` and ``background`` as lists of voxels (i, j, k) of the image's file; of a picture,
    (column, row). ``box``, ``scribbles`` and ``lasso`` are as in a prompts file, with voxels likewise, and so is
    ``correct``. ``label`` is the name of the segment that 3D Slicer fills: that of one of the network's ``labels``, in
    lower case, or any other that the user gave to a segment, which says nothing of the object.

    Raises:
        InputError: prompts under the names of labels, or under others that stand for none of these.
    """
    clicks = image.meta.get("clicks") if isinstance(image, MetaTensor) else None
    if not isinstance(image, MetaTensor) or not clicks:
        return {}
    where, segment = "the request's clicks", clicks.get(SEGMENT)
    if by_label := [key for key in clicks.get(OTHERS, ()) if named_so(labels, key)]:
        raise InputError(
            f"{where}: stand under the labels' names ({', '.join(by_label)}), as for DeepEdit; give them as foreground "
            "and background, which viewers do where the bundle's folder has deepgrow in its name"
        )
    for key, right in clicks.get(MISSPELT, {}).items():
        raise InputError(f"{where}: {key!r} is no key of a request; did you mean {right!r}? Keys are {', '.join(KEYS)}")
    given = {key: clicks[key] for key in KEYS if key in clicks}
    correct = given.pop(CORRECT, False)
    if not given:
        return {}
    if not all(isinstance(given.get(key, []), list) for key in CLICKS):
        raise InputError(f"{where}: foreground and background are lists of points, as in [[40, 52, 7]]")
    points = [point for key in CLICKS for point in given.get(key, [])]
    drawn = {key: given[key] for key in DRAWN if key in given}
    box = {BOX: given[BOX]} if BOX in given else {}
    if image.ndim == 3:
        points = by_rows(points)
        drawn = {key: by_rows(value) for key, value in drawn.items()}
        if isinstance(given.get(BOX), list) and len(given[BOX]) in (4, 6):
            half = len(given[BOX]) // 2
            box = {BOX: [*by_rows(given[BOX][:half]), *by_rows(given[BOX][half:])]}
    kinds = [value for key, value in CLICKS.items() for _ in given.get(key, [])]
    objects = check_objects([{"points": points, "labels": kinds, **box, **drawn}], image.ndim - 1, where)
    prompts, meant = prompts_on_grid(objects, image, where), named_so(labels, segment)
    if segment is not None and not meant:
        logger.info("segment %s is none of the labels (%s): any object", str(segment)[:99], ", ".join(labels))
    prompts |= {CORRECT: correct} if correct else {}
    return {**prompts, SEGMENT: meant} if meant else prompts


def stands_for(key: str) -> str:
    """The key of a request that another one probably stands for; empty where it is like none."""
    near = difflib.get_close_matches(key[:99].lower(), (*CLICKS, *DRAWN), n=1, cutoff=0.8)
    return "" if key in KEYS else MEANT.get(key.lower(), near[0] if near else "")


def named_so(labels: Sequence[str], name: Any) -> list[str]:
    """The label that MONAI Label calls by this name, in a list; none where it is none, or could be several."""
    found = [one for one in labels if one == name] or [one for one in labels if one.lower() == str(name).lower()]
    return found if len(found) == 1 else []


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
