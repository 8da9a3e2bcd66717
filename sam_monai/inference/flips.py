"""Answers averaged over mirrored images (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from ..data.sides import has_sides
from ..data.slicing import sides_axis
from ..errors import InputError


class FlippedInferer(Inferer):
    """Another inferer, whose every call of the network is the mean of the logits of the image and of its mirrored
    copies. It takes as many times as long as there are copies.

    Args:
        inferer: for images (B, C, H, W) or volumes (B, C, H, W, D).
        flips: ``"sides"``: mirrored from left to right, of volumes from one side of the patient to the other.
            ``"flips"``: of pictures upside down too; volumes as with ``"sides"``, as no patient lies upside down.
    """

    def __init__(self, inferer: Inferer, flips: str) -> None:
        self.inferer, self.flips = inferer, flips

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """As the other inferer's. Labels that name a side of the body are refused: a mirrored image shows them on the
        other."""
        labels = getattr(getattr(network, "module", network), "labels", ())
        if has_sides(labels):
            raise InputError(
                f"average_flips {self.flips}: a mirrored image shows a label on the other side ({', '.join(labels)}); "
                "leave average_flips out"
            )
        if inputs.ndim == 5:
            axes = [(), (2 + sides_axis(inputs[0]),)]
        else:
            axes = [(), (3,), (2,), (2, 3)][: 4 if self.flips == "flips" else 2]
        return self.inferer(inputs, Averaged(network, axes), *args, **kwargs)


class Averaged:
    """A network asked several times. ``module`` is the network, whose attributes other inferers look at."""

    def __init__(self, network: Callable[..., Tensor], axes: list[tuple[int, ...]]) -> None:
        self.network, self.module, self.axes = network, getattr(network, "module", network), axes

    def __call__(self, image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        image = torch.as_tensor(image)
        answers = (self.network(image.flip(axes), *args, **kwargs).flip(axes) for axes in self.axes)
        return sum(answers, torch.zeros(())) / len(self.axes)
