"""A store that is a formula, and `CachedRows` over it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pepnet_infer import CacheConfig, EmbeddingCache
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.protocols import CachedTable
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.row_batch import RowBatch

DIM = 6
KNOWN = 1000  # ids below it exist
A, B, WIDE = 3, 9, 5  # table numbers
DEFAULT = {"a": -1.0, "b": -2.0, "wide": -3.0}


def keys_of(number: int, *ids: int) -> np.ndarray:
    return make_keys(number, np.array(ids, np.uint64))


def rows_of(keys: np.ndarray, dim: int = DIM) -> np.ndarray:
    """Rows that no two keys share, with all 24 bits in use."""
    seed = (keys & np.uint64(0xFFFF)).astype(np.float64) + (keys >> np.uint64(48)).astype(np.float64) * 7919
    return np.sin(seed[:, None] * 1.7 + np.arange(dim)).astype(np.float32)


class Formula:
    """A store of ids below `KNOWN`; notes what it is asked, and does before it answers what `before` says."""

    def __init__(self) -> None:
        self.asked: list[np.ndarray] = []
        self.before: Callable[[np.ndarray], None] = lambda keys: None
        self.change: Callable[[RowBatch], Any] = lambda fetched: fetched
        self.version = 0

    def get_many(self, keys: np.ndarray, dim: int) -> Any:
        self.asked.append(keys.copy())
        self.before(keys)
        found = (keys & np.uint64((1 << 48) - 1)) < KNOWN
        rows = np.where(found[:, None], rows_of(keys, dim), 0).astype(np.float32)
        versions = np.full(len(keys), self.version, np.uint64)
        scores, expires = np.full(len(keys), np.nan, np.float32), np.full(len(keys), np.inf)
        return self.change(RowBatch(rows, found, versions, scores, expires))


def rows_over(store: object, capacity: int = 1 << 20, **options: Any) -> CachedRows:
    config = CacheConfig(**options)
    tables = [
        CachedTable(name, number, dim, KNOWN, np.full(dim, DEFAULT[name], np.float32))
        for name, number, dim in (("a", A, DIM), ("b", B, DIM), ("wide", WIDE, 11))
    ]
    extra = {"negative_ttl": config.negative_ttl, "admission": config.admission}
    caches = {dim: EmbeddingCache(dim, capacity, config.policy, **extra) for dim in (DIM, 11)}  # type: ignore[arg-type]
    return CachedRows(store, tables, caches, config)  # type: ignore[arg-type]


def expected(table: str, keys: np.ndarray, dim: int = DIM) -> np.ndarray:
    known = (keys & np.uint64((1 << 48) - 1)) < KNOWN
    return np.where(known[:, None], rows_of(keys, dim), np.float32(DEFAULT[table]))


def fail(error: Exception) -> Callable[[np.ndarray], None]:
    def before(keys: np.ndarray) -> None:
        raise error

    return before


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "did not come about within 60 s"
        time.sleep(0.002)
