"""Where embedding rows come from.

`RowSource` is what the assembler asks; `Store` is what holds all rows, and what a cache asks about its misses.
`MmapStore` is both: it serves a bundle's own tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from pepnet_infer.ids import Keys

Pooling = Literal["mean", "sum"]
Rows = npt.NDArray[np.float32]


class RowSource(Protocol):
    """Answers by table. Unknown keys are served the table's default row and counted. Safe from any thread."""

    def lookup(self, table: str, keys: Keys, out: Rows) -> int:
        """Writes the row of each of N keys to `out` [N, dim], whose rows may be any distance apart.

        Returns how many keys were unknown. Raises StoreError when there is no such table.
        """

    def pool(self, table: str, keys: Keys, offsets: npt.NDArray[np.int64], pooling: Pooling, out: Rows) -> int:
        """Writes the mean or sum of each bag's rows to `out` [B, dim]; bag b is keys[offsets[b]:offsets[b + 1]].

        An empty bag is zeros; an unknown key takes part with the table's default row. Returns how many were unknown.
        """


class Store(Protocol):
    """Answers by key alone, whatever the table: the table's number is in the key. Safe from any thread."""

    def get_many(self, keys: Keys, dim: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Returns (rows float32 [N, dim], found [N]) of keys that may come from any tables of width `dim`.

        Where `found` is false the row is the default row of the key's table, or zeros when no table has its number.
        Raises StoreError for a key of a table of another width.
        """


@dataclass(frozen=True)
class TableStats:
    """One table of a store, and what it was asked since it was opened."""

    rows: int
    dim: int
    dtype: str  # float32, float16 or bfloat16
    lookups: int  # keys asked for, every repeat counted
    unknown: int  # of these, how many got the default row
    index_bytes: int  # memory of the key index
    file_bytes: int  # mapped; only pages that were read take memory, and the system may drop them
