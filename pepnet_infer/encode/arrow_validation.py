"""Checks of Arrow data from outside, before anything computes with it.

Arrow computes with offsets, indices and run ends as they stand: a wrong one reads or writes memory that is not the
column's. And a few bytes may stand for any number of values, by run ends, dictionaries or views.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pepnet_infer.encode import ragged
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import clip

PlainArray: TypeAlias = "pa.Array[Any]"
Chunks: TypeAlias = "pa.ChunkedArray[Any]"

Lengths = npt.NDArray[np.int64]

#: Rows of a column, and bytes of its decoded values, that need no bytes in the column itself.
FREE_ROWS, FREE_BYTES = 1 << 20, 64 << 20
#: Rows (a bit each at least), and bytes of decoded values, that one byte of a larger column may stand for.
ROWS_PER_BYTE, BYTES_PER_BYTE = 8, 64
VALUE_BYTES = 8  # of a number, or of a position, at most


def check(column: str, array: PlainArray | Chunks, rows: int = 0) -> None:
    """Raises SchemaError unless `array` is valid in full: offsets, indices, run ends, views, UTF-8, counts of nulls.

    `rows` are known to have data in other columns; more than that need data in this one.
    """
    try:
        array.validate(full=True)
    except (pa.ArrowException, IndexError) as error:
        raise SchemaError(column=column, expected="valid Arrow data", got=clip(error)) from error
    if len(array) > max(FREE_ROWS, rows):
        size = array.get_total_buffer_size()
        if len(array) > ROWS_PER_BYTE * size:
            expected = f"at most {ROWS_PER_BYTE} rows a byte"
            raise SchemaError(column=column, expected=expected, got=f"{len(array)} in {size}")


def allowed_size(array: PlainArray | Chunks) -> int:
    """Returns how many bytes the values of `array`, whose rows `check` let pass, may take once they are decoded."""
    return max(FREE_BYTES, BYTES_PER_BYTE * array.get_total_buffer_size(), VALUE_BYTES * len(array))


def check_size(column: str, size: int, most: int) -> None:
    """Raises SchemaError where values would take more than the `most` bytes that `allowed_size` gave."""
    if size > most:
        expected = f"at most {most} bytes of decoded values for its size"
        raise SchemaError(column=column, expected=expected, got=str(size))


def value_bytes(values: PlainArray, positions: PlainArray | None = None) -> int:
    """Returns how many bytes `values` have, or those at some positions, of which a null takes none."""
    lengths = _lengths(values)
    if lengths is None:
        return VALUE_BYTES * len(values if positions is None else positions)
    known = slice(None) if positions is None else positions.drop_null().to_numpy().astype(np.int64)
    return int(lengths[known].sum())


def _lengths(values: Any) -> Lengths | None:
    """Returns how many bytes each of `values` has; None where that is `VALUE_BYTES` at most."""
    kind, types = values.type, pa.types
    if types.is_string(kind) or types.is_large_string(kind):
        known = pc.binary_length(values)
        lengths: Lengths = (known.fill_null(0) if known.null_count else known).to_numpy().astype(np.int64)
        return lengths
    if types.is_string_view(kind):  # of which Arrow has no lengths: the first of the four numbers of a view
        numbers = np.frombuffer(memoryview(values.buffers()[1] or b""), dtype=np.int32)[4 * values.offset :: 4]
        valid = values.is_valid().to_numpy(zero_copy_only=False)  # a null's view says nothing
        return np.where(valid, numbers[: len(values)], 0).astype(np.int64)
    if not isinstance(values, pa.LargeListArray):
        return None
    offsets, inside = values.offsets.to_numpy(), _lengths(values.values)
    return np.diff(VALUE_BYTES * offsets if inside is None else ragged.to_offsets(inside)[offsets])
