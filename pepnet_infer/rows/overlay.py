"""The rows of a delta as requests see them, while those of earlier versions still read what is below."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import RowOverlay
from pepnet_infer.process.pace import Rest, no_rest
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch


class Overlay:
    """Changed rows by table. Never changed itself: any thread may read it."""

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

    def __contains__(self, table: str) -> bool:
        return table in self.rows

    def find(self, table: str, keys: Keys) -> npt.NDArray[np.int64]:
        """Returns where `keys` [N] stand in the table's changed rows, -1 where they do not."""
        return self.by_table[table].find(np.ascontiguousarray(keys))


def over(newer: Overlay, older: Overlay) -> Overlay:
    """Returns both as one: of a key that is in both, what the newer says."""
    merged = {name: table for name, table in newer.rows.items() if name not in older}
    for name, below in older.rows.items():
        if name not in newer:
            merged[name] = below
            continue
        above = newer.rows[name]
        older_alone = below.take(newer.find(name, below.keys) < 0)
        merged[name] = RowBatch.concat([above, older_alone]).ordered()
    return Overlay(merged)
