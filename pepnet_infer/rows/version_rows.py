"""The rows of one version of the model: changed ones from an overlay, all others through the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pepnet_infer._kernels import RowOverlay
from pepnet_infer.process.pace import Rest, no_rest
from pepnet_infer.rows.cache.cached_rows import CachedRows, Overlays
from pepnet_infer.rows.protocols import CachedTable, DefaultCounts, RowRequest, Rows, RowSource
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import Positions, RowBatch


class Overlay:
    """The rows of a delta by table, as calls see them while those of earlier versions still read what is below.

    Never changed itself: any thread may read it.
    """

    def __init__(self, rows: Mapping[str, RowBatch], rest: Rest = no_rest) -> None:
        self.rows = {name: table for name, table in rows.items() if len(table.keys)}
        #: what calls look in
        self.by_table: dict[str, RowOverlay] = {}
        for name, table in self.rows.items():
            # Of most tables no row is deleted, and none ever expires: then a call need not look.
            gone = None if table.found.all() else (~table.found).view(np.uint8)
            until = table.expires if (table.expires != np.inf).any() else None
            self.by_table[name] = RowOverlay(table.keys, table.rows, gone, until)
            rest()

    def __bool__(self) -> bool:
        return bool(self.rows)

    def find(self, table: str, keys: Keys) -> Positions:
        """Returns where `keys` [N] stand in the table's changed rows, -1 where they do not."""
        return self.by_table[table].find(np.ascontiguousarray(keys))


def over(newer: Overlay, older: Overlay) -> Overlay:
    """Returns both as one: of a key that is in both, what the newer says."""
    merged = {**older.rows, **newer.rows}
    for name in newer.rows.keys() & older.rows.keys():
        below = older.rows[name]
        older_alone = below.take(newer.find(name, below.keys) < 0)
        merged[name] = RowBatch.concat([newer.rows[name], older_alone]).ordered()
    return Overlay(merged)


class VersionRows(RowSource):
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
        self.tables: dict[str, CachedTable] = {**cached.tables, **changed}

    def identity(self) -> str | None:
        """Returns the identity of the rows that came with no delta; see `Identified`."""
        return self.cached.identity()

    def answer(self, requests: Sequence[RowRequest]) -> list[DefaultCounts]:
        """Does all `requests` of a batch; see `CachedRows.answer`."""
        return self.cached.answer(requests, self.tables, self._overlays)


def cache_of(rows: RowSource) -> CachedRows | None:
    """Returns the cache that rows come through, of whichever version they are; None where there is none."""
    if isinstance(rows, VersionRows):
        return rows.cached
    return rows if isinstance(rows, CachedRows) else None
