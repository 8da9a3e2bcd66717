"""Frames of a file with a fourth dimension of time, each of which is a volume of its own.

On its file's grid an image of T frames is (T, i, j, k), and so are its label and its mask: :data:`FRAMES` in the
metadata tells frames from channels. A network sees their slices one behind the other, (1, H, W, D * T).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Randomizable, Transform
from monai.utils import TraceKeys

from .unlabelled import UNLABELLED

FRAMES = "frames"  # of the metadata: how many


def frames_of(image: Any) -> int:
    """How many frames an image has, or a batch of one image; 1 of whatever is no volume in time."""
    return int(getattr(image, "meta", {}).get(FRAMES, 1))


def together(label_map: torch.Tensor) -> torch.Tensor:
    """Frames (T, *spatial) as one map (1, *spatial) that holds the voxels of all of them, for counting."""
    return torch.as_tensor(label_map).flatten(0, 1)[None]


def fullest(*maps: torch.Tensor) -> slice:
    """Which frame of label maps (T, *spatial) shows most, as a slice of their first axis."""
    marked = sum((torch.as_tensor(one) > 0).flatten(1).sum(1).cpu() for one in maps)
    k = int(torch.as_tensor(marked).argmax())
    return slice(k, k + 1)


class InLine(InvertibleTransform):
    """Frames (T, H, W, D) to slices one behind the other, (1, H, W, D * T). Other images stay as they are."""

    def __call__(self, image: torch.Tensor) -> Any:
        frames, size = frames_of(image), image.shape[1:]
        line: Any = image
        if frames > 1:
            line = MetaTensor(torch.cat(list(torch.as_tensor(image)[:, None]), -1), meta=dict(image.meta))
            line.applied_operations = image.applied_operations
        return self.push_transform(line, orig_size=size, extra_info={FRAMES: frames})

    def inverse(self, line: MetaTensor) -> Any:
        frames = self.pop_transform(line)[TraceKeys.EXTRA_INFO][FRAMES]
        if frames == 1:
            return line
        volume: Any = MetaTensor(torch.cat(line.as_tensor().chunk(frames, -1)), meta=dict(line.meta))
        volume.applied_operations = line.applied_operations
        return volume


class InLined(MapTransform, InvertibleTransform):
    """:class:`InLine` of keys."""

    def __init__(self, keys: Sequence[str]) -> None:
        MapTransform.__init__(self, keys)
        self.in_line = InLine()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self.in_line(data[key]) for key in self.keys}}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self.in_line.inverse(data[key]) for key in self.key_iterator(dict(data))}}


class EachFrame(Transform):
    """Another transform of one key, for every frame (T, *spatial) by itself."""

    def __init__(self, key: str, step: Transform) -> None:
        self.key, self.step = key, step

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image, number = data[self.key], frames_of(data["image"])
        if number == 1:
            return dict(self.step(data))
        frames = [self.step({**data, self.key: image[i : i + 1]})[self.key] for i in range(number)]
        return {**data, self.key: torch.cat(frames)}


class RandFramed(Randomizable, MapTransform):
    """One of the frames in a line, where slices shall see those of their own frame alone: one that somebody has
    annotated."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        number = frames_of(data["image"])
        if number == 1:
            return dict(data)
        frames = {key: data[key].chunk(number, -1) for key in self.keys}
        known = [i for i, label in enumerate(frames["label"]) if (label != UNLABELLED).any()]
        chosen = self.R.choice(known or number)
        return {**data, **{key: each[chosen] for key, each in frames.items()}}
