"""A row source that notes what it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from pepnet_infer.rows.protocols import DefaultCounts, RowRequest
from pepnet_infer.rows.stores.mmap import MmapStore


class CountingRows:
    """A row source that notes how many keys it was asked for."""

    def __init__(self, rows: MmapStore) -> None:
        self._rows = rows
        self.asked: list[tuple[str, int]] = []

    def answer(self, requests: Sequence[RowRequest]) -> list[DefaultCounts]:
        self.asked += [(request.table, len(request.keys)) for request in requests]
        return self._rows.answer(requests)
