"""One field alone asked of a row source."""

from __future__ import annotations

from typing import Any

from pepnet_infer.rows.protocols import Pooling, RowRequest, Rows, RowSource
from pepnet_infer.schema.ids import Keys


def look_up(source: RowSource, table: str, keys: Keys, out: Rows) -> int:
    """Writes the row of each key to `out`. Returns how many keys got the default row."""
    return sum(source.answer([RowRequest("", table, keys, out)])[0])


def pool(source: RowSource, table: str, keys: Keys, offsets: Any, pooling: Pooling, out: Rows) -> int:
    """Writes the pooled rows of each bag to `out`. Returns what `look_up` does."""
    return sum(source.answer([RowRequest("", table, keys, out, offsets, pooling)])[0])
