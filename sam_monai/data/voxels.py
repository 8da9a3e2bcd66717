"""An image by what it shows, whatever file holds it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

MOST = 2**22  # values that are looked at, spread evenly


def voxels_of(image: Any) -> str:
    """16 hexadecimal digits of the intensities of an image (C, *spatial).

    They are the same where it was saved in another format that holds the same values, and with its axes in another
    order or direction, as converters turn them. A grey image that is saved as colours is the grey one."""
    array = np.asarray(image, np.float32)
    array = array[:1] if len(array) > 1 and (array == array[:1]).all() else array
    share = min(1.0, (MOST / array.size) ** (1 / (array.ndim - 1)))
    array = array[np.ix_(range(len(array)), *(spread(n, share) for n in array.shape[1:]))]
    # An order of values that no arithmetic is likely to undo; sums wrap round.
    numbers = (array + np.float32(0)).view(np.uint32).astype(np.uint64) + np.uint64(1)  # of -0 and 0 alike
    numbers = (numbers ^ (numbers >> np.uint64(15))) * np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers *= np.arange(1, 2 * len(numbers), 2, np.uint64).reshape(-1, *[1] * (array.ndim - 1))  # channels in order
    axes = range(array.ndim)
    sums = [numbers.sum(tuple(other for other in axes if other != axis)) for axis in axes[1:]]
    either = [min(of.tobytes(), of[::-1].tobytes()) for of in sums]
    return hashlib.sha256(b"".join(sorted(either, key=lambda of: (len(of), of)))).hexdigest()[:16]


def spread(number: int, share: float) -> np.ndarray:
    """A share of the indices of an axis, the same from either end."""
    if share == 1.0:
        return np.arange(number)
    half = np.linspace(0, (number - 1) / 2, max(1, round(number * share / 2))).astype(int)
    return np.union1d(half, number - 1 - half)
