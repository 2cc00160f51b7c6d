"""Keys numbered in the order they came, for stores that keep what they know of a key in arrays."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import KeyIndex
from pepnet_infer.schema.ids import Keys

Positions = npt.NDArray[np.int64]
_Number = TypeVar("_Number", bound=np.generic)

_FEW = 1024  # keys that are merely kept sorted until they are indexed
_RATIO = 8  # how much larger than the next a run of indexed keys is, at least


class _Found(NamedTuple):
    """What there is to look in. Never changed: what comes after it is another one."""

    runs: tuple[tuple[int, KeyIndex], ...]  # (first slot, index of its keys)
    keys: Keys  # the last few, ascending
    slots: Positions  # theirs


class KeySlots:
    """Indices over runs of keys, each much larger than the next, and a sorted array of the last few.

    One thread at a time may add. Any thread may find meanwhile: it sees all keys of an `add`, or none.
    """

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)  # by slot; only `_count` are in use
        self._count = 0
        self._found = _Found((), np.empty(0, np.uint64), np.empty(0, np.int64))

    def __len__(self) -> int:
        return self._count

    def find(self, keys: Keys) -> Positions:
        """Returns the slot of each key, -1 where there is none."""
        keys, found = np.ascontiguousarray(keys), self._found
        if not found.runs:
            return _find_new(found, keys)
        slots: Positions = found.runs[0][1].find(keys)
        for first, index in found.runs[1:]:
            lacking = np.flatnonzero(slots < 0)
            if lacking.size == 0:
                return slots
            at = index.find(keys[lacking])
            slots[lacking] = np.where(at < 0, -1, at + first)
        if found.keys.size:
            lacking = np.flatnonzero(slots < 0)
            slots[lacking] = _find_new(found, keys[lacking])
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
        self._keys = grown(self._keys, self._count + new.size)
        self._keys[numbers] = new
        count, found = self._count + new.size, self._found
        if found.keys.size + new.size <= _FEW:
            at = np.searchsorted(found.keys, new)
            merged = np.insert(found.keys, at, new), np.insert(found.slots, at, numbers)
            found = _Found(found.runs, *merged)
        else:
            found = self._indexed(self._count - found.keys.size, count)
        self._found, self._count = found, count  # both or, when there is no memory for an index, none
        return slots, known

    def _indexed(self, first: int, count: int) -> _Found:
        """Indexes the keys from slot `first` to `count`, and with them the runs before that are not much larger."""
        runs = list(self._found.runs)
        while runs and first - runs[-1][0] < _RATIO * (count - first):
            first = runs.pop()[0]
        runs.append((first, KeyIndex(self._keys[first:count])))
        return _Found(tuple(runs), np.empty(0, np.uint64), np.empty(0, np.int64))


def _find_new(found: _Found, keys: Keys) -> Positions:
    if found.keys.size == 0:
        return np.full(keys.size, -1)
    at = np.minimum(np.searchsorted(found.keys, keys), found.keys.size - 1)
    return np.where(found.keys[at] == keys, found.slots[at], -1)


def grown(array: npt.NDArray[_Number], count: int) -> npt.NDArray[_Number]:
    """Returns an array with room for `count`, and the old content in front. Doubles, so that growth costs little."""
    if count <= len(array):
        return array
    grown = np.empty((max(count, 2 * len(array), 64), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
