"""Caches that Python programs use: one call an id, and one `np.stack` of what came."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import cast

import numpy as np

from pepnet_infer.bench.cache_peers.contender import Batch, Contender, Destination, Floats, Workload

#: Name of the peer and of its package.
NAMES = ("cachetools", "theine")


def missing() -> dict[str, str]:
    """Returns the peers that are not installed, and why they are left out."""
    return {name: f"not installed: pip install {name}" for name in NAMES if find_spec(name) is None}


def cachetools_contender(workload: Workload, destination: Destination) -> Contender:
    """cachetools.LRUCache with every row of the workload."""
    from cachetools import LRUCache

    cache: LRUCache[int, np.ndarray] = LRUCache(maxsize=workload.keys.size)
    for key, row in zip(workload.keys.tolist(), workload.table, strict=True):
        cache[key] = row
    (out,) = outs = [part.out for part in destination]

    def call(batch: Batch) -> Sequence[Floats]:
        np.stack([cache[key] for key in batch.ids], out=out)
        return outs

    return Contender("cachetools", "cachetools.LRUCache, one call an id, then np.stack", call)


def theine_contender(workload: Workload, destination: Destination) -> Contender:
    """theine.Cache with every row of the workload."""
    from theine import Cache

    # A quarter more than the rows: its window and its filter would keep some out of a cache that is just large enough.
    cache: Cache[int, np.ndarray] = Cache(workload.keys.size + workload.keys.size // 4 + 64)
    for key, row in zip(workload.keys.tolist(), workload.table, strict=True):
        cache.set(key, row)
    (out,) = outs = [part.out for part in destination]

    def call(batch: Batch) -> Sequence[Floats]:
        rows = [cache.get(key)[0] for key in batch.ids]
        np.stack(cast(list[Floats], rows), out=out)  # a None among them is an error
        return outs

    return Contender("theine", "theine.Cache, one call an id, then np.stack", call, cache.close)
