"""A writable store in this process's memory: the simplest there is, for tests, benchmarks and small models."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import StoreError
from pepnet_infer.process import forks
from pepnet_infer.rows.stores.arena import GONE, NOTHING, ROW, RowArena
from pepnet_infer.rows.stores.record import REMEMBER
from pepnet_infer.rows.stores.writable import Writable, check_keys, rounds
from pepnet_infer.schema.ids import ID_BITS, Keys
from pepnet_infer.schema.row_batch import RowBatch


class MemoryStore(Writable, forks.OwnLock):
    """A `WritableStore` of arrays. Any thread may call at any time; one lock is around all of it."""

    def __init__(self, *, remember: float = REMEMBER, clock: Callable[[], float] = time.time) -> None:
        """`remember`: seconds for which deletions and expired rows keep their version; `clock`: Unix seconds."""
        super().__init__(remember, clock)
        forks.OwnLock.__init__(self)
        self._arena = RowArena()  # of a deletion `expires` is when it was made
        self._widths = np.zeros(1 << 16, np.int64)  # table number → dim; 0: no row of it was put yet

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("rows in this process's memory are not sent to others")

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns what is there of `keys` [N]; see `Store.get_many`."""
        check_keys(keys)
        with self.lock:
            records, now = self._arena.look(self._arena.find(keys)), self._clock()
            wrong = self._of_another_width(keys, dim)
            damaged = wrong & (records["kind"] != NOTHING)
            found = (records["kind"] == ROW) & (records["expires"] > now) & ~wrong
            got = self._arena.read(records, found, dim)
        gone = ~got.found
        if gone.any():
            got.versions[gone & ((got.expires + self._remember <= now) | wrong)] = 0
            got.scores[gone], got.expires[gone] = np.nan, np.inf
        return replace(got, damaged=damaged) if wrong.any() else got

    def __len__(self) -> int:
        """How many keys have a row that has not expired."""
        with self.lock:
            known = self._arena.known
            return int(((known["kind"] == ROW) & (known["expires"] > self._clock())).sum())

    def _write(self, batch: RowBatch) -> int:
        keys, dim = batch.keys, batch.rows.shape[1]
        with self.lock:
            if dim and (wrong := self._of_another_width(keys, dim)).any():
                at = int(np.argmax(wrong))
                width = self._widths[keys[at] >> np.uint64(ID_BITS)]
                raise StoreError(f"key {keys[at]}: expected a row of width {width} as its table has, got {dim}")
            if dim:
                self._widths[keys >> np.uint64(ID_BITS)] = dim
            now = self._clock()
            return sum(self._write_round(batch.take(at), now) for at in rounds(keys))

    def _write_round(self, batch: RowBatch, now: float) -> int:
        slots, had = self._arena.add(batch.keys)
        before = self._arena.look(slots)
        forgotten = before["expires"] + self._remember <= now
        newer = ~had | forgotten | (batch.versions > before["version"])
        at, some = slots[newer], batch.take(newer)
        self._arena.place(at[some.found], some.rows.shape[1])
        self._arena.write(at, some, np.where(some.found, ROW, GONE).astype(np.uint8))
        return int(at.size)

    def _of_another_width(self, keys: Keys, dim: int) -> npt.NDArray[np.bool_]:
        """Returns which keys are of tables whose rows are of another width than `dim`."""
        tables = keys >> np.uint64(ID_BITS)
        if tables.size and (tables == tables[0]).all():
            tables = tables[:1]  # one table's, as almost always
        widths = self._widths[tables]
        return np.broadcast_to((widths != dim) & (widths != 0), keys.shape)
