"""What rows were before a delta: enough to go back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pepnet_infer.rows.protocols import Store
from pepnet_infer.schema.row_batch import Mask, RowBatch


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
        rows = self.rows.take(np.arange(len(self.put)))
        lacking = np.flatnonzero(~self.put)
        if lacking.size:
            rows = rows.put(lacking, below.get_many(rows.keys[lacking], rows.rows.shape[1]))
        return rows


#: By width.
Undo = Mapping[int, BeforeImage]


def earliest(steps: Sequence[Undo]) -> Undo:
    """Returns what leads back over several deltas, the last one first: of each key, what it was before the first."""
    together: dict[int, BeforeImage] = {}
    for step in steps:
        for dim, image in step.items():
            together[dim] = _earlier(image, together[dim]) if dim in together else image
    return together


def _earlier(earlier: BeforeImage, later: BeforeImage) -> BeforeImage:
    kept = ~np.isin(later.rows.keys, earlier.rows.keys)
    both = BeforeImage.concat([earlier, BeforeImage(later.rows.take(kept), later.put[kept])])
    return BeforeImage(both.rows.ordered(), both.put[np.argsort(both.rows.keys)])
