"""Prepared cases in memory, as many of them as there is room for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monai.data import CacheDataset
from monai.transforms import Compose
from torch import Tensor

from ..memory import free_memory

SHARE = 0.4  # of the free memory: the other dataset takes as much of the rest, and training needs some

logger = logging.getLogger(__name__)


class BoundedCache(CacheDataset):
    """MONAI's CacheDataset, of which no more is kept than fits in a share of the free memory.

    Where not all fit, the others are prepared anew each time.

    Args:
        data: cases.
        transform: prepares them.
        options: MONAI's.
    """

    def __init__(self, data: Sequence[Any], transform: Callable[..., Any], **options: Any) -> None:
        # A Compose is random to MONAI, so nothing would be kept of what comes out of one within another.
        super().__init__(data, transform.flatten() if isinstance(transform, Compose) else transform, **options)

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        wanted, free = self.cache_num, free_memory()
        if wanted < 1 or free is None:
            return super()._fill_cache(indices)
        room = int(SHARE * free)
        kept: list[Any] = []
        used = largest = 0
        while len(kept) < wanted and used + largest <= room:
            case = self._load_cache_item(len(kept))
            largest = max(largest, tensor_bytes(case))
            if used + tensor_bytes(case) > room:
                break
            kept.append(case)
            used += tensor_bytes(case)
        self.cache_num = len(kept)
        if self.cache_num < wanted:
            logger.warning(
                "%d of %d prepared cases are kept in memory, up to %d MB each; the others are read anew each time",
                self.cache_num,
                len(self.data),
                largest // 2**20,
            )
        return kept


def tensor_bytes(case: Any) -> int:
    """Bytes of the tensors of a case, or of several."""
    if isinstance(case, Tensor):
        return case.nbytes
    parts = case.values() if isinstance(case, Mapping) else case if isinstance(case, (list, tuple)) else []
    return sum(map(tensor_bytes, parts))
