"""Slots by key, and arrays by slot that grow: how stores in memory keep what they know of a key."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import KeyIndex, serve
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import Mask, Positions, RowBatch, Rows

_Number = TypeVar("_Number", bound=np.generic)
Records = npt.NDArray[np.void]

_FEW = 1024  # keys of the last run that are indexed anew in any case
_RATIO = 8  # how much larger than the next a run of keys is, at least

NOTHING, ROW, GONE = 0, 1, 2  # what a `RowArena` knows of a key: nothing, a row, that there is none
_KNOWN = np.dtype(
    [
        ("version", np.uint64),
        ("expires", np.float64),
        ("row", np.int64),  # its place among the rows of its width; -1: it never had one
        ("score", np.float32),
        ("kind", np.uint8),
        ("unused", "V3"),
    ]
)


class Arena:
    """Keys numbered in the order they came, and a record by slot. A slot is never given twice.

    Keys are in indices over runs, each much larger than the next. One thread at a time may add and write. Any thread
    may find meanwhile: it sees all keys of an `add`, or none, and has a record for each slot that it finds, for growth
    leaves the arrays that are there as they are.
    """

    def __init__(self, known: np.dtype[Any], **blank: float) -> None:
        """`known`: of a record; `blank`: fields that are not 0 of a key of which nothing is known yet."""
        self._blank = np.zeros(1, known)
        for name, value in blank.items():
            self._blank[name] = value
        self._keys = np.empty(0, np.uint64)  # by slot; only `_count` are in use
        self._count = 0
        self._runs: tuple[tuple[int, KeyIndex], ...] = ()  # (first slot, index of its keys); replaced, never changed
        #: by slot; beyond those in use it is blank
        self.known: Records = np.empty(0, known)

    def __len__(self) -> int:
        return self._count

    @property
    def keys(self) -> Keys:
        """The key of each slot."""
        return self._keys[: self._count]

    def find(self, keys: Keys) -> Positions:
        """Returns the slot of each key, -1 where there is none."""
        keys, runs = np.ascontiguousarray(keys), self._runs
        slots: Positions = runs[0][1].find(keys) if runs else np.full(keys.size, -1)
        for first, index in runs[1:]:
            lacking = np.flatnonzero(slots < 0)
            if lacking.size == 0:
                break
            at = index.find(keys[lacking])
            slots[lacking] = np.where(at < 0, -1, at + first)
        return slots

    def add(self, keys: Keys) -> tuple[Positions, Mask]:
        """Returns (slots, whether the key had it before) of distinct, ascending keys."""
        slots = self.find(keys)
        had = slots >= 0
        new = keys[~had]
        if new.size == 0:
            return slots, had
        first, count = self._count, self._count + new.size
        numbers = np.arange(first, count)
        slots[~had] = numbers
        self._keys = _grown(self._keys, count)
        self._keys[numbers] = new
        known = _grown(self.known, count)
        known[self.known.size :] = self._blank
        self.known = known
        runs = list(self._runs)
        while runs and first - runs[-1][0] < max(_FEW, _RATIO * (count - first)):  # not much larger: indexed anew
            first = runs.pop()[0]
        runs.append((first, KeyIndex(self._keys[first:count])))
        self._runs, self._count = tuple(runs), count  # both or, when there is no memory for an index, none
        return slots, had


class RowArena(Arena):
    """Rows of any widths in memory, by key: 32 bytes and a row for each key that was ever written, and the index."""

    def __init__(self) -> None:
        super().__init__(_KNOWN, row=-1, score=np.nan)
        self._rows: dict[int, Rows] = {}
        self._row_count: dict[int, int] = {}

    def look(self, slots: Positions) -> Records:
        """Returns a copy of what is known at each slot; of slot -1 that it is nothing."""
        there = slots >= 0
        if there.all():
            return self.known.take(slots)
        records = self._blank.repeat(slots.size)
        records[there] = self.known.take(slots[there])
        return records

    def read(self, records: Records, found: Mask, dim: int) -> RowBatch:
        """Returns the rows of `records`, whose width is `dim`, where they are `found`, and what else they say."""
        count, there = len(records), np.count_nonzero(found)
        rows = np.empty((count, dim), np.float32)
        at = np.where(found, records["row"], -1)
        got = count - serve(self._of_width(dim), at, np.arange(count), np.zeros(dim, np.float32), rows)
        if got != there:
            raise ValueError(f"rows: expected {there} of width {dim}, got {got}")
        # The fields one by one from a copy that is in the processor's cache, each without gaps.
        return RowBatch(rows, found, records["version"].copy(), records["score"].copy(), records["expires"].copy())

    def place(self, slots: Positions, dim: int) -> None:
        """Makes room for the rows of width `dim` at some slots, before they are written."""
        place, count = self.known["row"], self._row_count.get(dim, 0)
        without = slots[place[slots] < 0]
        end = count + without.size
        self._rows[dim] = _grown(self._of_width(dim), end)
        # The count first: an interrupt or a fork in between wastes rows; with the places first, the next keys that need
        # a row would get the same ones.
        self._row_count[dim] = end
        place[without] = np.arange(count, end)

    def write(self, slots: Positions, batch: RowBatch, kinds: npt.NDArray[np.uint8]) -> None:
        """Puts what a batch says, and its rows, where they are found, in their places."""
        known = self.known
        known["version"][slots], known["expires"][slots] = batch.versions, batch.expires
        known["score"][slots], known["kind"][slots] = batch.scores, kinds
        if batch.found.any():
            dim, at = batch.rows.shape[1], np.flatnonzero(batch.found)
            serve(batch.rows, at, known["row"][slots[at]], np.zeros(dim, np.float32), self._rows[dim])

    def _of_width(self, dim: int) -> Rows:
        return self._rows.get(dim, np.empty((0, dim), np.float32))


def _grown(array: npt.NDArray[_Number], count: int) -> npt.NDArray[_Number]:
    """Returns an array with room for `count`, and the old content in front. Doubles, so that growth costs little."""
    if count <= len(array):
        return array
    grown = np.empty((max(count, 2 * len(array), 64), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
