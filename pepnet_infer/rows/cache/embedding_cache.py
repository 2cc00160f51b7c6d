"""A cache of embedding rows of one width: a fixed number of bytes, batches looked up and written at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.errors import ConfigError, StoreError
from pepnet_infer.rows.cache import snapshot
from pepnet_infer.rows.cache.config import Policy, RowDtype, parse_bytes
from pepnet_infer.rows.gset import Gset
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import Mask, Rows
from pepnet_infer.validation import check_option

Scores = npt.NDArray[np.float32]
Expires = npt.NDArray[np.float64]

_ROW = 1  # the outcome of a key whose row was written


class EmbeddingCache:
    """Rows by key, at most `capacity_bytes` of them. Every method may be called from many threads at once.

    Lookups wait for nobody and see each row whole. Arrays are checked and never converted: a wrong dtype is a
    TypeError, a wrong shape a ValueError, each naming the argument. Without `versions` a row has version 0, without
    `expires` it expires after its field's ttl or never; a score of NaN, or `scores=None`, is none.
    """

    def __init__(
        self,
        dim: int,
        capacity_bytes: int | str,
        policy: str = "lru",
        dtype: str = "float32",
        *,
        beta: float = 0.1,
        r: float = 3.0,
        interval: float = 86400.0,
        admission: float = 1.0,
        tombstone_ttl: float = 3600.0,
        negative_ttl: float | None = 60.0,
        seed: int = 0,
        fields: Sequence[_kernels.FieldRule] = (),
    ) -> None:
        """Takes all its memory now.

        dim: numbers in a row. capacity_bytes: an integer or text such as "64MiB"; `memory_bytes` never exceeds it.
        policy: what is evicted: "lru", "gset", "lfu", "sieve" or "s3fifo". dtype: how rows are kept: "float32",
        "float16", "bfloat16", or "int8" with a scale a row. The others: see `CacheConfig`; `fields` by table number.
        Raises ConfigError for an option that is out of range, StoreError where there is not so much memory.
        """
        check_option("policy", policy, Policy)
        check_option("dtype", dtype, RowDtype)
        size = parse_bytes("capacity_bytes", capacity_bytes)
        try:
            self.core = _kernels.RowCache(
                dim,
                size,
                policy,
                dtype,
                beta=beta,
                r=r,
                interval=interval,
                admission=admission,
                tombstone_ttl=tombstone_ttl,
                negative_ttl=60.0 if negative_ttl is None else negative_ttl,  # of no use without memory of them
                seed=seed,
                fields=fields,
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"cache: {error}") from error
        except MemoryError as error:
            raise StoreError(f"cache: expected {size} bytes of memory, got none") from error
        self.dim = self.core.dim  #: numbers in a row
        self.dtype = self.core.dtype  #: how rows are kept
        self.policy = self.core.policy  #: what decides who is evicted
        self.capacity_rows = self.core.capacity_rows  #: how many rows there is room for
        #: what the cache takes, all of it from the beginning: never more than `capacity_bytes`
        self.memory_bytes = self.core.memory_bytes
        #: whether an id that the store does not have is remembered as such
        self.remembers_absent = negative_ttl is not None
        self._gset = Gset(beta, r, interval)
        #: the ids that `CachedRows` is fetching: an update must reach them before it reaches the cache
        self.flights = _kernels.FlightTable()
        #: whether rows came here otherwise than from the store: then who is asked, and when, decides what is answered
        self.updated = False

    def lookup(self, keys: Keys, out: Rows) -> Mask:
        """Writes the row of each of N keys that is there to `out` [N, dim], whose rows may be any distance apart.

        Returns bool [N]: whether it was. The other rows of `out` are left as they are.
        """
        outcomes = np.empty(len(keys), np.uint8)
        self.core.lookup(keys, out, outcomes)
        found: Mask = outcomes == _ROW
        return found

    def insert(
        self,
        keys: Keys,
        rows: Rows,
        scores: Scores | None = None,
        versions: Keys | None = None,
        expires: Expires | None = None,
    ) -> int:
        """Writes rows [N, dim], in place of the same or an older version. Returns how many are there now.

        Those that are not: a newer version was there, or the key was not admitted. scores: S of each id now. expires:
        Unix seconds, inf is never.
        """
        self.updated = True
        return self.core.write(keys, rows, scores, versions, expires)

    def apply(
        self,
        keys: Keys,
        rows: Rows,
        versions: Keys,
        scores: Scores | None = None,
        expires: Expires | None = None,
    ) -> int:
        """Writes rows [N, dim] in place of older versions only, so that replays and reordering do no harm.

        Returns how many applied. Where a store stands behind the cache, write to the store first: a row that is not
        here is fetched from there.
        """
        self.updated = True
        self.flights.touch(keys)
        return self.core.write(keys, rows, scores, versions, expires, update=True)

    def delete(self, keys: Keys, versions: Keys, expires: Expires | None = None) -> int:
        """Deletes what is not newer than `versions` [N]. Returns how many applied.

        Until `expires` (Unix seconds; None is after `tombstone_ttl`) the key is known not to exist, and no older
        version is written.
        """
        self.updated = True
        self.flights.touch(keys)
        return self.core.erase(keys, versions, expires)

    def feedback(self, keys: Keys, positive: Mask) -> int:
        """Counts samples that contained the ids, positive or not, for their scores. Returns how many are here.

        S of an id grows by beta·r or beta. A key may come many times: once a sample.
        """
        return self.core.feedback(keys, positive)

    def save(self, path: str | os.PathLike[str]) -> snapshot.Saved:
        """Writes all entries to the file `path`, whole or not at all, while the cache serves. Raises StoreError."""
        return snapshot.save(self.core, path)

    def load(self, path: str | os.PathLike[str]) -> snapshot.Loaded:
        """Writes the entries of a snapshot into the cache, in which newer versions stay. Raises StoreError."""
        self.updated = True
        return snapshot.load(self.core, path, self._gset)

    def clear(self) -> None:
        """Forgets everything, versions and deletions included."""
        self.core.clear()

    def stats(self) -> dict[str, Any]:
        """Returns counters since the beginning and what is there now, without stopping anyone.

        The core's counters (hits, misses, negative_hits, inserted, replaced, stale, evicted_*, rejected_*, …; every
        repeat counts), rows, negatives and tombstones that are there, capacity_rows, memory_bytes, and occupancy
        (rows / capacity_rows).
        """
        counted = self.core.stats()
        return {
            "dim": self.dim,
            "dtype": self.dtype,
            "policy": self.policy,
            **counted,
            "capacity_rows": self.capacity_rows,
            "memory_bytes": self.memory_bytes,
            "occupancy": counted["rows"] / max(1, self.capacity_rows),
        }
