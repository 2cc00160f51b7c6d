"""A writable store in this process's memory: the simplest there is, for tests, benchmarks and small models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import gather
from pepnet_infer.checked import check_option
from pepnet_infer.errors import StoreError
from pepnet_infer.process import forks
from pepnet_infer.rows.protocols import Fetched, Rows
from pepnet_infer.rows.stores.key_slots import KeySlots, grown
from pepnet_infer.rows.stores.record import REMEMBER, Remember
from pepnet_infer.rows.stores.write_batch import (
    Positions,
    WriteBatch,
    check_deletion,
    check_keys,
    checked_batch,
    rounds,
)
from pepnet_infer.schema.ids import ID_BITS, Keys

# What is known of a key, by slot: on one line, for it is read at random.
_KNOWN = np.dtype(
    [
        ("version", np.uint64),
        ("expires", np.float64),  # of a deletion: when it was made
        ("row", np.int64),  # in the rows of its width; -1: never had one
        ("score", np.float32),
        ("live", np.bool_),  # False: deleted
        ("unused", "V3"),
    ]
)


class MemoryStore:
    """A `WritableStore` of arrays. Any thread may call at any time; one lock is around all of it."""

    def __init__(self, *, remember: float = REMEMBER, clock: Callable[[], float] = time.time) -> None:
        """`remember`: seconds for which deletions and expired rows keep their version; `clock`: Unix seconds."""
        self._remember, self._clock = check_option("remember", remember, Remember), clock
        self._lock = threading.Lock()
        self._slots = KeySlots()
        self._known = np.empty(0, _KNOWN)  # by slot
        self._rows: dict[int, Rows] = {}
        self._row_count: dict[int, int] = {}
        forks.register(forks.Stage.STORES, child=self._reset_after_fork)
        self._widths = np.zeros(1 << 16, np.int64)  # table number → dim; 0: no row of it was put yet

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("rows in this process's memory are not sent to others")

    def get_many(self, keys: Keys, dim: int) -> Fetched:
        """Returns what is there of `keys` [N]; see `Store.get_many`."""
        check_keys(keys)
        with self._lock:
            slots, now = self._slots.find(keys), self._clock()
            known, wrong = slots >= 0, self._of_another_width(keys, dim)
            damaged = None
            if wrong is not None:
                damaged, known = known & wrong, known & ~wrong
            if not known.all() or keys.size == 0:
                got = Fetched.nothing(keys.size, dim)
                if known.any():
                    at = np.flatnonzero(known)
                    got.put(at, self._read(slots[at], dim, now))
                return got if damaged is None else got._replace(damaged=damaged)
            return self._read(slots, dim, now)

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
            return sum(self._put(batch.take(at), now) for at in rounds(keys))

    def delete_many(self, keys: Keys, versions: npt.NDArray[np.uint64]) -> int:
        """Deletes what is older; see `WritableStore.delete_many`."""
        check_deletion(keys, versions)
        with self._lock:
            now = self._clock()
            return sum(self._write(keys[at], versions[at], now, None) for at in rounds(keys))

    def __len__(self) -> int:
        """How many keys have a row that has not expired."""
        with self._lock:
            return int((self._known["live"] & (self._known["expires"] > self._clock())).sum())

    def _reset_after_fork(self) -> None:
        self._lock = threading.Lock()

    def _read(self, slots: Positions, dim: int, now: float) -> Fetched:
        known = self._known.take(slots)
        # The fields one by one from a copy that is in the processor's cache, each without gaps.
        versions, expires, scores = known["version"].copy(), known["expires"].copy(), known["score"].copy()
        found = known["live"] & (expires > now)
        at = known["row"] if found.all() else np.where(found, known["row"], -1)
        dim_rows = self._rows.get(dim, np.empty((0, dim), np.float32))
        rows = np.empty((slots.size, dim), np.float32)
        if gather(dim_rows, np.ascontiguousarray(at), np.zeros(dim, np.float32), rows):
            gone = ~found
            scores[gone] = np.nan
            versions[gone & (expires + self._remember <= now)] = 0
            expires[gone] = np.inf
        return Fetched(rows, found, versions, scores, expires)

    def _put(self, batch: WriteBatch, now: float) -> int:
        return self._write(batch.keys, batch.versions, now, batch)

    def _write(self, keys: Keys, versions: npt.NDArray[np.uint64], now: float, batch: WriteBatch | None) -> int:
        """Writes states of distinct, ascending keys: rows, or without `batch` deletions."""
        slots, known = self._slots.add(keys)
        self._grow(len(self._slots))
        before = self._known.take(slots)
        forgotten = before["expires"] + self._remember <= now
        newer = ~known | forgotten | (versions > before["version"])
        at = slots[newer]
        self._known["version"][at] = versions[newer]
        self._known["live"][at] = batch is not None
        if batch is None:
            self._known["score"][at], self._known["expires"][at] = np.nan, now
        else:
            self._known["score"][at], self._known["expires"][at] = batch.scores[newer], batch.expires[newer]
            self._write_rows(at, batch.rows[newer])
        return int(at.size)

    def _write_rows(self, slots: Positions, rows: Rows) -> None:
        dim = rows.shape[1]
        place = self._known["row"]
        count, without = self._row_count.get(dim, 0), slots[place[slots] < 0]
        place[without] = np.arange(count, count + without.size)
        self._row_count[dim] = count + without.size
        held = self._rows.get(dim, np.empty((0, dim), np.float32))
        self._rows[dim] = grown(held, count + without.size)
        self._rows[dim][place[slots]] = rows

    def _grow(self, count: int) -> None:
        before = self._known.size
        if count <= before:
            return
        self._known = grown(self._known, count)
        new = self._known[before:]
        new["live"], new["expires"], new["row"] = False, 0, -1

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
