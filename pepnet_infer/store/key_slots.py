"""Keys numbered in the order they came, for stores that keep what they know of a key in arrays."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import KeyIndex
from pepnet_infer.ids import Keys

Positions = npt.NDArray[np.int64]
_Number = TypeVar("_Number", bound=np.generic)

_FEW = 1024  # keys that are merely kept sorted until they are indexed
_RATIO = 8  # how much larger than the next a run of indexed keys is, at least


class KeySlots:
    """Indices over runs of keys, each much larger than the next, and a sorted array of the last few.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)  # by slot; only `_count` are in use
        self._count = 0
        self._runs: list[tuple[int, KeyIndex]] = []  # (first slot, index of its keys)
        self._new_keys = np.empty(0, np.uint64)  # ascending
        self._new_slots = np.empty(0, np.int64)

    def __len__(self) -> int:
        return self._count

    def find(self, keys: Keys) -> Positions:
        """Returns the slot of each key, -1 where there is none."""
        keys = np.ascontiguousarray(keys)
        if not self._runs:
            return self._find_new(keys)
        slots: Positions = self._runs[0][1].find(keys)
        for first, index in self._runs[1:]:
            lacking = np.flatnonzero(slots < 0)
            if lacking.size == 0:
                return slots
            found = index.find(keys[lacking])
            slots[lacking] = np.where(found < 0, -1, found + first)
        if self._new_keys.size:
            lacking = np.flatnonzero(slots < 0)
            slots[lacking] = self._find_new(keys[lacking])
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
        self._count += new.size
        if self._new_keys.size + new.size <= _FEW:
            at = np.searchsorted(self._new_keys, new)
            self._new_keys = np.insert(self._new_keys, at, new)
            self._new_slots = np.insert(self._new_slots, at, numbers)
        else:
            self._index(self._count - self._new_keys.size - new.size)
        return slots, known

    def _find_new(self, keys: Keys) -> Positions:
        if self._new_keys.size == 0:
            return np.full(keys.size, -1)
        at = np.minimum(np.searchsorted(self._new_keys, keys), self._new_keys.size - 1)
        return np.where(self._new_keys[at] == keys, self._new_slots[at], -1)

    def _index(self, first: int) -> None:
        """Indexes the keys from slot `first` on, and with them the runs before that are not much larger."""
        while self._runs and first - self._runs[-1][0] < _RATIO * (self._count - first):
            first = self._runs.pop()[0]
        self._runs.append((first, KeyIndex(self._keys[first : self._count])))
        self._new_keys, self._new_slots = self._new_keys[:0], self._new_slots[:0]


def grown(array: npt.NDArray[_Number], count: int) -> npt.NDArray[_Number]:
    """Returns an array with room for `count`, and the old content in front. Doubles, so that growth costs little."""
    if count <= len(array):
        return array
    grown = np.empty((max(count, 2 * len(array), 64), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
