"""Labels of pictures that are nothing but the rim of another one, as interpolation between colours leaves them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch.nn.functional import max_pool2d, pad

ALONG = 0.9  # share of a rim's pixels that touch another label, and the background at their other side
LEAST = 20  # pixels; fewer may be a lesion at the edge of an organ


class Rims:
    """Finds, over many label maps, values that are a structure in some of them and a mere rim in others.

    Example:
        >>> label = torch.zeros(1, 16, 16)
        >>> label[:, 4:12, 4:12], label[:, 5:11, 5:11] = 2, 1
        >>> rims = Rims()
        >>> rims.add(label, "a.png")
        >>> rims.add(2 * (label > 0), "b.png")
        >>> rims.notes(["small bowel", "large bowel"])[0][:60]
        'in 1 of the 2 labels that hold "large bowel" it is but a rim'
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
            f'in {len(rims)} of the {len(rims) + self.solid[value]} labels that hold "{name}" it is but a rim of one '
            f"or two pixels about another label, as in {rims[0]}: were the masks interpolated, or made of colours? "
            "Such cases count as holding it"
            for value, name in enumerate(names, 1)
            if (rims := self.found[value]) and self.solid[value]
        ]


def has_inside(mask: torch.Tensor) -> bool:
    """Whether a mask (1, H, W) is thicker than two pixels anywhere."""
    return bool((max_pool2d(pad(1 - mask, (1, 1, 1, 1), value=1.0), 3, 1) == 0).any())
