"""The rows of a delta as requests see them, while those of earlier versions still read what is below."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import KeyIndex
from pepnet_infer.ids import Keys
from pepnet_infer.sync.delta_rows import DeltaRows


class Overlay:
    """Changed rows by table. Never changed itself: any thread may read it."""

    def __init__(self, rows: Mapping[str, DeltaRows]) -> None:
        self.rows = {name: table for name, table in rows.items() if len(table.keys)}
        self._index = {name: KeyIndex(table.keys) for name, table in self.rows.items()}
        # Of most tables no row is deleted, and none ever expires: then a call need not look.
        self._gone = {name: table.tombstones != 0 for name, table in self.rows.items() if table.tombstones.any()}
        self._until = {name: table.expires for name, table in self.rows.items() if (table.expires != np.inf).any()}

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __contains__(self, table: str) -> bool:
        return table in self.rows

    def find(self, table: str, keys: Keys) -> npt.NDArray[np.int64]:
        """Returns where `keys` [N] stand in the table's changed rows, -1 where they do not."""
        return self._index[table].find(np.ascontiguousarray(keys))

    def living(self, table: str, at: npt.NDArray[np.int64], now: float) -> npt.NDArray[np.int64]:
        """Returns places `at` [N] of rows, -1 for those that are deleted or over their time at `now`."""
        gone, until = self._gone.get(table), self._until.get(table)
        if gone is not None:
            at = np.where(gone[at], -1, at)
        if until is not None:
            at = np.where((at >= 0) & (until[at] <= now), -1, at)
        return at


def over(newer: Overlay, older: Overlay) -> Overlay:
    """Returns both as one: of a key that is in both, what the newer says."""
    merged = {name: table for name, table in newer.rows.items() if name not in older}
    for name, below in older.rows.items():
        if name not in newer:
            merged[name] = below
            continue
        above = newer.rows[name]
        merged[name] = above.merged(below.take(newer.find(name, below.keys) < 0))
    return Overlay(merged)
