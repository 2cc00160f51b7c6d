"""Where embedding rows come from.

`RowSource` is what the assembler asks; `Store` is what holds all rows, and what a cache asks about its misses;
`WritableStore` takes updates too. `MmapStore` is both of the first: it serves a bundle's own tables.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import StoreError
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.schema.row_batch import Rows as Rows

_LOG = logging.getLogger("pepnet_infer.stores")

Pooling = Literal["mean", "sum"]

#: A number that no table has: that of `ids.MISSING_KEY`.
NO_TABLE = 0xFFFF


@runtime_checkable
class RowSource(Protocol):
    """Answers by table. Unknown keys are served the table's default row and counted. Safe from any thread.

    A source that serves default rows also where it could not find out whether there is a row takes the fields of a
    batch together and counts these apart: see `row_requests.BatchRowSource`.
    """

    def lookup(self, table: str, keys: Keys, out: Rows) -> int:
        """Writes the row of each of N keys to `out` [N, dim], whose rows may be any distance apart.

        Returns how many keys were unknown. Raises StoreError when there is no such table.
        """

    def pool(self, table: str, keys: Keys, offsets: npt.NDArray[np.int64], pooling: Pooling, out: Rows) -> int:
        """Writes the mean or sum of each bag's rows to `out` [B, dim]; bag b is keys[offsets[b]:offsets[b + 1]].

        An empty bag is zeros; an unknown key takes part with the table's default row. Returns how many were unknown.
        """


@runtime_checkable
class Store(Protocol):
    """Answers by key alone, whatever the table: the table's number is in the key. Safe from any thread."""

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns what is there of `keys` [N], which may come from any tables of width `dim` and may repeat.

        A key that is not there has zeros for its row: which row is served in its stead is the caller's business. One
        whose stored row is of another width, or cannot be read, is `damaged` and costs no other key anything. Raises
        StoreError when the store cannot answer.
        """


@runtime_checkable
class Identified(Protocol):
    """A store or a row source that can tell its rows from others, which those are free not to do."""

    def identity(self) -> str | None:
        """Returns a text that no store with other rows returns, in any process; None where that is not known.

        Parquet scoring keeps finished files by it. Rows that expire, or that others write, are not known.
        """


@runtime_checkable
class ReachableStore(Store, Protocol):
    """A store that can say whether it can be read at all; an engine asks it when it is loaded."""

    def check_reachable(self) -> None:
        """Raises StoreError with the reason where `get_many` would: no server, a wrong password, no permission."""


def check_reachable(store: Store) -> None:
    """Asks a store that can say so whether it can be read. Raises StoreError, with the cause where it is another."""
    if not _is_reachable(store):
        return
    try:
        store.check_reachable()
    except StoreError:
        raise
    except Exception as error:  # the boundary: a user's store may raise anything
        name, got = type(store).__name__, f"{type(error).__name__}: {error}"
        raise StoreError(f"{name}: check_reachable: expected nothing or a StoreError, got {got}") from error


def meets(value: object, protocol: Any) -> bool:
    """Returns whether `value` has all methods of a runtime protocol, also a proxy's, which its `__getattr__` finds.

    From Python 3.12 on isinstance does not ask `__getattr__`.
    """
    names = getattr(protocol, "__protocol_attrs__", ())
    return isinstance(value, protocol) or (bool(names) and all(callable(getattr(value, name, None)) for name in names))


def is_store(value: object) -> TypeGuard[Store]:
    """Returns whether `value` has the methods of a store."""
    return meets(value, Store)


def is_row_source(value: object) -> TypeGuard[RowSource]:
    """Returns whether `value` has the methods of a row source."""
    return meets(value, RowSource)


def _is_identified(value: object) -> TypeGuard[Identified]:
    return meets(value, Identified)


def _is_reachable(value: object) -> TypeGuard[ReachableStore]:
    return meets(value, ReachableStore)


def identity_of(store: object) -> str | None:
    """Returns what a store or row source says of its rows; None for one that says nothing, or cannot say it now.

    Raises StoreError for an identity that is no text.
    """
    if not _is_identified(store):
        return None
    try:
        found: object = store.identity()
    except Exception as error:  # a server that is away, say: rows that are not known cost time, and no wrong scores
        _LOG.warning("store: identity: expected a text or None, got %s: %s", type(error).__name__, error)
        return None
    if found is not None and not isinstance(found, str):
        raise StoreError(f"store: identity: expected a text or None, got {type(found).__name__}")
    return found


class WritableStore(Store, Protocol):
    """A store in which the newest version of a key wins: updates may come twice, split or in any order.

    A version of a key names one state of it, and only a newer one replaces it: an equal one is a replay. A deletion is
    remembered with its version, so that an update older than it does not bring the row back.
    """

    def put_many(
        self,
        keys: Keys,
        rows: Rows,
        versions: npt.NDArray[np.uint64],
        scores: npt.NDArray[np.float32] | None = None,
        expires: npt.NDArray[np.float64] | None = None,
    ) -> int:
        """Writes `rows` [N, dim] where versions [N] are newer than what is there. Returns how many were applied.

        Keys are taken in order, so that a later one of the batch sees an earlier one. Raises StoreError when rows or
        versions do not fit the keys, for a width other than the key's table has, and when the store cannot write.
        """

    def delete_many(self, keys: Keys, versions: npt.NDArray[np.uint64]) -> int:
        """Deletes what is older than versions [N], there or not. Returns how many were applied. Raises StoreError."""


class TableShape(NamedTuple):
    """What one table of a store is."""

    number: int  # in the top 16 bits of its keys; NO_TABLE for a table without rows whose number is not known
    dim: int
    rows: int


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
