"""From the network's grid back to the grid of the image's own file: label maps, probabilities, numbered objects."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureTyped,
    Invertd,
    InvertibleTransform,
    MapTransform,
    Transform,
)
from torch import Tensor

from ..data.instances import objects_in, refuse_more
from ..data.kind import file_of
from ..networks.regions import Regions, label_map_of, overlap, painted

BEYOND = -20.0  # logit of a label where the image was cropped away; that of the background is 0
INTERPOLATED = 72  # bytes a voxel of the file: MONAI's grid of places and what is found there, in double precision
REORDERING = ("Orientation", "ToSlices", "InLine", "Flip", "Rotate90", "Transpose")  # the same voxels, elsewhere


class ToFileGridd(MapTransform):
    """Logits, or labels as one channel, on the network's grid to a label map on the grid of the image's own file.

    Where an image was resampled, logits are interpolated and then compared, one channel at a time; labels likewise.
    What was cropped away is background.
    """

    def __init__(self, preparation: Compose, regions: Regions | None = None) -> None:
        super().__init__("pred")
        self.regions = regions
        inverted = any(isinstance(step, InvertibleTransform) for step in preparation.transforms)
        self.ensure = EnsureTyped("pred")  # Invertd passes over a plain tensor
        self.invert = Invertd("pred", preparation, orig_keys="image", nearest_interp=False, to_tensor=True)
        if not inverted:
            self.invert = lambda data: data

    def channels(self, data: Mapping[Hashable, Any]) -> Iterator[MetaTensor]:
        """Each channel of the logits on that grid, without a decision: (1, *spatial), or of T frames (T, *spatial)."""
        case = where_there_is_room(self.ensure(dict(data)))
        inside = self.inside(case)
        for i, one in enumerate(case["pred"]):
            found = self.invert({**case, "pred": one[None].float()})["pred"]
            yield found if inside is None else found.where(inside, BEYOND * (i > 0))

    def inside(self, case: Mapping[Hashable, Any]) -> Tensor | None:
        """Which voxels of the file the network saw, bool; ``None``: all of them."""
        if not any("Crop" in name for name in done_to(case.get("image"))):
            return None
        seen = torch.ones_like(case["pred"][:1], dtype=torch.float32)
        return self.invert({**case, "pred": seen})["pred"].as_tensor() > 0.5

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = self.ensure(dict(data))
        pred = case["pred"]
        if not is_resampled(case.get("image")):
            if len(pred) > 1:
                labels = torch.empty_like(pred[:1], dtype=torch.int16)  # ITK writes no int64
                for part, rows in zip(labels.split(32, 1), pred.split(32, 1), strict=True):
                    part.copy_(label_map_of(rows, self.regions))
                pred = labels
            return self.invert({**case, "pred": pred})
        device, case = pred.device, where_there_is_room(case)
        pred, inside = case["pred"], self.inside(case)
        values = list(range(len(pred))) if len(pred) > 1 else pred.unique().tolist()
        if len(pred) > 1 and self.regions is not None:
            values = [0, *(region[0] for region in self.regions)]
        best = found = None
        if len(pred) > 1 and self.regions is not None and overlap(self.regions):
            invert = (self.invert({**case, "pred": pred[i : i + 1]})["pred"] for i in range(1, len(pred)))
            held = [share > 0 if inside is None else (share > 0) & inside for share in invert]
            return {**case, "pred": painted(held, self.regions).to(device)}
        for i, value in enumerate(values):
            channel = pred[i : i + 1] if len(pred) > 1 else (pred == value).float()
            share = self.invert({**case, "pred": channel})["pred"]
            if best is None or found is None:
                best, found = share, torch.full_like(share, value, dtype=torch.int16)
            else:
                found[share > best] = value
                best = torch.maximum(best, share)
        if inside is not None and found is not None:
            found[~inside] = 0
        return {**case, "pred": None if found is None else found.to(device)}


def done_to(image: Any) -> set[str]:
    """The names of the invertible transforms that made an image what it is."""
    return {str(step["class"]) for step in getattr(image, "applied_operations", ())}


def where_there_is_room(case: dict[Hashable, Any]) -> dict[Hashable, Any]:
    """A case whose logits, where they are to be interpolated, are on the CPU if a GPU lacks the memory, or double
    precision, as Apple's do."""
    pred, image = case["pred"], case.get("image")
    if image is None or pred.device.type in ("cpu", "meta") or not is_resampled(image):
        return case
    voxels = math.prod(map(int, image.meta.get("spatial_shape", image.shape[1:])))
    if pred.device.type == "cuda" and INTERPOLATED * voxels < torch.cuda.mem_get_info(pred.device)[0]:
        return case
    return {**case, "pred": pred.cpu()}


def is_resampled(image: Any) -> bool:
    """Whether an image has other voxels than its file, and not the same in another order, more of them or fewer."""
    return any(name not in REORDERING and "Crop" not in name and "Pad" not in name for name in done_to(image))


class ToInstances(Transform):
    """Logits of a picture, "pred", to numbered objects, int32 (1, H, W), on the grid of the image's own file. What has
    one channel is numbered already: the objects of prompts."""

    def __init__(self, preparation: Compose) -> None:
        self.grid = ToFileGridd(preparation)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if len(data["pred"]) == 1:
            return self.grid(data)
        found = objects_in(torch.cat([one.as_tensor() for one in self.grid.channels(data)]))
        refuse_more(int(found.max()), file_of(data["image"]))
        pred = torch.as_tensor(found, device=data["pred"].device)[None]
        return {**data, "pred": MetaTensor(pred, meta=getattr(data["pred"], "meta", None))}
