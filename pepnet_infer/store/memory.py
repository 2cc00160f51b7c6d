"""A writable store in this process's memory: the simplest there is, for tests, benchmarks and small models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import KeyIndex
from pepnet_infer.errors import StoreError
from pepnet_infer.ids import ID_BITS, Keys
from pepnet_infer.store import Fetched, Rows
from pepnet_infer.store.record import REMEMBER
from pepnet_infer.store.write_batch import Positions, WriteBatch, check_deletion, check_keys, checked_batch, rounds

_FEW = 1024  # keys that are merely kept sorted until the index is built anew
_Number = TypeVar("_Number", bound=np.generic)


class MemoryStore:
    """A `WritableStore` of arrays. Any thread may call at any time; one lock is around all of it."""

    def __init__(self, *, remember: float = REMEMBER, clock: Callable[[], float] = time.time) -> None:
        """`remember`: seconds for which deletions and expired rows keep their version; `clock`: Unix seconds."""
        self._remember, self._clock = remember, clock
        self._lock = threading.Lock()
        self._slots = _Slots()
        self._versions = np.empty(0, np.uint64)  # these by slot
        self._scores = np.empty(0, np.float32)
        self._expires = np.empty(0)  # of a deletion: when it was made
        self._live = np.empty(0, np.bool_)  # False: deleted
        self._row_at = np.empty(0, np.int64)  # in the rows of its width; -1: never had one
        self._rows: dict[int, Rows] = {}
        self._row_count: dict[int, int] = {}
        self._widths = np.zeros(1 << 16, np.int64)  # table number → dim; 0: no row of it was put yet

    def get_many(self, keys: Keys, dim: int) -> Fetched:
        """Returns what is there of `keys` [N]; see `Store.get_many`."""
        check_keys(keys)
        with self._lock:
            self._check_width(keys, dim)
            slots, now = self._slots.find(keys), self._clock()
            known = slots >= 0
            if not known.all() or keys.size == 0:
                got = Fetched.nothing(keys.size, dim)
                if known.any():
                    at = np.flatnonzero(known)
                    got.put(at, self._read(slots[at], dim, now))
                return got
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
            return int((self._live & (self._expires > self._clock())).sum())

    def _read(self, slots: Positions, dim: int, now: float) -> Fetched:
        expires, versions = self._expires[slots], self._versions[slots]
        found = self._live[slots] & (expires > now)
        if found.all():
            rows = self._rows[dim].take(self._row_at[slots], axis=0)
            return Fetched(rows, found, versions, self._scores[slots], expires)
        got = Fetched.nothing(slots.size, dim)
        at = slots[found]
        if at.size:
            got.rows[found] = self._rows[dim].take(self._row_at[at], axis=0)
        got.found[:], got.scores[found], got.expires[found] = found, self._scores[at], expires[found]
        got.versions[:] = np.where(expires + self._remember > now, versions, 0)
        return got

    def _put(self, batch: WriteBatch, now: float) -> int:
        return self._write(batch.keys, batch.versions, now, batch)

    def _write(self, keys: Keys, versions: npt.NDArray[np.uint64], now: float, batch: WriteBatch | None) -> int:
        """Writes states of distinct, ascending keys: rows, or without `batch` deletions."""
        slots, known = self._slots.add(keys)
        self._grow(len(self._slots))
        forgotten = self._expires[slots] + self._remember <= now
        newer = ~known | forgotten | (versions > self._versions[slots])
        at = slots[newer]
        self._versions[at] = versions[newer]
        self._live[at] = batch is not None
        if batch is None:
            self._scores[at], self._expires[at] = np.nan, now
        else:
            self._scores[at], self._expires[at] = batch.scores[newer], batch.expires[newer]
            self._write_rows(at, batch.rows[newer])
        return int(at.size)

    def _write_rows(self, slots: Positions, rows: Rows) -> None:
        dim = rows.shape[1]
        count, without = self._row_count.get(dim, 0), slots[self._row_at[slots] < 0]
        self._row_at[without] = np.arange(count, count + without.size)
        self._row_count[dim] = count + without.size
        held = self._rows.get(dim, np.empty((0, dim), np.float32))
        self._rows[dim] = _grown(held, count + without.size)
        self._rows[dim][self._row_at[slots]] = rows

    def _grow(self, count: int) -> None:
        before = self._versions.size
        if count <= before:
            return
        self._versions = _grown(self._versions, count)
        self._scores, self._expires = _grown(self._scores, count), _grown(self._expires, count)
        self._live, self._row_at = _grown(self._live, count), _grown(self._row_at, count)
        self._live[before:], self._expires[before:], self._row_at[before:] = False, 0, -1

    def _check_width(self, keys: Keys, dim: int) -> None:
        widths = self._widths[keys >> np.uint64(ID_BITS)]
        wrong = (widths != dim) & (widths != 0)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise StoreError(f"key {keys[at]}: expected a row of width {dim}, got one of width {widths[at]}")


class _Slots:
    """Numbers keys in the order they came: an index over most of them, a sorted array of those that came since."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)  # by slot; only `_count` are in use
        self._count = 0
        self._indexed = 0
        self._index = KeyIndex(self._keys)
        self._new_keys = np.empty(0, np.uint64)  # ascending
        self._new_slots = np.empty(0, np.int64)

    def __len__(self) -> int:
        return self._count

    def find(self, keys: Keys) -> Positions:
        """Returns the slot of each key, -1 where there is none."""
        slots = self._index.find(np.ascontiguousarray(keys))
        if self._new_keys.size:
            at = np.minimum(np.searchsorted(self._new_keys, keys), self._new_keys.size - 1)
            slots = np.where(self._new_keys[at] == keys, self._new_slots[at], slots)
        return slots

    def add(self, keys: Keys) -> tuple[Positions, npt.NDArray[np.bool_]]:
        """Returns (slots, whether the key had it before) of distinct, ascending keys."""
        slots = self.find(keys)
        known = slots >= 0
        new = keys[~known]
        if new.size == 0:
            return slots, known
        numbers = np.arange(self._count, self._count + new.size)
        slots[~known] = numbers
        self._keys = _grown(self._keys, self._count + new.size)
        self._keys[numbers] = new
        self._count += new.size
        if self._count - self._indexed <= max(_FEW, self._indexed // 8):
            at = np.searchsorted(self._new_keys, new)
            self._new_keys = np.insert(self._new_keys, at, new)
            self._new_slots = np.insert(self._new_slots, at, numbers)
        else:
            self._index, self._indexed = KeyIndex(self._keys[: self._count]), self._count
            self._new_keys, self._new_slots = self._new_keys[:0], self._new_slots[:0]
        return slots, known


def _grown(array: npt.NDArray[_Number], count: int) -> npt.NDArray[_Number]:
    """Returns an array with room for `count`, and the old content in front. Doubles, so that growth costs little."""
    if count <= len(array):
        return array
    grown = np.empty((max(count, 2 * len(array), 64), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
