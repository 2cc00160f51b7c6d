"""Errors of single rows: raised at once, or collected so that the good rows of a batch can still be scored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pepnet_infer.encode import ragged
from pepnet_infer.encode.arrow_validation import PlainArray
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import quote

Mask = npt.NDArray[np.bool_]


class RowErrors:
    """Takes the errors of one batch. With `collect` they are kept in `bad` and `found`, else the first is raised."""

    def __init__(self, num_rows: int = 0, collect: bool = False, offsets: ragged.Offsets | None = None) -> None:
        self.collect = collect
        self.bad: Mask = np.zeros(num_rows if collect else 0, dtype=np.bool_)
        #: one of each kind in each column, about the first row that has it
        self.found: list[SchemaError] = []
        self._offsets = offsets

    def within(self, offsets: ragged.Offsets) -> RowErrors:
        """Returns a view that takes masks over the flat values of a bag with `offsets`, int64 [B+1]."""
        child = RowErrors(0, self.collect, offsets)
        child.bad, child.found = self.bad, self.found
        return child

    def add(self, column: str, where: Mask, expected: str, array: PlainArray | None = None) -> None:
        """Reports the values of `array` in `where` (at least one); without an array, they are nulls."""
        positions = np.flatnonzero(where)
        rows = positions if self._offsets is None else np.unique(ragged.row_of(self._offsets, positions))
        value = "null" if array is None else quote(array[int(positions[0])].as_py())
        error = SchemaError(column=column, expected=expected, got=value, row=int(rows[0]), rows=len(rows))
        if not self.collect:
            raise error
        self.bad[rows] = True
        if all(error.fields() != other.fields() for other in self.found):  # two readers of one column find the same
            self.found.append(error)


#: For batches whose first error is raised: it has no state, so that all of them share it.
RAISED = RowErrors()
