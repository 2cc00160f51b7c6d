"""Faults of single rows: raised at once, or collected so that the good rows of a batch can still be scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pepnet_infer.encode import ragged
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import quote

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one column: how many rows have it, the first of them, and the message of that one."""

    column: str
    rows: int
    first: int
    message: str


class Faults:
    """Takes the faults of one batch. With `collect` they are kept in `bad` and `found`, else the first is raised."""

    def __init__(self, num_rows: int, collect: bool = False, offsets: ragged.Offsets | None = None) -> None:
        self.collect = collect
        self.bad: Mask = np.zeros(num_rows if collect else 0, dtype=np.bool_)
        self.found: list[Fault] = []
        self._offsets = offsets

    def within(self, offsets: ragged.Offsets) -> Faults:
        """Returns a view that takes masks over the flat values of a bag with `offsets`, int64 [B+1]."""
        child = Faults(0, self.collect, offsets)
        child.bad, child.found = self.bad, self.found
        return child

    def add(self, column: str, where: Mask, expected: str, got: Callable[[int], object] | None = None) -> None:
        """Reports the values in `where` (at least one): "expected …, got …" with `got` of the first of them.

        Without `got` the faulty values are nulls, and their number is what is said.
        """
        positions = np.flatnonzero(where)
        rows = positions if self._offsets is None else ragged.row_of(self._offsets, positions)
        first, count = int(rows[0]), len(positions)
        if got is None:
            place = f"got {count}, at row {first}" if count == 1 else f"got {count}, the first at row {first}"
        else:
            place = f"got {quote(got(int(positions[0])))} at row {first}"
            place += f" (and {count - 1} more)" if count > 1 else ""
        message = f"column {quote(column)}: expected {expected}, {place}"
        if not self.collect:
            raise SchemaError(message, column, first)
        self.bad[rows] = True
        fault = Fault(column, len(np.unique(rows)), first, message)
        if fault not in self.found:  # two readers of one column find the same
            self.found.append(fault)
