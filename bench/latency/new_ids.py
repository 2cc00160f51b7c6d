"""Requests of which a given share of the ids is in no cache, however often they are measured, and a store that has
those ids all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.ids import ID_BITS, MAX_ID, Keys, split_keys
from pepnet_infer.schema.row_batch import RowBatch

if TYPE_CHECKING:
    from pepnet_infer.bench.harness.workloads import Column
    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.encode.features import Features
    from pepnet_infer.schema.feature_schema import FeatureSchema

_SERIAL_BITS = 31
_TABLES = 1 << 16

Ids = npt.NDArray[np.int64]


class NewIds:
    """Hands out ids that no table of a bundle has, each one once in 2^31, and says whose row each of them has.

    They are one block of 2^31 consecutive ids that is free in every table. The n-th one stands, in any table, for the
    row at n modulo the table's length.
    """

    def __init__(self, store: MmapStore) -> None:
        """Finds a free block. Raises ValueError when the tables of `store` have ids in all of them."""
        self._start = np.zeros(_TABLES, np.int64)  # by table number, in `_keys`
        self._count = np.ones(_TABLES, np.int64)
        parts: list[Keys] = [np.empty(0, np.uint64)]
        begin = 0
        for name, shape in store.tables.items():
            keys = np.array(store.scored_keys(name)[0])
            if keys.size:
                self._start[shape.number], self._count[shape.number] = begin, keys.size
                parts.append(keys)
                begin += keys.size
        self._keys = np.concatenate(parts)
        taken = np.unique(split_keys(self._keys)[1] >> np.uint64(_SERIAL_BITS))
        free = np.setdiff1d(np.arange(MAX_ID >> _SERIAL_BITS, dtype=np.uint64), taken)
        if not free.size:
            raise ValueError(f"tables: expected 2^{_SERIAL_BITS} consecutive ids that none has, got none")
        self._block = int(free[-1])
        self._next = 0

    def take(self, count: int) -> Ids:
        """Returns the next `count` ids."""
        serials = np.arange(self._next, self._next + count) & ((1 << _SERIAL_BITS) - 1)
        self._next += count
        return serials | (self._block << _SERIAL_BITS)

    def which(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Returns which of `keys` [N], of any tables, are new."""
        blocks: Keys = split_keys(keys)[1] >> np.uint64(_SERIAL_BITS)
        new: npt.NDArray[np.bool_] = blocks == np.uint64(self._block)
        return new

    def stand_ins(self, keys: Keys) -> Keys:
        """Returns `keys` [N], of tables that are not empty, with the new ones replaced by those whose row they have."""
        tables = (keys >> np.uint64(ID_BITS)).astype(np.int64)
        serials = (keys & np.uint64((1 << _SERIAL_BITS) - 1)).astype(np.int64)
        return np.where(self.which(keys), self._keys[self._start[tables] + serials % self._count[tables]], keys)


class NewIdStore:
    """The bundle's mapped tables as a `Store` that has all new ids too.

    Each costs what any row of the tables costs. Their score is 0, so that a cache with policy gset evicts other new ids
    for them and keeps the rows that are to be hits.
    """

    def __init__(self, behind: MmapStore, new: NewIds) -> None:
        self._behind, self._new = behind, new

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns what is there of `keys` [N]; see `Store.get_many`."""
        fetched = self._behind.get_many(self._new.stand_ins(keys), dim)
        fetched.scores[self._new.which(keys)] = 0
        return fetched


def open_columns(schema: FeatureSchema, rows: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the columns in which any integer may stand for an id: no side table, transform or list is behind them.

    rows: table → its number of rows. A column is left out if a table without rows belongs to it.
    """
    fields: dict[str, list[bool]] = {}
    for spec in schema.fields:
        fit = spec.table is not None and spec.transform.op == "none" and spec.separator is None
        fields.setdefault(spec.column, []).append(fit and spec.join is None and rows[spec.table or ""] > 0)
    closed = {schema.domain_column, *(join.column for join in schema.joins)}
    return tuple(name for name, fit in fields.items() if all(fit) and name not in closed)


@dataclass(frozen=True)
class Mixer:
    """Puts new ids into batches of columns of which the cache has all ids."""

    columns: tuple[str, ...]
    new: NewIds
    rng: np.random.Generator

    @classmethod
    def of(cls, bundle: Bundle, store: MmapStore, new: NewIds, seed: int) -> Mixer:
        """Makes one for the columns of `bundle`."""
        rows = {name: shape.rows for name, shape in store.tables.items()}
        return cls(open_columns(bundle.schema, rows), new, np.random.default_rng(seed))

    def share(self, schema: FeatureSchema, columns: Mapping[str, Column], features: Features, misses: float) -> float:
        """Returns which share of the ids in the open columns must be new for a share of `misses` among all ids.

        features: the batch encoded. 1 where the open columns have too few ids for that.
        """
        ids = sum(map(len, features.ids.values())) + sum(len(bag.keys) for bag in features.bags.values())
        uses = {name: sum(f.column == name and f.join is None for f in schema.fields) for name in self.columns}
        open_ids = sum(len(_values(columns[name])) * uses[name] for name in self.columns)
        return min(1.0, misses * ids / open_ids) if open_ids else 0.0

    def mixed(self, columns: Mapping[str, Column], share: float) -> dict[str, Column]:
        """Returns a copy of the open columns, each id with probability `share` a new one, and the others as they are.

        The copy is made without misses too: what a request holds was written just before it is scored.
        """
        mixed = dict(columns)
        for name in self.columns:
            column = columns[name]
            values = _values(column).astype(np.int64)
            if share > 0:
                at = np.flatnonzero(self.rng.random(len(values)) < share)
                values[at] = self.new.take(len(at))
            mixed[name] = (values, column[1]) if isinstance(column, tuple) else values
        return mixed


def _values(column: Column) -> npt.NDArray[np.int64]:
    values = column[0] if isinstance(column, tuple) else column
    return np.asarray(values)
