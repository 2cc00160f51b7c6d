"""A writable store in this process's memory: the simplest there is, for tests, benchmarks and small models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import StoreError
from pepnet_infer.process import forks
from pepnet_infer.rows.protocols import Rows
from pepnet_infer.rows.stores.arena import GONE, NOTHING, ROW, RowArena
from pepnet_infer.rows.stores.record import REMEMBER, Remember
from pepnet_infer.rows.stores.write_batch import (
    check_deletion,
    check_keys,
    checked_batch,
    rounds,
)
from pepnet_infer.schema.ids import ID_BITS, Keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.validation import check_option


class MemoryStore:
    """A `WritableStore` of arrays. Any thread may call at any time; one lock is around all of it."""

    def __init__(self, *, remember: float = REMEMBER, clock: Callable[[], float] = time.time) -> None:
        """`remember`: seconds for which deletions and expired rows keep their version; `clock`: Unix seconds."""
        self._remember, self._clock = check_option("remember", remember, Remember), clock
        self._lock = threading.Lock()
        self._arena = RowArena()  # of a deletion `expires` is when it was made
        forks.register(forks.Stage.STORES, child=self._reset_after_fork)
        self._widths = np.zeros(1 << 16, np.int64)  # table number → dim; 0: no row of it was put yet

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("rows in this process's memory are not sent to others")

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns what is there of `keys` [N]; see `Store.get_many`."""
        check_keys(keys)
        with self._lock:
            records, now = self._arena.look(self._arena.find(keys)), self._clock()
            wrong = self._of_another_width(keys, dim)
            damaged = None if wrong is None else wrong & (records["kind"] != NOTHING)
            found = (records["kind"] == ROW) & (records["expires"] > now)
            got = self._arena.read(records, found if wrong is None else found & ~wrong, dim)
        gone = ~got.found
        if gone.any():
            forgotten = got.expires + self._remember <= now
            got.versions[gone & (forgotten if wrong is None else forgotten | wrong)] = 0
            got.scores[gone], got.expires[gone] = np.nan, np.inf
        return got if damaged is None else replace(got, damaged=damaged)

    def put_many(
        self,
        keys: Keys,
        rows: Rows,
        versions: npt.NDArray[np.uint64],
        scores: npt.NDArray[np.float32] | None = None,
        expires: npt.NDArray[np.float64] | None = None,
    ) -> int:
        """Writes rows [N, dim] that are newer; see `WritableStore.put_many`."""
        batch = checked_batch(keys, rows, versions, scores, expires)
        with self._lock:
            self._check_width(keys, rows.shape[1])
            self._widths[keys >> np.uint64(ID_BITS)] = rows.shape[1]
            now = self._clock()
            return sum(self._write(batch.take(at), now) for at in rounds(keys))

    def delete_many(self, keys: Keys, versions: npt.NDArray[np.uint64]) -> int:
        """Deletes what is older; see `WritableStore.delete_many`."""
        check_deletion(keys, versions)
        with self._lock:
            now = self._clock()
            nothing = RowBatch.nothing(keys.size, 0, keys=keys)
            gone = replace(nothing, versions=versions, expires=np.full(keys.size, now))
            return sum(self._write(gone.take(at), now) for at in rounds(keys))

    def __len__(self) -> int:
        """How many keys have a row that has not expired."""
        with self._lock:
            known = self._arena.known
            return int(((known["kind"] == ROW) & (known["expires"] > self._clock())).sum())

    def _reset_after_fork(self) -> None:
        self._lock = threading.Lock()

    def _write(self, batch: RowBatch, now: float) -> int:
        """Writes rows and deletions of distinct, ascending keys that are newer. Returns how many."""
        slots, had = self._arena.add(batch.keys)
        before = self._arena.look(slots)
        forgotten = before["expires"] + self._remember <= now
        newer = ~had | forgotten | (batch.versions > before["version"])
        at, some = slots[newer], batch.take(newer)
        self._arena.place(at[some.found], some.rows.shape[1])
        self._arena.write(at, some, np.where(some.found, ROW, GONE).astype(np.uint8))
        return int(at.size)

    def _of_another_width(self, keys: Keys, dim: int) -> npt.NDArray[np.bool_] | None:
        """Returns which keys are of tables whose rows are of another width than `dim`, None where none is."""
        tables = keys >> np.uint64(ID_BITS)
        if tables.size and (tables == tables[0]).all():
            tables = tables[:1]  # one table's, as almost always
        widths = self._widths[tables]
        wrong: npt.NDArray[np.bool_] = (widths != dim) & (widths != 0)
        return np.broadcast_to(wrong, keys.shape) if wrong.any() else None

    def _check_width(self, keys: Keys, dim: int) -> None:
        wrong = self._of_another_width(keys, dim)
        if wrong is not None:
            at = int(np.argmax(wrong))
            width = self._widths[keys[at] >> np.uint64(ID_BITS)]
            raise StoreError(f"key {keys[at]}: expected a row of width {width} as its table has, got {dim}")
