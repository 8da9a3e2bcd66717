"""Frames of a file with a fourth dimension of time, each of which is a volume of its own.

On its file's grid an image of T frames is (T, i, j, k), and so are its label and its mask: :data:`FRAMES` in the
metadata tells frames from channels. A network sees their slices one behind the other, (1, H, W, D * T): frame after
frame or, where frames are together, each place in the volume at all times after the other. The parts of such a line do
not see each other (:data:`APART`), so depth attention looks along depth within a frame, or along time at one place.
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
APART = "apart"  # of a line's: of how many parts it is


def frames_of(image: Any) -> int:
    """How many frames an image has, or a batch of one image; 1 of whatever is no volume in time."""
    return int(getattr(image, "meta", {}).get(FRAMES, 1))


def parts_of(line: Any) -> int:
    """How many parts, as long as each other, a line of slices has whose slices do not see those of the others."""
    return int(getattr(line, "meta", {}).get(APART, frames_of(line)))


def together(label_map: torch.Tensor) -> torch.Tensor:
    """Frames (T, *spatial) as one map (1, *spatial) that holds the voxels of all of them, for counting."""
    return torch.as_tensor(label_map).flatten(0, 1)[None]


def fullest(*maps: torch.Tensor) -> slice:
    """Which frame of label maps (T, *spatial) shows most, as a slice of their first axis."""
    marked = sum((torch.as_tensor(one) > 0).flatten(1).sum(1).cpu() for one in maps)
    k = int(torch.as_tensor(marked).argmax())
    return slice(k, k + 1)


class InLine(InvertibleTransform):
    """Frames (T, H, W, D) to slices one behind the other, (1, H, W, D * T), in the order that ``along_time`` says.
    Other images stay as they are; of a single frame, along time no slice sees another."""

    def __init__(self, along_time: bool = False) -> None:
        self.along_time = along_time

    def __call__(self, image: torch.Tensor) -> Any:
        frames, size = frames_of(image), image.shape[1:]
        line: Any = image
        if frames > 1:
            order = (1, 2, 3, 0) if self.along_time else (1, 2, 0, 3)
            slices = torch.as_tensor(image).permute(order).flatten(2)[None]
            line = MetaTensor(slices, meta=dict(image.meta))
            line.applied_operations = image.applied_operations
        if self.along_time and isinstance(line, MetaTensor):
            line.meta[APART] = size[-1]
        return self.push_transform(line, orig_size=size, extra_info={FRAMES: frames})

    def inverse(self, line: MetaTensor) -> Any:
        transform = self.pop_transform(line)
        frames, depth = transform[TraceKeys.EXTRA_INFO][FRAMES], transform[TraceKeys.ORIG_SIZE][-1]
        if frames == 1:
            return line
        sizes, order = ((depth, frames), (3, 0, 1, 2)) if self.along_time else ((frames, depth), (2, 0, 1, 3))
        volume: Any = MetaTensor(line.as_tensor()[0].unflatten(-1, sizes).permute(order), meta=dict(line.meta))
        volume.applied_operations = line.applied_operations
        return volume


class InLined(MapTransform, InvertibleTransform):
    """:class:`InLine` of keys."""

    def __init__(self, keys: Sequence[str], along_time: bool = False) -> None:
        MapTransform.__init__(self, keys)
        self.in_line = InLine(along_time)

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


class RandPart(Randomizable, MapTransform):
    """One part of a line (:func:`parts_of`), where slices shall see those of their own part alone: one that somebody
    has annotated."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        number = parts_of(data["image"])
        if number == 1:
            return dict(data)
        parts = {key: data[key].chunk(number, -1) for key in self.keys}
        hidden = [label == UNLABELLED for label in parts["label"]]
        most = max(int(each.sum()) for each in hidden)  # not all voxels: around an image there may be a padding
        most = most if 10 * most > hidden[0].numel() else number * hidden[0].numel()  # a few hide no part
        shown = [(label > 0) & ~each for label, each in zip(parts["label"], hidden, strict=True)]
        known = [i for i in range(number) if int(hidden[i].sum()) < most or shown[i].any()]
        chosen = self.R.choice(known or number)
        return {**data, **{key: each[chosen] for key, each in parts.items()}}
