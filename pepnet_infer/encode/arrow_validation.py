"""Checks of Arrow data from outside, before anything computes with it.

Arrow computes with offsets, indices and run ends as they stand: a wrong one reads or writes memory that is not the
column's. And a few bytes may stand for any number of values, by run ends, dictionaries or views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pepnet_infer.encode import ragged
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import clip

if TYPE_CHECKING:
    PlainArray = pa.Array[Any]
    Chunks = pa.ChunkedArray[Any]

Lengths = npt.NDArray[np.int64]

#: Rows of a column, and bytes of its decoded values, that need no bytes in the column itself.
FREE_ROWS, FREE_BYTES = 1 << 20, 64 << 20
#: Rows (a bit each at least), and bytes of decoded values, that one byte of a larger column may stand for.
ROWS_PER_BYTE, BYTES_PER_BYTE = 8, 64

_VALUE_BYTES = 8  # of a number, at most


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
    """Returns how many bytes the values of `array` may take once they are decoded."""
    return max(FREE_BYTES, BYTES_PER_BYTE * array.get_total_buffer_size())


def check_size(column: str, size: int, most: int) -> None:
    """Raises SchemaError where values would take more than the `most` bytes that `allowed_size` gave."""
    if size > most:
        expected = f"at most {most} bytes of decoded values for its size"
        raise SchemaError(column=column, expected=expected, got=str(size))


def taken_size(values: PlainArray, positions: Lengths) -> int:
    """Returns how many bytes the values at `positions` have; `values` are plain."""
    lengths = _lengths(values)
    return _VALUE_BYTES * len(positions) if lengths is None else int(lengths[positions].sum())


def decoded_size(array: pa.RunEndEncodedArray[Any, Any]) -> int:
    """Returns how many bytes the values of a run-end encoded array of numbers or texts have."""
    ends = np.clip(array.run_ends.to_numpy().astype(np.int64) - array.offset, 0, len(array))
    lengths = _lengths(array.values)
    if lengths is None:
        return _VALUE_BYTES * len(array)
    return int((np.diff(ends, prepend=0) * lengths[: len(ends)]).sum())


def text_size(array: PlainArray) -> int:
    """Returns how many bytes the texts of an array of string views have."""
    lengths = _lengths(array)
    return 0 if lengths is None else int(lengths.sum())


def _lengths(values: PlainArray) -> Lengths | None:
    """Returns how many bytes each of `values` has; None where that is `_VALUE_BYTES` at most."""
    kind, types = values.type, pa.types
    view, narrow = types.is_string_view(kind), types.is_string(kind)
    if not (view or narrow or types.is_large_string(kind) or types.is_large_list(kind)):
        return None
    buffer, first, count = values.buffers()[1], values.offset, len(values)
    if buffer is None or count == 0:
        return np.zeros(count, dtype=np.int64)
    if view:
        numbers = np.frombuffer(memoryview(buffer), dtype=np.int32, count=4 * (first + count))
        valid = values.is_valid().to_numpy(zero_copy_only=False)  # a null's view says nothing
        return np.where(valid, numbers[4 * first :: 4], 0).astype(np.int64)
    width = np.dtype(np.int32 if narrow else np.int64)
    offsets: Lengths = np.frombuffer(memoryview(buffer), dtype=width, count=first + count + 1)[first:].astype(np.int64)
    if not isinstance(values, pa.LargeListArray):
        return np.diff(offsets)
    inside = _lengths(values.values)
    if inside is None:
        return np.diff(offsets) * _VALUE_BYTES
    return np.diff(ragged.to_offsets(inside)[offsets])
