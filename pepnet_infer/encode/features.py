"""Encoded rows: the keys, bags and dense values of every field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pepnet_infer.encode import ragged
from pepnet_infer.schema.ids import Keys

Rows = npt.NDArray[np.int64] | npt.NDArray[np.bool_] | Sequence[int] | slice


@dataclass(frozen=True)
class Bag:
    """The values of a multi-valued field: row r has keys[offsets[r]:offsets[r + 1]].

    `keys` is uint64 [n], `offsets` int64 [B+1] from 0 to n.
    """

    keys: Keys
    offsets: ragged.Offsets

    def take(self, rows: npt.NDArray[np.int64]) -> Bag:
        """Returns the bags of `rows`, int64 in [0, B)."""
        starts = self.offsets[rows]
        offsets = ragged.to_offsets(self.offsets[rows + 1] - starts)
        return Bag(self.keys[ragged.gather(starts, offsets)], offsets)


@dataclass(frozen=True)
class Features:
    """What the assembler reads, by field name; every array has `num_rows` rows.

    ids: uint64 [B] keys, MISSING_KEY where there is no id. bags: see `Bag`. dense: float32 [B], transformed, filled,
    normalised.
    """

    num_rows: int
    ids: dict[str, Keys] = field(default_factory=dict)
    bags: dict[str, Bag] = field(default_factory=dict)
    dense: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def select(self, rows: Rows) -> Features:
        """Returns the given rows in the given order: positions, a mask [B] or a slice."""
        picked = np.arange(self.num_rows, dtype=np.int64)[rows]
        return Features(
            len(picked),
            {name: keys[picked] for name, keys in self.ids.items()},
            {name: bag.take(picked) for name, bag in self.bags.items()},
            {name: values[picked] for name, values in self.dense.items()},
        )

    def with_shared(self, shared: Features) -> Features:
        """Returns every row with the fields of the one row of `shared` added to its own."""
        same = shared.select(np.zeros(self.num_rows, dtype=np.int64))
        return Features(self.num_rows, same.ids | self.ids, same.bags | self.bags, same.dense | self.dense)
