"""nnU-Net's regions: lists of values in the `labels` of a `dataset.json`, with `regions_class_order`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from ..networks.regions import wrong_order, wrong_with
from .unlabelled import NAME, is_ignored

ORDER = "regions_class_order"
REMEDY = (
    'write "labels": {"background": 0, "whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing": 3} and '
    f'"{ORDER}": [1, 2, 3], for each region, the larger ones first, the value that a mask holds where no later one lies'
)


def regions_of(entry: Any, order: Any, file: Path) -> tuple[Any, tuple[tuple[int, ...], ...] | None]:
    """The `labels` of a `dataset.json` as names of values 1, 2, ..., and the values of each where any has several, in
    the order of the `regions_class_order`. Errors name ``file``.

    Returns:
        The labels without lists, in the order of the regions, and ``regions`` as in :mod:`sam_monai.networks.regions`,
        ``None`` where each label is one value. Names are checked elsewhere.
    """
    if not isinstance(entry, dict) or not any(isinstance(value, list) for value in entry.values()):
        return entry, None
    for name, value in entry.items():
        values = value if isinstance(value, list) else [value]
        if not values or any(type(one) is not int for one in values):
            raise InputError(f'{file}: "labels" gives {name[:50]!r} no whole number and no list of these; {REMEDY}')
    labels: dict[str, Any] = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in entry.items()}
    if all(isinstance(value, int) for value in labels.values()):
        return labels, None
    ignored = [name for name in labels if is_ignored(name.strip())]
    background = [name for name, value in labels.items() if value == 0]
    names = [name for name in labels if name not in (*ignored, *background)]
    if len(background) != 1 or len(ignored) > 1:
        raise InputError(f'{file}: "labels" must give the value 0 one name, "background"; {REMEDY}')
    values = [list(labels[name]) if isinstance(labels[name], list) else [labels[name]] for name in names]
    if not isinstance(order, list) or len(order) != len(names):
        found = "is missing" if order is None else f"is {str(order)[:80]}"
        raise InputError(f'{file}: "{ORDER}" {found}, and there are {len(names)} regions; {REMEDY}')
    for name, region, value in zip(names, values, order, strict=True):
        if type(value) is not int or (value not in region and 0 not in region):
            raise InputError(
                f'{file}: "{ORDER}" gives {name[:50]!r} the value {str(value)[:50]}, which is none of its values '
                f"{str(region)[:80]}; {REMEDY}"
            )
    regions = [[value, *(v for v in region if v != value)] for region, value in zip(values, order, strict=True)]
    short = [name[:50] for name in names]
    if why := wrong_with(regions, short) or wrong_order(regions, short):
        raise InputError(f'{file}: "labels" and "{ORDER}" do not fit together: {why}; {REMEDY}')
    highest = max(map(max, regions))
    if ignored and labels[ignored[0]] != highest + 1:
        raise InputError(f'{file}: unlabelled voxels, "{NAME}", have the next value, {highest + 1}; correct "labels"')
    names = [background[0], *names, *ignored]
    return {str(number): name for number, name in enumerate(names)}, tuple(map(tuple, regions))
