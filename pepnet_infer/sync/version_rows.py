"""The rows of one version of the model: changed ones from an overlay, all others through the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.cache.cached_rows import CachedRows, CachedTable
from pepnet_infer.ids import Keys
from pepnet_infer.row_requests import RowRequest
from pepnet_infer.store import Pooling, Rows
from pepnet_infer.sync.overlay import Overlay

Positions = npt.NDArray[np.int64]


class VersionRows:
    """A `RowSource`. Rows that the overlay has are not asked of the cache, and not counted by it.

    An overlay is there for the short time until no call uses an earlier version; then its rows go to store and cache.
    """

    def __init__(
        self,
        cached: CachedRows,
        overlay: Overlay | None,
        defaults: Mapping[str, Rows],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`defaults` float32 [dim] by table: default rows that are not those of `cached`."""
        self.cached = cached
        self.overlay = overlay or None
        self.defaults = defaults
        self._clock = clock
        self._tables: dict[str, CachedTable] = {
            name: replace(table, default_row=defaults.get(name, table.default_row))
            for name, table in cached.tables.items()
        }

    def lookup(self, table: str, keys: Keys, out: Rows) -> int:
        """Writes the row of each of N keys to `out` [N, dim]; see `RowSource.lookup`."""
        return self.answer([RowRequest("", table, keys, out)])[0]

    def pool(self, table: str, keys: Keys, offsets: Positions, pooling: Pooling, out: Rows) -> int:
        """Writes pooled rows of bags to `out` [B, dim]; see `RowSource.pool`."""
        return self.answer([RowRequest("", table, keys, out, offsets, pooling)])[0]

    def answer(self, requests: Sequence[RowRequest]) -> list[int]:
        """Does all `requests` of a batch; see `CachedRows.answer`."""
        overlay = self.overlay
        if overlay is None:
            return self.cached.answer(requests, self._tables)
        asked: list[RowRequest] = []
        splits: list[_Split | None] = []
        for request in requests:
            known = request.table in overlay and request.table in self._tables
            at = overlay.find(request.table, request.keys) if known else None
            if at is None or not (at >= 0).any():
                asked.append(request)
                splits.append(None)
            else:
                split = _Split(request, at, overlay, self._tables[request.table], self._clock())
                asked.append(split.below)
                splits.append(split)
        defaults = self.cached.answer(asked, self._tables)
        return [
            count if split is None else count + split.finish() for count, split in zip(defaults, splits, strict=True)
        ]


class _Split:
    """One request of which the overlay has some keys. `below` asks for the others; `finish` comes after it."""

    def __init__(self, request: RowRequest, at: Positions, overlay: Overlay, table: CachedTable, now: float) -> None:
        self._request, self._table = request, table
        self._changed = overlay.rows[request.table]
        self._ours = np.flatnonzero(at >= 0)
        self._theirs = np.flatnonzero(at < 0)
        if request.offsets is not None:  # keys outside of all bags are nobody's
            first, last = int(request.offsets[0]), int(request.offsets[-1])
            if (first, last) != (0, len(at)):
                self._ours = self._ours[(self._ours >= first) & (self._ours < last)]
                self._theirs = self._theirs[(self._theirs >= first) & (self._theirs < last)]
        # Deleted, or over its time: the default row, whatever is below.
        self._at = overlay.living(request.table, at[self._ours], now)
        self._rows = np.empty((len(self._theirs), table.dim), np.float32)
        self.below = RowRequest(request.field, request.table, request.keys[self._theirs], self._rows)

    def finish(self) -> int:
        """Writes the request's rows, or pools them. Returns how many of the overlay's keys got the default row."""
        request, table = self._request, self._table
        bags = request.offsets is not None
        out = np.empty((len(request.keys), table.dim), np.float32) if bags else request.out
        at = np.arange(len(self._theirs))
        _kernels.serve(self._rows, at, self._theirs, table.default_row, out)
        missing = _kernels.serve(self._changed.rows, self._at, self._ours, table.default_row, out)
        if request.offsets is not None:
            first = int(request.offsets[0])
            everything = np.arange(first, int(request.offsets[-1]))
            offsets = request.offsets - first
            _kernels.pool(out, everything, offsets, request.pooling, table.default_row, request.out)
        return missing
