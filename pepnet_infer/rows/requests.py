"""What one batch asks of a row source, all fields at once: a source with a slow store asks it once a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt

from pepnet_infer.rows.protocols import Pooling, Rows, RowSource, meets
from pepnet_infer.schema.ids import Keys


class RowRequest(NamedTuple):
    """One field of a batch. Without `offsets` a row for each key, with them one for each bag."""

    field: str  # "" for none; for statistics
    table: str
    keys: Keys  # uint64 [N]
    out: Rows  # float32 [N or B, dim], rows any distance apart
    offsets: npt.NDArray[np.int64] | None = None  # [B+1]
    pooling: Pooling = "sum"


class DefaultCounts(NamedTuple):
    """How many keys of one request got the default row, every repeat counted, and why."""

    unknown: int  # the store has no such id
    #: the store was not asked or gave no answer in time: it failed, was late, or the fetch was deferred or dropped
    unavailable: int


@dataclass(frozen=True)
class CachedTable:
    """A table of the bundle as a cache sees it: what its keys, its rows and its default row are."""

    name: str
    number: int
    dim: int
    rows: int
    default_row: npt.NDArray[np.float32]  #: [dim]


#: What almost every request of a warm cache is answered with.
NO_DEFAULTS = DefaultCounts(0, 0)


@runtime_checkable
class BatchRowSource(RowSource, Protocol):
    """A row source that takes the fields of a batch together."""

    def answer(self, requests: Sequence[RowRequest]) -> list[DefaultCounts]:
        """Does each request as `lookup` or `pool` would. Returns how many keys of each got the default row, and why."""
        ...


def together(rows: RowSource) -> Callable[[Sequence[RowRequest]], list[DefaultCounts]]:
    """Returns what asks `rows` for all fields of a batch, in one call where it can.

    A row source without `answer` has a row for each key or knows that there is none: it raises where it cannot say.
    """
    if _takes_batches(rows):
        return rows.answer

    def ask(request: RowRequest) -> DefaultCounts:
        if request.offsets is None:
            unknown = rows.lookup(request.table, request.keys, request.out)
        else:
            unknown = rows.pool(request.table, request.keys, request.offsets, request.pooling, request.out)
        return DefaultCounts(unknown, 0) if unknown else NO_DEFAULTS

    return lambda requests: [ask(request) for request in requests]


def _takes_batches(rows: RowSource) -> TypeGuard[BatchRowSource]:
    return meets(rows, BatchRowSource)
