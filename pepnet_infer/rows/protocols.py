"""Where embedding rows come from, and what one batch asks of it.

`RowSource` is what the assembler asks, with all fields of a batch at once; `Store` is what holds all rows, and what a
cache asks about its misses; `WritableStore` takes updates too. `MmapStore` is both of the first: it serves a bundle's
own tables.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import StoreError
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.schema.row_batch import Rows as Rows

_LOG = logging.getLogger("pepnet_infer.stores")
_Protocol = TypeVar("_Protocol")

Pooling = Literal["mean", "sum"]


class RowRequest(NamedTuple):
    """One field of a batch. Without `offsets` a row for each key, with them one for each bag."""

    field: str  #: its name, for statistics; "" for none
    table: str  #: the name of the table that has the rows
    keys: Keys  #: uint64 [N]
    out: Rows  #: float32 [N or B, dim], to be written; rows any distance apart, and not zeros before
    offsets: npt.NDArray[np.int64] | None = None  #: [B+1] of bags, see `RowSource.answer`
    pooling: Pooling = "sum"  #: what becomes of the rows of a bag


class DefaultCounts(NamedTuple):
    """How many keys of one request got the default row, every repeat counted, and why."""

    unknown: int  #: the store has no such id
    #: the store was not asked or gave no answer in time: it failed, was late, or the fetch was deferred or dropped
    unavailable: int


#: What almost every request of a warm cache is answered with.
NO_DEFAULTS = DefaultCounts(0, 0)


@runtime_checkable
class RowSource(Protocol):
    """Answers by table, with all fields of a batch at once. Safe from any thread."""

    @abstractmethod
    def answer(self, requests: Sequence[RowRequest]) -> list[DefaultCounts]:
        """Writes the rows of each request to its `out`. Returns how many keys of each got the default row, and why.

        Bag b of a request is keys[offsets[b]:offsets[b + 1]]; an empty one is zeros. A key without a row gets the
        table's default row, or takes part in its bag with that. Raises StoreError when there is no such table, and when
        rows cannot be read.
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


@dataclass(frozen=True)
class CachedTable:
    """A table of the bundle as a cache sees it: what its keys, its rows and its default row are."""

    name: str
    number: int
    dim: int
    rows: int
    default_row: npt.NDArray[np.float32]  #: [dim]


def meets(value: object, protocol: Callable[..., _Protocol]) -> TypeGuard[_Protocol]:
    """Returns whether `value` has all methods of a runtime protocol, also a proxy's, which its `__getattr__` finds.

    From Python 3.12 on isinstance does not ask `__getattr__`. (mypy takes no class with abstract methods as a `type`.)
    """
    kind: Any = protocol
    names = getattr(kind, "__protocol_attrs__", ())
    return isinstance(value, kind) or (bool(names) and all(callable(getattr(value, name, None)) for name in names))


def check_reachable(store: Store) -> None:
    """Asks a store that can say so whether it can be read. Raises StoreError, with the cause where it is another."""
    if not meets(store, ReachableStore):
        return
    try:
        store.check_reachable()
    except StoreError:
        raise
    except Exception as error:  # the boundary: a user's store may raise anything
        name, got = type(store).__name__, f"{type(error).__name__}: {error}"
        raise StoreError(f"{name}: check_reachable: expected nothing or a StoreError, got {got}") from error


def identity_of(store: object) -> str | None:
    """Returns what a store or row source says of its rows; None for one that says nothing, or cannot say it now.

    Raises StoreError for an identity that is no text.
    """
    if not meets(store, Identified):
        return None
    try:
        found: object = store.identity()
    except Exception as error:  # a server that is away, say: rows that are not known cost time, and no wrong scores
        _LOG.warning("store: identity: expected a text or None, got %s: %s", type(error).__name__, error)
        return None
    if found is not None and not isinstance(found, str):
        raise StoreError(f"store: identity: expected a text or None, got {type(found).__name__}")
    return found
