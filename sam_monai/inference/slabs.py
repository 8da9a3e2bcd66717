"""Big volumes in bounded memory: slab by slab; of each slab the labels are kept, not the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor
from tqdm.auto import tqdm

from ..data.frames import parts_of
from ..errors import InputError
from ..networks.regions import label_map_of
from ..networks.slices import MOST_BYTES, of_image
from . import quality

SLICES = 64  # of a slab at most
SLAB_BYTES = 2**26  # of a slab's logits; the network needs about four times as much to compute them
MARGIN = 4  # slices by which slabs overlap on each side where slices see each other


class SlabInferer(Inferer):
    """Another inferer for slabs of a volume's slices, so that memory grows neither with depth nor with labels.

    Where the slices see each other (depth attention), slabs overlap and are blended. The logits of a whole volume are
    kept if they are small. Else the labels alone are kept, as one channel, with the sums that
    :mod:`sam_monai.inference.quality` needs as an attribute. :class:`sam_monai.inference.file_grid.ToFileGridd` takes
    both.

    Args:
        inferer: for one slab.
        slices: of a slab at most; fewer where its logits would take more than :data:`SLAB_BYTES`.
        most_bytes: of logits to keep.
    """

    def __init__(self, inferer: Inferer, slices: int = SLICES, most_bytes: int = MOST_BYTES) -> None:
        self.inferer, self.slices, self.most_bytes = inferer, slices, most_bytes

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """(1, C, H, W, D) to logits (1, L + 1, H, W, D) or, if those are large, int16 labels (1, 1, H, W, D).

        Raises:
            InputError: several volumes that do not pass as they are.
        """
        module = getattr(network, "module", network)
        margin = MARGIN if getattr(module, "depth_attention", False) else 0
        if margin and (number := parts_of(inputs)) > 1:  # slices see those of their own part
            parts: list[Tensor] = []
            sums: Any = 0
            for one in inputs.as_tensor().chunk(number, -1):
                part = self(one, network, *args, **kwargs)
                if part.shape[1] > 1 and number * part.nbytes <= self.most_bytes:
                    parts.append(part)
                    continue
                large = part.shape[1] > 1
                sums += quality.sums_of(part[0], module) if large else vars(part)[quality.KEY]
                parts.append(label_map_of(part, getattr(module, "regions", None), 1) if large else part)
            return of_volume(torch.cat(parts, -1), inputs, sums)
        depth, plane = inputs.shape[-1], inputs[0, 0, ..., 0].numel()
        fitting = SLAB_BYTES // (4 * plane * (1 + len(getattr(module, "labels", ()))))
        step = max(1, 4 * margin, fitting) if fitting < self.slices else self.slices
        if inputs.ndim != 5 or depth <= step:
            return self.inferer(inputs, network, *args, **kwargs)
        if len(inputs) > 1:
            raise InputError(
                f"volumes of {depth} slices are answered one by one: give batches of one, not {len(inputs)}"
            )
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        out: Tensor | None = None
        tail: Tensor | None = None
        sums = 0
        for first in tqdm(range(0, depth, step), desc="slabs", unit="slab", leave=False):
            last = min(first + step, depth)
            start, stop = max(0, first - margin), min(depth, last + margin)
            logits = self.inferer(volume[..., start:stop], network, *args, **kwargs)
            if tail is not None:
                overlap = tail.shape[-1]
                weight = torch.linspace(0, 1, overlap + 2, device=logits.device)[1:-1]
                logits[..., :overlap] = weight * logits[..., :overlap] + (1 - weight) * tail
            end = stop if last == depth else last - margin
            tail = logits[..., end - start :].clone() if margin and last < depth else None
            logits = logits[..., : end - start]
            if out is None:  # one array for the whole volume, which every slab fills in its place
                large = 4 * plane * logits.shape[1] * depth > self.most_bytes
                shape = (1, 1 if large else logits.shape[1], *inputs.shape[2:])
                out = torch.empty(shape, dtype=torch.int16 if large else logits.dtype, device=logits.device)
            whole = out.shape[1] == logits.shape[1]
            out[..., start:end] = logits if whole else label_map_of(logits, getattr(module, "regions", None), 1)
            sums += 0 if whole else quality.sums_of(logits[0], module)
        assert out is not None
        return of_volume(out, inputs, sums)


def of_volume(found: Tensor, volume: Tensor, sums: Any) -> Tensor:
    """Logits, or labels with what a guess needs of the logits, on the grid of their volume."""
    found = of_image(found, volume)
    if found.shape[1] == 1:
        vars(found)[quality.KEY] = sums
    return found
