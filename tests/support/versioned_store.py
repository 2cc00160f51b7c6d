"""A store whose rows have versions that others raise, a cache before it, and threads that begin at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pepnet_infer import CacheConfig, EmbeddingCache
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.protocols import CachedTable
from pepnet_infer.schema.row_batch import RowBatch

DIM = 4
THREADS = 8


def row_of(keys: np.ndarray, version: np.ndarray | int = 0) -> np.ndarray:
    # float32 rounds the lower part of large versions, always within the same multiple of 2^15
    base = keys.astype(np.float64)[:, None] * 4 + np.asarray(version, np.float64).reshape(-1, 1) * 2.0**15
    return (base + np.arange(DIM)).astype(np.float32)


class Versions:
    """A store whose rows have versions that others raise, slow where it is told to be."""

    def __init__(self, count: int, seconds: float = 0.0) -> None:
        self.versions = np.zeros(count, np.uint64)
        self.asked: Counter[int] = Counter()
        self.seconds = seconds
        self.in_call: Callable[[np.ndarray], None] = lambda keys: None
        self._lock = threading.Lock()

    def get_many(self, keys: np.ndarray, dim: int) -> RowBatch:
        with self._lock:
            self.asked.update(keys.tolist())
            versions = self.versions[keys]  # read at the beginning: old by the time it is answered
        self.in_call(keys)
        if self.seconds:
            time.sleep(self.seconds)
        nan, inf = np.full(len(keys), np.nan, np.float32), np.full(len(keys), np.inf)
        return RowBatch(row_of(keys, versions), np.ones(len(keys), np.bool_), versions, nan, inf)


def rows_over(store: object, capacity: int = 1 << 20, policy: str = "lru", **options: Any) -> CachedRows:
    cache = EmbeddingCache(DIM, capacity, policy)
    table = CachedTable("t", 0, DIM, 100, np.full(DIM, -1, np.float32))
    return CachedRows(store, [table], {DIM: cache}, CacheConfig(**options))  # type: ignore[arg-type]


def all_at_once(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    start = threading.Barrier(threads)

    def run(number: int) -> Any:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return [future.result(120) for future in [pool.submit(run, number) for number in range(threads)]]
