"""Small caches, the rows that they are filled with, and all that a snapshot has to bring back of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels

DIM = 6
NOW = 1_700_000_000.0


def make(policy: str = "lru", dtype: str = "float32", capacity: int = 1 << 18, **more: Any) -> Any:
    cache = _kernels.RowCache(DIM, capacity, policy, dtype, **more)
    cache.set_time(NOW)
    return cache


def ids(*values: int) -> npt.NDArray[np.uint64]:
    return np.array(values, np.uint64)


def rows_of(keys: npt.NDArray[np.uint64], version: int = 0) -> npt.NDArray[np.float32]:
    """Rows that are a function of (id, version), exact in float32."""
    return (keys[:, None] % 4096 + np.uint64(8192 * version) + np.arange(DIM, dtype=np.uint64)).astype(np.float32)


def content(cache: Any) -> dict[int, tuple[Any, ...]]:
    """Everything but scores and order, by key."""
    found: dict[int, tuple[Any, ...]] = {}
    for index in range(cache.parts):
        part = cache.part(index)
        columns = [part[name] for name in ("outcome", "tombstone", "high_priority", "scored", "version", "expires")]
        for i, key in enumerate(part["keys"]):
            found[int(key)] = (*(column[i].item() for column in columns), part["rows"][i].tobytes())
    return found
