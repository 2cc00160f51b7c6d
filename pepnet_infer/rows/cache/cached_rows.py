"""The row source with a cache: one `EmbeddingCache` for each width of the tables, a store behind them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Protocol

import numpy as np

from pepnet_infer import _kernels
from pepnet_infer.errors import StoreError
from pepnet_infer.process import forks
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.cache.counters import MissCounters
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache, Expires, Scores
from pepnet_infer.rows.cache.misses import Fetcher, MissBatch, Missed
from pepnet_infer.rows.cache.snapshot import Loaded, Saved, check_identity, load_folder, save_folder
from pepnet_infer.rows.cache.warm import prefetch, warm
from pepnet_infer.rows.cache.workers import MissWorkers
from pepnet_infer.rows.gset import Gset
from pepnet_infer.rows.protocols import (
    NO_DEFAULTS,
    CachedTable,
    DefaultCounts,
    RowRequest,
    Rows,
    RowSource,
    Store,
    identity_of,
)
from pepnet_infer.schema.ids import ID_BITS, Keys
from pepnet_infer.schema.row_batch import Mask
from pepnet_infer.stats import CacheStats

#: By table: changed rows that calls of one version see in front of the cache.
Overlays = Mapping[str, _kernels.RowOverlay]
_NO_OVERLAYS: Overlays = {}


class Beside(Protocol):
    """Copies of rows elsewhere, which must not outlive what they are copies of."""

    #: counts up whenever another version's rows are served, so that none of an earlier one come in after it
    epoch: int

    def drop(self, width: int, keys: Keys) -> None:
        """Forgets keys of tables of a width."""

    def stats(self) -> dict[str, Any]:
        """Returns counters."""


class CachedRows(RowSource):
    """A `RowSource` over a store. Hot rows are in memory; misses of a batch go to the store in one call a width.

    Unknown ids get the table's default row, as do, counted, keys whose row the store does not deliver in time or at
    all: see `CacheConfig`. Rows that were fetched are served from the answer itself, so that it makes no difference
    whether the cache keeps them: with dtype float32 they are the store's, bit for bit. Any thread may ask at any time,
    and so may a forked child, which begins with what was cached.
    """

    def __init__(
        self, store: Store, tables: Sequence[CachedTable], caches: Mapping[int, EmbeddingCache], config: CacheConfig
    ) -> None:
        """Puts `caches`, one for each width of `tables`, before `store`."""
        self.config = config
        self.tables = {table.name: table for table in tables}
        self.caches = dict(caches)
        self._cores = {dim: cache.core for dim, cache in self.caches.items()}
        self.store = store  #: what is behind the cache
        self.counters, self.fetches, self._workers = MissCounters(), _kernels.Fetches(), MissWorkers()
        #: by width: what asks the store
        self.fetchers = {dim: Fetcher(cache, store, self.counters, self.fetches) for dim, cache in self.caches.items()}
        self._filled_from = identity_of(store)
        #: whether a follower has written rows of later versions here, which are not those of `identity`
        self.followed = False
        self._gset = Gset(config.beta, config.r, config.interval)
        self._budget = None if config.budget_ms is None else config.budget_ms / 1000.0
        #: further copies of rows, on a GPU
        self.beside: Beside | None = None
        forks.register(forks.Stage.CACHES, child=self.reset_after_fork)

    def answer(
        self,
        requests: Sequence[RowRequest],
        tables: Mapping[str, CachedTable] | None = None,
        overlays: Overlays = _NO_OVERLAYS,
    ) -> list[DefaultCounts]:
        """Does all `requests` of a batch. Returns how many keys of each got the default row, and why.

        For a version of the model, tables: the same with default rows of its own; overlays: rows of its own, whose keys
        are not asked of the cache, and not counted. Keys must be of the request's table, or `MISSING_KEY`. Raises
        StoreError for a table that is not there and, with `on_fault` "raise", when the store failed.
        """
        deadline = None if self._budget is None else monotonic() + self._budget
        ended = self.fetches.ended
        found = self.tables if tables is None else tables
        jobs: list[_kernels.Job] = []
        for _, name, keys, out, offsets, pooling in requests:
            table = found.get(name) or self._table(name)
            outcomes, core = np.empty(len(keys), np.uint8), self._cores[table.dim]
            jobs.append((core, overlays.get(name), table.default_row, keys, out, offsets, pooling, outcomes))
        counts: list[DefaultCounts] = []
        looked_up: list[tuple[tuple[str, str], tuple[int, ...]]] = []
        missed: list[Missed] = []
        asked = 0
        for request, job, (hits, in_overlay, deleted) in zip(requests, jobs, _kernels.look_up(jobs), strict=True):
            field, name, keys, _, offsets, _ = request
            number = (len(keys) if offsets is None else int(offsets[-1]) - int(offsets[0])) - in_overlay
            if hits != number:
                missed.append(Missed(request, found[name], job, len(counts)))
            asked += number
            looked_up.append(((field, name), (number, hits, 0, 0, 0)))
            counts.append(DefaultCounts(deleted, 0) if deleted else NO_DEFAULTS)
        if missed:
            self._ask_store(missed, asked, ended, deadline)
        for one in missed:
            place, (number, hits, *_) = looked_up[one.at]
            looked_up[one.at] = place, (number, hits, one.negative_hits, one.defaults, one.unavailable)
            known = counts[one.at].unknown + one.defaults - one.unavailable
            counts[one.at] = DefaultCounts(known, one.unavailable)
        self.counters.looked_up.add(looked_up)
        return counts

    def _ask_store(self, missed: Sequence[Missed], keys: int, ended: int, deadline: float | None) -> None:
        """Writes the rows, or default rows, of what a batch of `keys` keys lacks: see `misses`.

        ended: `Fetches.ended` before the keys were looked up. deadline: of `monotonic`, None: however long it takes.
        Raises StoreError when the store failed and `on_fault` is "raise".
        """
        by_width: dict[int, list[Missed]] = {}
        for one in missed:
            by_width.setdefault(one.table.dim, []).append(one)
        above, lacking = self.config.async_above, sum(len(one.wanted) for one in missed)
        waits = above is None or keys - lacking < above * keys
        batches = [
            MissBatch(self.fetchers[dim], self._workers, some, waits, hurries=deadline is not None)
            for dim, some in by_width.items()
        ]
        for batch in batches:
            batch.ask(ended)
        for batch in batches:
            batch.wait(deadline)
        if any(batch.late for batch in batches):
            self.counters.overrun(self.config.budget_ms)
        fault = next((batch.fault for batch in batches if batch.fault is not None), None)
        if fault is not None and self.config.on_fault == "raise":
            raise StoreError(str(fault)) from fault
        for batch in batches:
            batch.serve()

    def prefetch(self, table: str, ids: object) -> int:
        """Fetches what the cache lacks of `ids` (or keys) of a table. Returns how many of them it has then.

        Admits them all, whatever their fields' probability. Waits for the store, whatever the budget. Counts as no
        lookup. Raises StoreError when the store fails.
        """
        return prefetch(self.fetchers[self._table(table).dim], self.keys(table, ids))

    def warm(self, scored: Mapping[str, tuple[Keys, Scores]]) -> int:
        """Fills the caches from the store: table → (keys, scores), highest score first. Returns how many came."""
        by_width: dict[int, list[tuple[Keys, Scores]]] = {}
        for name, keys_and_scores in scored.items():
            by_width.setdefault(self._table(name).dim, []).append(keys_and_scores)
        return sum(warm(self.fetchers[dim], tables) for dim, tables in by_width.items())

    def feedback(self, table: str, ids: object, positive: Mask) -> int:
        """Counts samples that contained `ids` (or keys) of a table: see `EmbeddingCache.feedback`."""
        return self.cache(table).feedback(self.keys(table, ids), positive)

    def apply(
        self,
        table: str,
        ids: object,
        rows: Rows,
        versions: Keys,
        scores: Scores | None = None,
        expires: Expires | None = None,
    ) -> int:
        """Updates rows of `ids` (or keys) of a table: see `EmbeddingCache.apply`. Write to the store first."""
        keys = self.keys(table, ids)
        applied = self.cache(table).apply(keys, rows, versions, scores, expires)
        self._changed(table, keys)
        return applied

    def delete(self, table: str, ids: object, versions: Keys, expires: Expires | None = None) -> int:
        """Deletes `ids` (or keys) of a table: see `EmbeddingCache.delete`. Delete from the store first."""
        keys = self.keys(table, ids)
        applied = self.cache(table).delete(keys, versions, expires)
        self._changed(table, keys)
        return applied

    def save(self, folder: str | os.PathLike[str]) -> Saved:
        """Writes all entries of all widths to files in `folder`, in place of a snapshot there, while the cache serves.

        Returns what it holds. The folder appears whole or not at all. Raises StoreError.
        """
        return save_folder(self._cores, folder, lambda: None if self.followed else self.identity())

    def load(self, folder: str | os.PathLike[str]) -> Loaded:
        """Writes the entries of a snapshot of `save` into the cache, in which newer versions stay.

        Returns what became of them. Whether its rows are still those of the store is for the caller to know:
        `CacheConfig.warm_from` asks. Raises StoreError, with the cache as it was for each width whose file is damaged.
        """
        for cache in self.caches.values():
            cache.updated = True
        return load_folder(self._cores, folder, self._gset)

    def warm_from(self, folder: str | os.PathLike[str]) -> Loaded:
        """Does what `load` does with a snapshot of the store's own rows. Raises StoreError for one of other rows."""
        check_identity(folder, self.identity())
        return load_folder(self._cores, folder, self._gset)

    def identity(self) -> str | None:
        """Returns the store's identity (see `Identified`); None once rows came here by another way than from it.

        None as well where the store's is another than it was: rows of before may still be here.
        """
        if any(cache.updated for cache in self.caches.values()):
            return None
        now = identity_of(self.store)
        return now if now == self._filled_from else None

    def put_before_store(self, store: Store) -> None:
        """Asks `store` from here on, where the one behind the cache was asked: it must answer the same at first."""
        self.store = store
        for fetcher in self.fetchers.values():
            fetcher.store = store

    def cache(self, table: str) -> EmbeddingCache:
        """Returns the cache that has the rows of `table`, and those of all tables of its width."""
        return self.caches[self._table(table).dim]

    def keys(self, table: str, ids: object) -> Keys:
        """Returns `ids` (integers below 2^48) of a table as keys; keys of the table stay as they are."""
        number = self._table(table).number
        given = np.asarray(ids)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise StoreError(f"{table}: expected a vector of integer ids, got {given.dtype} {list(given.shape)}")
        keys = given.astype(np.uint64)  # a negative one becomes one of no table
        above = keys >> np.uint64(ID_BITS)
        bad = (above != 0) & (above != number)
        if bad.any():
            got = given[np.argmax(bad)]
            raise StoreError(f"{table}: expected ids below 2^48 or keys of table number {number}, got {got}")
        return keys | np.uint64(number << ID_BITS)

    def stats(self) -> CacheStats:
        """Returns counters since the beginning, without stopping anyone: see `CacheStats`."""
        widths = {str(dim): cache.stats() for dim, cache in self.caches.items()}
        return {
            "policy": self.config.policy,
            "dtype": self.config.dtype,
            "rows": sum(one["rows"] for one in widths.values()),
            "capacity_rows": sum(one["capacity_rows"] for one in widths.values()),
            "memory_bytes": sum(one["memory_bytes"] for one in widths.values()),
            **self.counters.read(),
            "flights": sum(len(cache.flights) for cache in self.caches.values()),
            "widths": widths,
            "device": None if self.beside is None else self.beside.stats(),
        }

    def close(self) -> None:
        """Stops the threads; what they have begun they finish. Calls under way, and later ones, ask the store alone."""
        self._workers.close()

    def reset_after_fork(self) -> None:
        """In a child process: threads, and what they were doing, are the parent's."""
        self.fetches.reset()
        for cache in self.caches.values():
            cache.flights = _kernels.FlightTable()
        self._workers.reset_after_fork()

    def _changed(self, table: str, keys: Keys) -> None:
        if self.beside is not None:
            self.beside.drop(self._table(table).dim, keys)

    def _table(self, name: str) -> CachedTable:
        table = self.tables.get(name)
        if table is None:
            raise StoreError(f"table: expected one of {', '.join(sorted(self.tables))}, got {name!r}")
        return table
