"""What one batch asks of a row source, all fields at once: a source with a slow store asks it once a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pepnet_infer.ids import Keys
from pepnet_infer.store import Pooling, Rows, RowSource


class RowRequest(NamedTuple):
    """One field of a batch. Without `offsets` a row for each key, with them one for each bag."""

    field: str  # "" for none; for statistics
    table: str
    keys: Keys  # uint64 [N]
    out: Rows  # float32 [N or B, dim], rows any distance apart
    offsets: npt.NDArray[np.int64] | None = None  # [B+1]
    pooling: Pooling = "sum"


@runtime_checkable
class BatchRowSource(RowSource, Protocol):
    """A row source that takes the fields of a batch together."""

    def answer(self, requests: Sequence[RowRequest]) -> list[int]:
        """Does each request as `lookup` or `pool` would. Returns how many keys of each got the default row."""
        ...


def together(rows: RowSource) -> Callable[[Sequence[RowRequest]], list[int]]:
    """Returns what asks `rows` for all fields of a batch, in one call where it can."""
    if isinstance(rows, BatchRowSource):
        return rows.answer

    def ask(request: RowRequest) -> int:
        if request.offsets is None:
            return rows.lookup(request.table, request.keys, request.out)
        return rows.pool(request.table, request.keys, request.offsets, request.pooling, request.out)

    return lambda requests: [ask(request) for request in requests]
