"""Labels that are regions: sets of a label map's values, which may overlap, as nnU-Net's `dataset.json` has them.

A label map keeps one value a voxel, in files and in memory. ``regions[i]`` lists the values of label i. A voxel of a
written mask gets the value that stands for exactly the labels found there. If there is none, it gets the first value of
the last of these labels: nnU-Net's `regions_class_order`. ``None`` stands for labels that have one value each, 1 to L.

Torch is imported where it is needed, because the command line checks keys before it imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Regions = Sequence[Sequence[int]]
HIGHEST = 2**15 - 1  # label maps are int16


def wrong_with(regions: Any, names: Sequence[str] | None = None) -> str:
    """Why something is no list of regions, in words; empty where it is one."""
    if not isinstance(regions, list | tuple) or not regions:
        return "there is no list of values for each label"
    names = [repr(name) for name in names] if names else [f"region {i}" for i in range(1, len(regions) + 1)]
    holding: dict[int, set[int]] = {}  # by value, the regions that hold it
    for i, (name, region) in enumerate(zip(names, regions, strict=True)):
        if not isinstance(region, list | tuple) or not region:
            return f"{name} is no list of values"
        for value in region:
            if type(value) is not int or not 0 < value <= HIGHEST:
                if type(value) is int and value == 0:
                    return f"{name} holds 0, which is the background's"
                return f"{name} holds {str(value)[:50]}, which is no whole number from 1 to {HIGHEST}"
            if i in holding.setdefault(value, set()):
                return f"{name} holds {value} twice"
            holding[value].add(i)
    if sorted(holding) != list(range(1, len(holding) + 1)):
        found = ", ".join(map(str, sorted(holding)[:20]))
        return f"the regions hold the values {found}, and values are 1, 2, 3, ... without a gap"
    for i, (name, region) in enumerate(zip(names, regions, strict=True)):
        for other, earlier in zip(names[:i], regions, strict=False):
            if {*earlier} == {*region}:
                return f"{other} and {name} are the same values"
    return ""


def wrong_order(regions: Regions, names: Sequence[str]) -> str:
    """Why the masks of nnU-Net, by the first values of regions, would hold other regions than their images, in words;
    empty where they would not."""
    holding = members(regions)
    for value, held in sorted(holding.items()):
        written = regions[max(held) - 1][0]
        if holding[written] != held:
            both = " and ".join(repr(names[i - 1]) for i in sorted(held))
            return f"a voxel of value {value} is {both}, and a mask would hold {written} there, which is not the same"
    return ""


def members(regions: Regions) -> dict[int, frozenset[int]]:
    """The labels, counted from 1, that each value stands for."""
    return {v: frozenset(i for i, region in enumerate(regions, 1) if v in region) for r in regions for v in r}


def with_sets(regions: Regions, others: Regions | None) -> Regions:
    """Regions of labels that were seen alone and together, with a further value for each set of labels that only others
    have: what a mask may hold is more, and what a label is stays the same. Other regions stay as they are."""
    held = {*members(regions).values()}
    new = sorted({*members(others or []).values()} - held, key=sorted)
    if not new or not all(frozenset({i}) in held for i in range(1, len(regions) + 1)):
        return regions
    last = max(map(max, regions))
    more = [[v for v, labels in enumerate(new, last + 1) if i in labels] for i in range(1, len(regions) + 1)]
    return tuple((*region, *values) for region, values in zip(regions, more, strict=True))


def joint_values(regions: Regions) -> list[tuple[int, frozenset[int]]]:
    """The values that a mask holds for labels together, where the first value of the last of them is another, and these
    labels."""
    holding = members(regions)
    first: dict[frozenset[int], int] = {}
    for value, held in holding.items():
        first.setdefault(held, value)
    return [(value, held) for held, value in first.items() if holding[regions[max(held) - 1][0]] != held]


def values_in_words(regions: Regions | None) -> str:
    """For messages; equal where regions are."""
    return "one value each" if regions is None else f"the values {[list(region) for region in regions]}"


def numbered(labels: Sequence[str], regions: Regions | None, instances: bool = False) -> list[str]:
    """Names of labels behind their values in a mask: "1 liver", "1/2/3 whole tumour", "1, 2, 3, ... nucleus"."""
    if instances:  # the second label is the border of the first one's objects
        return [f"1, 2, 3, ... {labels[0]}"]
    values = regions or [[value] for value in range(1, len(labels) + 1)]
    return [f"{'/'.join(map(str, sorted(each)))} {name}" for each, name in zip(values, labels, strict=True)]


def overlap(regions: Regions) -> bool:
    """Whether any value lies in two regions."""
    return sum(map(len, regions)) > len({value for region in regions for value in region})


def masks_of(label_map: Tensor, labels: int, regions: Regions | None = None, dim: int = 0) -> Tensor:
    """A label map (1, *spatial), or with a batch in front, to a mask for each of so many labels, bool, stacked along
    the channels' ``dim``."""
    import torch

    return torch.cat([*each_mask(label_map, labels, regions)], dim)


def each_mask(label_map: Tensor, labels: int, regions: Regions | None = None) -> Iterator[Tensor]:
    """The masks of :func:`masks_of` one after the other, for no more memory than that of one."""
    for first, *others in regions or [[value] for value in range(1, labels + 1)]:
        mask = label_map == first
        for value in others:
            mask |= label_map == value
        yield mask


def label_map_of(logits: Tensor, regions: Regions | None = None, dim: int = 0) -> Tensor:
    """Logits of background and labels to a label map, int16, with one channel along ``dim``.

    The label of the highest logit, or, where regions overlap, each region where its own logit is above 0: the value of
    those found together or, as nnU-Net does, the later ones over the earlier ones.
    """
    import torch

    if regions is None or not overlap(regions):
        found = logits.argmax(dim, keepdim=True)
        if regions is not None:
            found = torch.tensor([0, *(region[0] for region in regions)], device=logits.device)[found]
        return found.to(torch.int16)
    return painted([logits.narrow(dim, i, 1) > 0 for i in range(1, len(regions) + 1)], regions)


def painted(masks: Sequence[Tensor], regions: Regions) -> Tensor:
    """A mask for each region to a label map, int16."""
    import torch

    found = torch.zeros_like(masks[0], dtype=torch.int16)
    for mask, region in zip(masks, regions, strict=True):
        found[mask] = region[0]
    for value, held in joint_values(regions):
        these = torch.ones_like(masks[0])
        for i, mask in enumerate(masks, 1):
            these &= mask if i in held else ~mask
        found[these] = value
    return found


def probabilities_of(logits: Tensor, regions: Regions | None = None, temperature: float = 1.0) -> Tensor:
    """Logits of background and labels (L + 1, *spatial), divided by a temperature, to probabilities: softmax or, where
    regions overlap, each label's own sigmoid."""
    logits = logits / temperature
    return logits.sigmoid() if regions is not None and overlap(regions) else logits.softmax(0)
