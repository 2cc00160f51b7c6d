"""The rows that came after a bundle, in front of the store that has the bundle's, and the way back to earlier ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pepnet_infer.process import forks
from pepnet_infer.rows.protocols import Store, identity_of
from pepnet_infer.rows.stores.arena import GONE, NOTHING, ROW, RowArena
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import Mask, RowBatch

_CHUNK = 1 << 12  # keys that are written while readers wait


class EmptyStore:
    """A `Store` that has nothing: behind it the cache is all the memory there is."""

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns that none of `keys` [N] is there; see `Store.get_many`."""
        return RowBatch.nothing(len(keys), dim)


class BeforeImage(NamedTuple):
    """What a layered store had of ascending keys before they changed."""

    rows: RowBatch  # with keys; expired rows among those found
    put: Mask  # [N] False: nothing was put of the key, so that what is below counted

    @staticmethod
    def concat(parts: Sequence[BeforeImage]) -> BeforeImage:
        """Returns the images of one or more, one after another."""
        return BeforeImage(RowBatch.concat([part.rows for part in parts]), np.concatenate([part.put for part in parts]))

    def seen(self, below: Store) -> RowBatch:
        """Returns the rows as they were seen, those of the store below among them."""
        rows, lacking = self.rows.take(np.arange(len(self.put))), np.flatnonzero(~self.put)
        return rows.put(lacking, below.get_many(rows.keys[lacking], rows.rows.shape[1])) if lacking.size else rows


#: By table.
Undo = Mapping[str, BeforeImage]


def earliest(steps: Sequence[Undo]) -> Undo:
    """Returns what leads back over several deltas, the last one first: of each key, what it was before the first."""
    together: dict[str, BeforeImage] = {}
    for step in steps:
        for table, image in step.items():
            if table in together:
                later = together[table]
                kept = ~np.isin(later.rows.keys, image.rows.keys)
                both = BeforeImage.concat([image, BeforeImage(later.rows.take(kept), later.put[kept])])
                image = BeforeImage(both.rows.ordered(), both.put[np.argsort(both.rows.keys)])
            together[table] = image
    return together


class LayeredStore(forks.OwnLock):
    """A `Store`: what was put here, else what the store below has. Any thread may ask at any time, one may write.

    Memory grows with the distinct ids that were ever put; see `RowArena`.
    """

    def __init__(self, below: Store, clock: Callable[[], float] = time.time) -> None:
        super().__init__()  # its lock is held for looks and for a chunk of what is written: never for long
        self.below = below
        self._clock = clock
        self._arena = RowArena()

    def __len__(self) -> int:
        """How many keys were ever put."""
        return len(self._arena)

    def identity(self) -> str | None:
        """Returns the identity of the store below; what was put here, `ModelVersion.applied` says."""
        return identity_of(self.below)

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns what is there of `keys` [N]; see `Store.get_many`."""
        here = self.before_image(keys, dim)
        if not here.put.any():
            return self.below.get_many(keys, dim)
        rows = here.rows
        late = rows.found & (rows.expires <= self._clock())
        if late.any():
            rows.rows[late], rows.found[late] = 0, False
            rows.scores[late], rows.expires[late] = np.nan, np.inf
        lacking = np.flatnonzero(~here.put)
        return rows.put(lacking, self.below.get_many(keys[lacking], dim)) if lacking.size else rows

    def before_image(self, keys: Keys, dim: int) -> BeforeImage:
        """Returns what was put here of `keys` [N], expired or not, which `restore` brings back."""
        slots = self._arena.find(keys)
        if (slots < 0).all():
            return BeforeImage(RowBatch.nothing(len(keys), dim, keys=keys), np.zeros(len(keys), np.bool_))
        with self.lock:
            records = self._arena.look(slots)
            rows = self._arena.read(records, records["kind"] == ROW, dim)
        return BeforeImage(replace(rows, keys=keys), records["kind"] != NOTHING)

    def put(self, changed: RowBatch) -> None:
        """Puts rows and deletions, whatever their versions: who calls knows their order. Keys ascend, each once."""
        self.restore(BeforeImage(changed, np.ones(len(changed.keys), np.bool_)))

    def restore(self, image: BeforeImage) -> None:
        """Brings back what `before_image` returned of ascending keys, each of which is there once.

        Readers meanwhile find some keys as they were before and others as they are after it.
        """
        rows = image.rows
        kinds = np.where(rows.found, ROW, np.where(image.put, GONE, NOTHING)).astype(np.uint8)
        slots, _ = self._arena.add(rows.keys)
        self._arena.place(slots[rows.found], rows.rows.shape[1])
        for begin in range(0, len(slots), _CHUNK):
            some = slice(begin, begin + _CHUNK)
            with self.lock:
                self._arena.write(slots[some], rows.take(some), kinds[some])
