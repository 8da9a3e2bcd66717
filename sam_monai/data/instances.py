"""Pictures with many objects of one label, such as nuclei: from maps that number the objects to labels, and back.

The network is trained on two labels, the inside of the objects and their border, so that objects which touch are told
apart. An object of a mask is a connected piece of the inside, grown into the border.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from skimage.measure import label as pieces_of
from skimage.segmentation import relabel_sequential, watershed
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..networks.regions import Regions
from .unlabelled import UNLABELLED

KEY = "instances"
PIECES = "objects are pieces"  # in a label's metadata, where its file has one value for all objects
HIGHEST = 2**24  # that float32 holds
MOST = UNLABELLED - 1  # objects of a picture
SCATTERED = 3  # pieces for each value of a file, above which the values number no objects
WIDTH = 1  # of the border in pixels of the network's square; 2 finds as many objects and invents more
EVERYWHERE = np.ones((3, 3), int)  # neighbours, diagonal ones too


def names_of(labels: Sequence[str], spatial_dims: int, regions: Regions | None = None) -> tuple[str, str]:
    """Names of the network's two labels for objects of a dataset's one label.

    Raises:
        InputError: volumes, several labels, or labels that are regions.
    """
    if spatial_dims != 2:
        raise InputError(
            "the key instances is for 2D pictures, and these are volumes: leave it out, and number the connected "
            "components of the masks afterwards"
        )
    if len(labels) != 1 or regions is not None:
        raise InputError(
            f"the key instances is for objects of one label, and dataset.json has {', '.join(labels)}"
            f"{' with several values' if regions is not None else ''}: leave the key out, or name one label there, "
            "1, and number its objects in the label files"
        )
    return labels[0], f"{labels[0]} border"


def objects_of(label: MetaTensor, path: str) -> MetaTensor:
    """A label file's map (1, H, W) with its objects numbered 1, 2, 3, ... Where it holds one value, each connected
    piece is an object, and the metadata says so.

    Raises:
        InputError: too many objects, or values that number no objects.
    """
    array = label.cpu().numpy()[0].astype(np.int64)
    pieces = np.asarray(pieces_of(array))  # of equal values
    number = int(pieces.max())
    values = len(np.unique(array[array > 0]))
    if values == 1 < number:
        label.meta[PIECES] = True
        numbered = pieces
    elif number > SCATTERED * max(values, 1):
        raise InputError(
            f"{path}: its {values} values lie in {number} separate pieces, and the key instances takes each value for "
            "one object: number the objects, save them all as 1, or leave the key out"
        )
    else:
        numbered = relabel_sequential(array)[0]
    refuse_more(int(numbered.max()), path)
    return MetaTensor(torch.as_tensor(np.asarray(numbered, np.float32))[None], meta=label.meta)


def refuse_more(number: int, path: str) -> None:
    if number > MOST:
        raise InputError(f"{path}: shows {number} objects, and {MOST} is the most: cut the picture into tiles")


def inside_and_border(label: Tensor, width: int = WIDTH) -> Tensor:
    """Numbered objects ([B, ]1, H, W) to 1 inside of them and 2 at their border, which are the pixels of an object at
    most ``width`` from another one or from the background. The picture's edge is none."""
    label = torch.as_tensor(label).float()
    highest, lowest = (sign * F.max_pool2d(sign * label, 2 * width + 1, 1, width) for sign in (1, -1))
    return (label > 0) * (1.0 + ((highest != label) | (lowest != label)))


def merged(logits: Tensor) -> Tensor:
    """Logits of background, inside and border (3, ...) to those of background and objects (2, ...), with the same
    probabilities."""
    return torch.stack([logits[0], logits[1:].logsumexp(0)])


def objects_in(logits: Tensor) -> np.ndarray:
    """Logits of background, inside and border (3, H, W) to numbered objects, int32 (H, W)."""
    background, objects = merged(logits.float()).cpu().numpy()
    inside, border = logits[1:].float().cpu().numpy()
    mask = objects > background
    seeds, pieces = np.asarray(pieces_of(mask & (inside > border), connectivity=1)), np.asarray(pieces_of(mask))
    without = mask & ~np.isin(pieces, pieces[seeds > 0])  # too small, or too faint, to have an inside
    seeds[without] = seeds.max() + pieces[without]
    return relabel_sequential(watershed(border - inside, seeds, EVERYWHERE, mask=mask))[0].astype(np.int32)
