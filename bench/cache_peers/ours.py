"""The embedding cache as a contender, filled with the rows of a workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pepnet_infer.bench.cache_peers.contender import Batch, Contender, Destination, Floats, Positions, Workload
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
        cache, (rows, dim) = self.cache, (self.cache.capacity_rows, self.cache.dim)
        metadata = (cache.memory_bytes - rows * dim * 4) / rows
        return {
            "policy": self.policy,
            "capacity_rows": rows,
            "memory_bytes": cache.memory_bytes,
            "metadata_bytes_a_row": metadata,
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
    rng = np.random.default_rng(seed)
    for begin in range(0, count, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        keys = workload.keys[part]
        scores = rng.lognormal(0, 1, keys.size).astype(np.float32) if policy == "gset" else None
        cache.insert(keys, workload.table[part], scores=scores, versions=np.ones(keys.size, np.uint64))
    there = [
        np.flatnonzero(cache.core.peek(workload.keys[begin : begin + _CHUNK])["outcome"] == 1) + begin
        for begin in range(0, count, _CHUNK)
    ]
    return Filled(cache, policy, count, np.concatenate(there))


def public_contender(filled: Filled, destination: Destination, name: str) -> Contender:
    """Returns `EmbeddingCache.lookup`, which also makes the array of what was found."""
    lookup, outs = filled.cache.lookup, [part.out for part in destination]

    def call(batch: Batch) -> Sequence[Floats]:
        for part in destination:
            if not lookup(batch.keys[part.begin : part.end], part.out).all():
                raise PepnetError(f"{name}: expected hits only")
        return outs

    return Contender(name, f"EmbeddingCache.lookup, policy {filled.policy}", call)


def core_contender(filled: Filled, destination: Destination, name: str, *, counted: bool = True) -> Contender:
    """Returns the lookup of the extension itself, with or without counting and the policy's bookkeeping."""
    lookup, outs = filled.cache.core.lookup, [part.out for part in destination]

    def call(batch: Batch) -> Sequence[Floats]:
        found = sum(lookup(batch.keys[p.begin : p.end], p.out, None, counted) for p in destination)
        if found != batch.rows:
            raise PepnetError(f"{name}: expected {batch.rows} hits, got {found}")
        return outs

    kept = "" if counted else ", nothing counted"
    return Contender(name, f"_kernels.RowCache.lookup, policy {filled.policy}{kept}", call)
