"""Masks that are odd: a mere rim of another label, what lies around a structure in its place, slices left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch.nn.functional import max_pool2d, pad

from ..errors import counted
from .slicing import sliced_axis

ALONG = 0.9  # share of a rim's pixels that touch another label, and the background at their other side
EDGE = 0.9  # share of the edge of an image that is marked where a mask is of what lies around a structure
REGULAR = 0.7  # share of the steps between drawn slices that are alike, where every n-th was drawn
FEWEST = 3  # drawn slices of a volume that tell something
LEAST = 20  # pixels; fewer may be a lesion at the edge of an organ


class Rims:
    """Finds, over many label maps, values that are a structure in some of them and a mere rim in others.

    Example:
        >>> label = torch.zeros(1, 16, 16)
        >>> label[:, 4:12, 4:12], label[:, 5:11, 5:11] = 2, 1
        >>> rims = Rims()
        >>> rims.add(label, "a.png")
        >>> rims.add(2 * (label > 0), "b.png")
        >>> rims.notes(["small bowel", "large bowel"])[0][:61]
        'in 1 of the 2 masks that hold "large bowel" it is only a rim,'
    """

    def __init__(self) -> None:
        self.solid: dict[int, int] = defaultdict(int)
        self.found: dict[int, list[str]] = defaultdict(list)

    def add(self, label: torch.Tensor, file: str) -> None:
        """Look at a label map (1, H, W); of volumes nothing is told."""
        if label.ndim != 3:
            return
        label = torch.as_tensor(label)
        for value in label.unique().int().tolist()[label.min() == 0 :]:
            mask = (label == value).float()
            if has_inside(mask):
                self.solid[value] += 1
                continue
            others, outside = ((label != value) & (label > 0)).float(), (label == 0).float()
            along = min((max_pool2d(side, 3, 1, 1) * mask).sum() / mask.sum() for side in (others, outside))
            if along > ALONG and mask.sum() >= LEAST and has_inside(others):
                self.found[value].append(file)

    def notes(self, names: Sequence[str]) -> list[str]:
        """A line for each label that is a rim in some files and a structure in others."""
        return [
            f'in {len(rims)} of the {len(rims) + self.solid[value]} masks that hold "{name}" it is only a rim, one or '
            f"two pixels wide, about another label, as in {rims[0]}: were the masks interpolated, or made of colours? "
            "Look at them and set such rims to the label they surround; until then they are trained and measured"
            for value, name in enumerate(names, 1)
            if (rims := self.found[value]) and self.solid[value]
        ]


class Surroundings:
    """Finds masks of one label that hold what lies around a structure in place of the structure.

    Example:
        >>> around = Surroundings()
        >>> around.add(torch.ones(1, 16, 16), "a.png")
        >>> around.notes(["polyp"])[0][:46]
        '"polyp" covers the edges of 1 of 1 images, as '
    """

    def __init__(self) -> None:
        self.cases = 0
        self.found: list[str] = []

    def add(self, label: torch.Tensor, file: str) -> None:
        """Look at a label map (1, H, W[, D])."""
        self.cases += 1
        axes = [axis for axis in range(1, label.ndim) if label.shape[axis] > 1]
        ends = [torch.as_tensor(label).select(axis, end).flatten() for axis in axes for end in (0, -1)]
        self.found += [file] if (torch.cat(ends) > 0).float().mean() > EDGE else []

    def notes(self, names: Sequence[str]) -> list[str]:
        """A line where most masks are such. Several labels may fill an image, as tissues do."""
        if len(names) > 1 or 2 * len(self.found) <= self.cases:
            return []
        return [
            f'"{names[0]}" covers the edges of {len(self.found)} of {self.cases} images, as in {self.found[0]}: if '
            "that is what lies around the structure, invert the masks"
        ]


class Gaps:
    """Finds volumes of which some slices alone were drawn: empty ones among them would be trained as background.

    Args:
        orientation: in which volumes are sliced.

    Example:
        >>> gaps = Gaps("coarsest")
        >>> label = torch.zeros(1, 8, 8, 13)
        >>> label[..., 2:12:3] = 1
        >>> gaps.add(label, "a.nii.gz")
        >>> gaps.notes()[0][:52]
        'in 1 volume empty slices lie between drawn ones, as '
    """

    def __init__(self, orientation: str) -> None:
        self.orientation, self.volumes = orientation, 0
        self.found: list[str] = []

    def add(self, label: torch.Tensor, file: str) -> None:
        """Look at a label map (1, H, W, D); of one (F, H, W, D) at the frames. What nobody annotated is not empty."""
        if label.ndim == 3:
            return
        axis = 0 if len(label) > 1 else 1 + sliced_axis(label, self.orientation)
        drawn = (torch.as_tensor(label) > 0).movedim(axis, 0).flatten(1).any(1).nonzero().flatten()
        self.volumes += 1
        frames = len(label) > 1 and 0 < len(drawn) < len(label)
        steps = drawn.diff().tolist() if len(drawn) >= FEWEST else []
        usual = max(set(steps), key=steps.count, default=1)  # lesions lie at no regular distance
        self.found += [file] if frames or (usual > 1 and steps.count(usual) > REGULAR * len(steps)) else []

    def notes(self) -> list[str]:
        """A line where there are such volumes."""
        if not self.found or 2 * len(self.found) < self.volumes:
            return []
        return [
            f"in {counted(len(self.found), 'volume')} empty slices lie between drawn ones, as in {self.found[0]}: if "
            'nobody drew in them, give their voxels the label "ignore", or they are trained as background'
        ]


def has_inside(mask: torch.Tensor) -> bool:
    """Whether a mask (1, H, W) is thicker than two pixels anywhere."""
    return bool((max_pool2d(pad(1 - mask, (1, 1, 1, 1), value=1.0), 3, 1) == 0).any())
