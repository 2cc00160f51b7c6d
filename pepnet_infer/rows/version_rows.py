"""The rows of one version of the model: changed ones from an overlay, all others through the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pepnet_infer.rows.cache.cached_rows import CachedRows, Overlays
from pepnet_infer.rows.overlay import Overlay
from pepnet_infer.rows.protocols import Pooling, Rows, RowSource
from pepnet_infer.rows.requests import CachedTable, DefaultCounts, RowRequest
from pepnet_infer.schema.ids import Keys


class VersionRows:
    """A `RowSource`. Rows that the overlay has are not asked of the cache, and not counted by it.

    An overlay is there for the short time until no call uses an earlier version; then its rows go to store and cache.
    """

    def __init__(self, cached: CachedRows, overlay: Overlay | None, defaults: Mapping[str, Rows]) -> None:
        """`defaults` float32 [dim] by table: default rows that are not those of `cached`."""
        self.cached = cached
        self.overlay = overlay or None
        self.defaults = defaults
        self._overlays: Overlays = {} if overlay is None else overlay.by_table
        changed = {name: replace(cached.tables[name], default_row=row) for name, row in defaults.items()}
        self.tables: dict[str, CachedTable] = {**cached.tables, **changed} if changed else cached.tables

    def identity(self) -> str | None:
        """Returns the identity of the rows that came with no delta; see `Identified`."""
        return self.cached.identity()

    def lookup(self, table: str, keys: Keys, out: Rows) -> int:
        """Writes the row of each of N keys to `out` [N, dim]; see `RowSource.lookup`."""
        return sum(self.answer([RowRequest("", table, keys, out)])[0])

    def pool(self, table: str, keys: Keys, offsets: npt.NDArray[np.int64], pooling: Pooling, out: Rows) -> int:
        """Writes pooled rows of bags to `out` [B, dim]; see `RowSource.pool`."""
        return sum(self.answer([RowRequest("", table, keys, out, offsets, pooling)])[0])

    def answer(self, requests: Sequence[RowRequest]) -> list[DefaultCounts]:
        """Does all `requests` of a batch; see `CachedRows.answer`."""
        return self.cached.answer(requests, self.tables, self._overlays)


def cache_of(rows: RowSource) -> CachedRows | None:
    """Returns the cache that rows come through, of whichever version they are; None where there is none."""
    if isinstance(rows, VersionRows):
        return rows.cached
    return rows if isinstance(rows, CachedRows) else None
