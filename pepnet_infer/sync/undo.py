"""What rows were before a delta: enough to go back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pepnet_infer.rows.delta_rows import DeltaRows
from pepnet_infer.rows.protocols import Fetched, Store
from pepnet_infer.schema.ids import Keys


class Undone(NamedTuple):
    """What a layered store had of ascending keys; see `LayeredStore.state`."""

    keys: Keys
    fetched: Fetched
    kinds: npt.NDArray[np.uint8]  # 0: nothing, what is below counted; 1: a row; 2: that there is none

    @staticmethod
    def concat(parts: Sequence[Undone]) -> Undone:
        """Returns what was there of the keys of one or more, one after another."""
        if len(parts) == 1:
            return parts[0]
        fetched = Fetched.concat([part.fetched for part in parts])
        return Undone(
            np.concatenate([part.keys for part in parts]), fetched, np.concatenate([part.kinds for part in parts])
        )

    def rows(self, below: Store) -> DeltaRows:
        """Returns the rows as they were, those from the store below among them."""
        fetched = self.fetched.take(np.arange(len(self.keys)))
        lacking = np.flatnonzero(self.kinds == 0)
        if lacking.size:
            fetched.put(lacking, below.get_many(self.keys[lacking], fetched.rows.shape[1]))
        gone = (~fetched.found).astype(np.uint8)
        return DeltaRows(self.keys, fetched.rows, fetched.versions, fetched.scores, fetched.expires, gone)


#: By width.
Undo = dict[int, Undone]


def undone(steps: Sequence[Undo]) -> Undo:
    """Returns what leads back over several deltas, the last one first: of each key, what it was before the first."""
    together: Undo = {}
    for step in steps:
        for dim, back in step.items():
            together[dim] = _before(back, together[dim]) if dim in together else back
    return together


def _before(earlier: Undone, later: Undone) -> Undone:
    kept = ~np.isin(later.keys, earlier.keys)
    both = Undone.concat([earlier, Undone(later.keys[kept], later.fetched.take(kept), later.kinds[kept])])
    order = np.argsort(both.keys)
    return Undone(both.keys[order], both.fetched.take(order), both.kinds[order])
