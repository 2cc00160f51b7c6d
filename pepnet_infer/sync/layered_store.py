"""The rows that came after a bundle, in front of the store that has the bundle's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import gather, serve
from pepnet_infer.process import forks
from pepnet_infer.rows.delta_rows import DeltaRows
from pepnet_infer.rows.protocols import Fetched, Rows, Store, identity_of
from pepnet_infer.rows.stores.key_slots import KeySlots, Positions, grown
from pepnet_infer.schema.ids import Keys

_BELOW, _ROW, _GONE = 0, 1, 2  # what is known of a key: nothing here, a row, that there is none

_CHUNK = 1 << 12  # keys that are written while readers wait
_KNOWN = np.dtype(
    [
        ("version", np.uint64),
        ("expires", np.float64),
        ("row", np.int64),  # its place among the rows of its width
        ("score", np.float32),
        ("kind", np.uint8),
        ("unused", "V3"),
    ]
)


class LayeredStore:
    """A `Store`: what was put here, else what the store below has. Any thread may ask at any time.

    Memory grows with the distinct ids that were ever put: 32 bytes and a row each, and the index.
    """

    def __init__(self, below: Store, clock: Callable[[], float] = time.time) -> None:
        self.below = below
        self._clock = clock
        self._writing = threading.Lock()  # held by the one who writes, for as long as it takes
        self._lock = threading.Lock()  # held for looks and for a chunk of what is written: never for long
        self._slots = KeySlots()
        self._known = np.empty(0, _KNOWN)  # by slot
        self._rows: dict[int, Rows] = {}
        self._row_count: dict[int, int] = {}
        forks.register(forks.Stage.STORES, child=self.reset_after_fork)

    def __len__(self) -> int:
        """How many keys were ever put."""
        return len(self._slots)

    @property
    def memory_bytes(self) -> int:
        """Of rows and of what is known of them."""
        return self._known.nbytes + sum(rows.nbytes for rows in self._rows.values())

    def identity(self) -> str | None:
        """Returns the identity of the store below; what was put here, `Served.applied` says."""
        return identity_of(self.below)

    def get_many(self, keys: Keys, dim: int) -> Fetched:
        """Returns what is there of `keys` [N]; see `Store.get_many`."""
        here = self._read(keys, dim)
        if here is None:
            return self.below.get_many(keys, dim)
        fetched, kind = here
        lacking = np.flatnonzero(kind == _BELOW)
        if lacking.size:
            fetched = fetched.put(lacking, self.below.get_many(keys[lacking], dim))
        late = (kind == _ROW) & (fetched.expires <= self._clock())
        if late.any():
            fetched.rows[late], fetched.found[late] = 0, False
            fetched.scores[late], fetched.expires[late] = np.nan, np.inf
        return fetched

    def state(self, keys: Keys, dim: int) -> tuple[Fetched, npt.NDArray[np.uint8]]:
        """Returns what was put here of `keys` [N], expired or not, and what `restore` needs to bring that back."""
        here = self._read(keys, dim)
        return here or (Fetched.nothing(len(keys), dim), np.zeros(len(keys), np.uint8))

    def put(self, changed: DeltaRows) -> None:
        """Puts rows and deletions, whatever their versions: who calls knows their order."""
        kind = np.where(changed.tombstones != 0, _GONE, _ROW).astype(np.uint8)
        self.restore(changed.keys, Fetched(changed.rows, kind == _ROW, *changed[2:5]), kind)

    def restore(self, keys: Keys, fetched: Fetched, kind: npt.NDArray[np.uint8]) -> None:
        """Brings back what `state` returned. Keys are ascending, each once.

        Readers meanwhile find some keys as they were before and others as they are after it.
        """
        with self._writing:
            self._make_room(len(self._slots) + len(keys))
            slots, _ = self._slots.add(keys)
            rows, dim = kind == _ROW, fetched.rows.shape[1]
            nothing = np.zeros(dim, np.float32)
            if rows.any():
                self._place(slots[rows], dim)
            for begin in range(0, len(keys), _CHUNK):
                some = slice(begin, begin + _CHUNK)
                at, here = slots[some], rows[some]
                with self._lock:
                    known = self._known
                    known["version"][at] = fetched.versions[some]
                    known["expires"][at] = fetched.expires[some]
                    known["score"][at] = fetched.scores[some]
                    known["kind"][at] = kind[some]
                    if here.any():
                        held = self._rows[dim]
                        serve(fetched.rows[some], np.flatnonzero(here), known["row"][at[here]], nothing, held)

    def reset_after_fork(self) -> None:
        """In a child process: who held the locks is not here. What it was writing is seen through an overlay."""
        self._writing, self._lock = threading.Lock(), threading.Lock()

    def _read(self, keys: Keys, dim: int) -> tuple[Fetched, npt.NDArray[np.uint8]] | None:
        """Returns what is here; None where nothing is."""
        if len(self._slots) == 0:
            return None
        slots = self._slots.find(keys)
        there = np.flatnonzero(slots >= 0)
        if there.size == 0:
            return None
        fetched = Fetched.nothing(len(keys), dim)
        with self._lock:
            known = self._known.take(slots[there])
            at = np.full(len(keys), -1)
            at[there] = np.where(known["kind"] == _ROW, known["row"], -1)
            gather(self._rows.get(dim, np.empty((0, dim), np.float32)), at, np.zeros(dim, np.float32), fetched.rows)
        kinds = np.zeros(len(keys), np.uint8)
        kinds[there] = known["kind"]
        fetched.versions[there], fetched.expires[there] = known["version"], known["expires"]
        fetched.scores[there] = known["score"]
        fetched.found[:] = kinds == _ROW
        return fetched, kinds

    def _make_room(self, count: int) -> None:
        """Grows what is known of slots, of which the new ones say nothing yet. Readers go on with the array that is."""
        before = self._known.size
        known = grown(self._known, count)
        known["row"][before:], known["kind"][before:] = -1, _BELOW
        with self._lock:
            self._known = known

    def _place(self, slots: Positions, dim: int) -> None:
        """Gives those of `slots` a place that have none."""
        place, count = self._known["row"], self._row_count.get(dim, 0)
        without = slots[place[slots] < 0]
        rows = grown(self._rows.get(dim, np.empty((0, dim), np.float32)), count + without.size)
        with self._lock:
            place[without] = np.arange(count, count + without.size)
            self._rows[dim] = rows
        self._row_count[dim] = count + without.size
