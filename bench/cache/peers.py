"""What looks up a batch of ids in Python: our cache, plain arrays, and the caches that Python programs use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import numpy as np

from pepnet_infer.bench.cache.contender import Batch, Contender, Destination, Floats, Positions, Workload
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache

#: What a cache of so many rows is given besides the rows' bytes: metadata a row, and for a small cache a little more.
ROW_METADATA = 24
FIXED = 1 << 16
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Filled:
    """A cache that was offered every row of a table once."""

    cache: EmbeddingCache
    policy: str
    offered: int
    resident: Positions  # positions in the table, ascending

    def describe(self) -> dict[str, Any]:
        """Returns what the cache took and what of the table it holds, as JSON values."""
        cache, rows = self.cache, self.cache.capacity_rows
        return {
            "policy": self.policy,
            "capacity_rows": rows,
            "memory_bytes": cache.memory_bytes,
            "metadata_bytes_a_row": (cache.memory_bytes - rows * cache.dim * 4) / rows,
            "offered": self.offered,
            "resident": int(self.resident.size),
            "resident_share": self.resident.size / self.offered,
            "fill": self.resident.size / rows,
        }


def fill(workload: Workload, policy: str, seed: int = 0) -> Filled:
    """Returns a cache whose budget is the table's bytes and the metadata of as many rows, after one insert of each.

    Scores, where the policy keeps them, are drawn log-normal. Which rows stayed is asked without being counted.
    """
    count, dim = workload.table.shape
    cache = EmbeddingCache(dim, count * (dim * 4 + ROW_METADATA) + FIXED, policy=policy, seed=seed)
    rng, there = np.random.default_rng(seed), []
    chunks = [slice(begin, begin + _CHUNK) for begin in range(0, count, _CHUNK)]
    for part in chunks:
        keys = workload.keys[part]
        scores = rng.lognormal(0, 1, keys.size).astype(np.float32) if policy == "gset" else None
        cache.insert(keys, workload.table[part], scores=scores, versions=np.ones(keys.size, np.uint64))
    for part in chunks:
        there.append(np.flatnonzero(cache.core.peek(workload.keys[part])["outcome"] == 1) + part.start)
    return Filled(cache, policy, count, np.concatenate(there))


def our_contender(filled: Filled, destination: Destination, name: str) -> Contender:
    """Returns `EmbeddingCache.lookup`, which also makes the array of what was found."""
    lookup, outs = filled.cache.lookup, [part.out for part in destination]

    def call(batch: Batch) -> Sequence[Floats]:
        for part in destination:
            if not lookup(batch.keys[part.begin : part.end], part.out).all():
                raise PepnetError(f"{name}: expected hits only")
        return outs

    return Contender(name, f"EmbeddingCache.lookup, policy {filled.policy}", call)


def index_contender(workload: Workload) -> Contender:
    """`table[positions]`, as it is written most often: a new array."""
    table = workload.table
    return Contender("numpy-index", "NumPy table[positions], a new array", lambda batch: (table[batch.positions],))


def cachetools_contender(workload: Workload, destination: Destination) -> Contender:
    """cachetools.LRUCache with every row of the workload."""
    from cachetools import LRUCache

    cache: LRUCache[int, np.ndarray] = LRUCache(maxsize=workload.keys.size)
    for key, row in zip(workload.keys.tolist(), workload.table, strict=True):
        cache[key] = row
    (out,) = [part.out for part in destination]

    def call(batch: Batch) -> Sequence[Floats]:
        return (np.stack([cache[key] for key in batch.ids], out=out),)

    return Contender("cachetools", "cachetools.LRUCache, one call an id, then np.stack", call)


def theine_contender(workload: Workload, destination: Destination) -> Contender:
    """theine.Cache with every row of the workload."""
    from theine import Cache

    # A quarter more than the rows: its window and its filter would keep some out of a cache that is just large enough.
    cache: Cache[int, np.ndarray] = Cache(workload.keys.size + workload.keys.size // 4 + 64)
    for key, row in zip(workload.keys.tolist(), workload.table, strict=True):
        cache.set(key, row)
    (out,) = [part.out for part in destination]

    def call(batch: Batch) -> Sequence[Floats]:
        rows = [cache.get(key)[0] for key in batch.ids]
        return (np.stack(cast(list[Floats], rows), out=out),)  # a None among them is an error

    return Contender("theine", "theine.Cache, one call an id, then np.stack", call, cache.close)


#: Peers by name. Those that keep rows as Python objects are packages of their own, which may be missing.
PACKAGES = {"cachetools": cachetools_contender, "theine": theine_contender}


def missing() -> dict[str, str]:
    """Returns the packages that are not installed, and why they are left out."""
    return {name: f"not installed: pip install {name}" for name in PACKAGES if find_spec(name) is None}
