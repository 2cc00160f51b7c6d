"""Rows of different lengths in one flat array: row r holds values[offsets[r]:offsets[r + 1]]."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import SchemaError

Offsets = npt.NDArray[np.int64]


def to_offsets(lengths: Offsets) -> Offsets:
    """Returns the offsets, int64 [B+1] from 0, of rows with `lengths`, int64 [B]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def gather(starts: Offsets, offsets: Offsets) -> Offsets:
    """Returns where each value of a new flat array comes from: row r is read from starts[r] on.

    `starts` is int64 [B], `offsets` int64 [B+1] those of the new array; the result is int64 [offsets[-1]].
    """
    lengths = offsets[1:] - offsets[:-1]
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1], dtype=np.int64)


def row_of(offsets: Offsets, positions: Offsets) -> Offsets:
    """Returns the row that holds each of `positions` in the flat array."""
    return np.searchsorted(offsets, positions, side="right") - 1


def check_offsets(column: str, offsets: Offsets, values: int) -> None:
    """Raises SchemaError unless `offsets` [B+1] start at 0 or later, never decrease, and end within `values` values."""
    if offsets[0] < 0:
        raise SchemaError(column=column, expected="offsets from 0", got=str(offsets[0]), row=0)
    drops = offsets[1:] < offsets[:-1]
    if drops.any():
        row = int(drops.argmax())
        got = f"{offsets[row + 1]} after {offsets[row]}"
        raise SchemaError(column=column, expected="offsets that never decrease", got=got, row=row)
    if offsets[-1] > values:
        row = max(0, int(np.searchsorted(offsets, values, side="right")) - 1)
        got = f"{offsets[row + 1]} with {values} values"
        raise SchemaError(column=column, expected="offsets within the values", got=got, row=row)
