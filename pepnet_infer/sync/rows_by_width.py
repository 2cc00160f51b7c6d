"""Changed rows of all tables of one width together, as cache and store keep them: few large steps, not many small."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pepnet_infer.rows.requests import CachedTable
from pepnet_infer.schema.ids import ID_BITS
from pepnet_infer.schema.row_batch import RowBatch


def by_width(rows: Mapping[str, RowBatch], tables: Mapping[str, CachedTable]) -> dict[int, RowBatch]:
    """Returns the rows of each width, keys ascending over all its tables, whose numbers are the keys' upper bits."""
    parts: dict[int, list[RowBatch]] = {}
    for name in sorted(rows, key=lambda name: tables[name].number):
        parts.setdefault(tables[name].dim, []).append(rows[name])
    return {dim: RowBatch.concat(some) for dim, some in parts.items()}


def by_table(rows: Mapping[int, RowBatch], tables: Mapping[str, CachedTable]) -> dict[str, RowBatch]:
    """Returns what `by_width` was given, but for tables without a row."""
    apart: dict[str, RowBatch] = {}
    for name, table in tables.items():
        together = rows.get(table.dim)
        if together is None:
            continue
        edges = np.array([table.number << ID_BITS, (table.number + 1) << ID_BITS], np.uint64)
        begin, end = np.searchsorted(together.keys, edges)
        if begin < end:
            apart[name] = together.take(slice(begin, end))
    return apart
