"""Changed rows of all tables of one width together, as cache and store keep them: few large steps, not many small."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pepnet_infer.rows.cache.cached_table import CachedTable
from pepnet_infer.rows.delta_rows import DeltaRows
from pepnet_infer.schema.ids import ID_BITS


def by_width(rows: Mapping[str, DeltaRows], tables: Mapping[str, CachedTable]) -> dict[int, DeltaRows]:
    """Returns the rows of each width, keys ascending over all its tables, whose numbers are the keys' upper bits."""
    parts: dict[int, list[DeltaRows]] = {}
    for name in sorted(rows, key=lambda name: tables[name].number):
        parts.setdefault(tables[name].dim, []).append(rows[name])
    return {dim: DeltaRows.concat(some) for dim, some in parts.items()}


def by_table(rows: Mapping[int, DeltaRows], tables: Mapping[str, CachedTable]) -> dict[str, DeltaRows]:
    """Returns what `by_width` was given, but for tables without a row."""
    apart: dict[str, DeltaRows] = {}
    for name, table in tables.items():
        together = rows.get(table.dim)
        if together is None:
            continue
        edges = np.array([table.number << ID_BITS, (table.number + 1) << ID_BITS], np.uint64)
        begin, end = np.searchsorted(together.keys, edges)
        if begin < end:
            apart[name] = together.take(slice(begin, end))
    return apart
