"""Labels that have a mask each, which may overlap: in memory one label map, whose values stand for sets of labels.

They are those of :mod:`sam_monai.networks.regions`: label i alone has the value i, and each set of labels that share
voxels has a value after these.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..errors import InputError
from ..networks.regions import Regions, members
from .dicom_seg import is_segmentation
from .mask_folders import is_mask_folder
from .nifti import has_fourth_axis
from .unlabelled import is_ignored

MOST = 100  # sets of labels, of which the adapter's record lists each
FEW = 5  # labels of which every set has a value; of more, the sets that occur


def has_a_mask_each(label: str | Path) -> bool:
    """Tell whether a case's labels are a folder of masks, the channels of a file or the segments of a DICOM SEG."""
    return is_mask_folder(label) or has_fourth_axis(label) or is_segmentation(label)


def layered(masks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, list[frozenset[int]]]:
    """Masks (1, *spatial), of which the first is that of label 1, as one map (1, *spatial) of indices, and the set of
    labels that each index stands for."""
    found: torch.Tensor | None = None
    sets: list[frozenset[int]] = [frozenset()]
    for number, mask in enumerate(masks, 1):
        held = torch.as_tensor(mask) > 0
        found = torch.zeros_like(held, dtype=torch.int32) if found is None else found
        for index in found[held].unique().tolist():
            found[held & (found == index)] = len(sets)
            sets.append(sets[index] | {number})
    assert found is not None
    return found, sets


def label_map(
    masks: Iterable[torch.Tensor], values: Mapping[frozenset[int], int], files: Sequence[str]
) -> torch.Tensor:
    """One label map (1, *spatial) of masks, float32, with the ``values`` of sets of labels. Errors name a file."""
    found, sets = layered(masks)
    there = set(found.unique().tolist())
    for index in sorted(there - {0}):
        both = sorted(sets[index])
        if sets[index] in values:
            continue
        count = int((found == index).sum())
        if len(both) == 1:
            raise InputError(
                f"{files[both[0] - 1]}: {count} of its voxels lie outside the labels that hold it in dataset.json; "
                "correct it, or the regions"
            )
        raise InputError(
            f"{files[both[-1] - 1]}: overlaps with {Path(files[both[-2] - 1]).name} in {count} voxels, and the two "
            "are not known to overlap; take the smaller structure out of the larger one, or train on one of the two"
        )
    lookup = torch.zeros(len(sets))
    for index in there - {0}:
        lookup[index] = values[sets[index]]
    return lookup[found]


def values_of(labels: int, regions: Regions | None, ignored: int | None = None) -> dict[frozenset[int], int]:
    """The value of each set of labels in a label map; that of unlabelled voxels, the mask after those of the labels, is
    ``ignored``."""
    values: dict[frozenset[int], int] = {}
    for value, held in members(regions or [[i] for i in range(1, labels + 1)]).items():
        values.setdefault(held, value)
    return values if ignored is None else values | {frozenset({labels + 1}): ignored}


def found_overlaps(
    cases: Sequence[Mapping[str, Any]], labels: Sequence[str], masks_of: Callable[..., tuple[Iterable[Any], list[str]]]
) -> tuple[tuple[int, ...], ...] | None:
    """Regions of labels that have a mask each; ``None`` where none of them overlap, or where labels are label maps. The
    last label may be that of unlabelled voxels. ``masks_of`` is :meth:`~sam_monai.data.load.LoadCased.masks`."""
    number = len(labels) - is_ignored(labels[-1])
    apart = [case for case in cases if has_a_mask_each(case["label"])]
    sets: set[frozenset[int]] = set()
    for case in tqdm(apart, desc="reading masks", disable=len(apart) < 20):
        try:
            masks, files = masks_of(str(case["label"]), case, labels)
            if not files:
                continue
            index, held = layered(masks)
        except InputError:  # said where the dataset is checked
            continue
        sets |= {held[i] for i in index.unique().tolist() if len(held[i]) > 1 and max(held[i]) <= number}
    if not sets:
        return None
    if len(sets) > MOST:
        raise InputError(
            f"{apart[0]['label']}: in this and other cases {number} labels overlap in {len(sets)} ways, and an adapter "
            f"keeps {MOST} at most; take fewer: sam-monai dataset FOLDER --labels NAME,NAME"
        )
    if number <= FEW:
        sets = {frozenset(c) for n in range(2, number + 1) for c in itertools.combinations(range(1, number + 1), n)}
    ordered = [frozenset({i}) for i in range(1, number + 1)] + sorted(sets, key=sorted)
    return tuple(tuple(v for v, held in enumerate(ordered, 1) if i in held) for i in range(1, number + 1))
