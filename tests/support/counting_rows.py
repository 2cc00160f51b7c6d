"""A row source that notes what it is asked for."""

from __future__ import annotations

from typing import Any

from pepnet_infer.rows.stores.mmap import MmapStore


class CountingRows:
    """A row source that notes how many keys it was asked for."""

    def __init__(self, rows: MmapStore) -> None:
        self._rows = rows
        self.asked: list[tuple[str, int]] = []

    def lookup(self, table: str, keys: Any, out: Any) -> int:
        self.asked.append((table, len(keys)))
        return self._rows.lookup(table, keys, out)

    def pool(self, table: str, keys: Any, offsets: Any, pooling: Any, out: Any) -> int:
        self.asked.append((table, len(keys)))
        return self._rows.pool(table, keys, offsets, pooling, out)
