"""A batch in any of the accepted forms → `Columns`: the named columns as Arrow arrays of one length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pepnet_infer.encode.arrays import as_array, check_type
from pepnet_infer.encode.arrow_validation import FREE_ROWS, ROWS_PER_BYTE, PlainArray
from pepnet_infer.encode.objects import ARROW_REFUSALS
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import clip, name_list, quote

Numbers = npt.NDArray[Any]

_PLAIN = frozenset(np.dtype(name) for name in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"))


@runtime_checkable
class ArrowStream(Protocol):
    """Tables of Arrow's C stream interface: pyarrow, polars, duckdb, pandas from 2.2 on."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Returns a capsule of an ArrowArrayStream."""


@runtime_checkable
class ArrowArray(Protocol):
    """Record batches of Arrow's C data interface."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """Returns capsules of an ArrowSchema and an ArrowArray."""


class DataFrameLike(Protocol):
    """What is used of a pandas DataFrame; pandas itself is never imported."""

    @property
    def columns(self) -> Iterable[Any]:
        """The names of the columns."""

    def __getitem__(self, name: Any, /) -> Any:
        """Returns a column."""

    def __len__(self) -> int:
        """Returns the number of rows."""


BatchLike: TypeAlias = Mapping[str, Any] | ArrowStream | ArrowArray | DataFrameLike
"""A batch of rows: a dict of columns, a data frame, or whatever has Arrow's interface. A column of a dict is a NumPy
array, a list, an Arrow array or a series of pandas or polars; that of a bag also a pair (values, offsets), where row r
has values[offsets[r]:offsets[r + 1]]."""


class Columns:
    """Named Arrow arrays of `num_rows` values each: no chunks, no dictionaries, native byte order.

    Bags are LargeListArrays whose offsets start at 0. Indexing with a name that is not there raises SchemaError.
    NumPy's plain numbers become Arrow arrays only for whoever asks for one.
    """

    __slots__ = ("_arrays", "num_rows")

    def __init__(self, arrays: Mapping[str, PlainArray | Numbers], num_rows: int) -> None:
        self._arrays = arrays
        self.num_rows = num_rows

    def __getitem__(self, name: str) -> PlainArray:
        array = self._find(name)
        return as_array(name, array) if isinstance(array, np.ndarray) else array

    def numbers(self, name: str) -> Numbers | None:
        """Returns the column as NumPy's integers or floats, not copied; None where it is anything else or has nulls."""
        array = self._find(name)
        if isinstance(array, np.ndarray):
            return array
        kind = array.type
        if array.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return None
        numbers: Numbers = array.to_numpy()
        return numbers

    def _find(self, name: str) -> PlainArray | Numbers:
        try:
            return self._arrays[name]
        except KeyError:
            raise _missing(name, self._arrays) from None


def read_columns(batch: object, names: Sequence[str], strict: bool = False) -> Columns:
    """Returns the columns `names` of `batch`.

    `batch` is a dict of columns (NumPy arrays, lists, Arrow arrays, series of pandas or polars; a bag also as the pair
    (values, offsets)), a pandas DataFrame, or anything with `__arrow_c_stream__` or `__arrow_c_array__` (pyarrow,
    polars, duckdb). Numbers are not copied where the source allows that. Other columns are ignored, or an error with
    `strict`. Raises SchemaError for a missing or duplicate column, unequal lengths, and data Arrow cannot hold.
    """
    wanted, known = dict.fromkeys(names), 0  # known: rows that have data in other columns
    rows, first = -1, ""
    column: Callable[[str], Any]
    if isinstance(batch, Mapping):
        column = batch.__getitem__
        for name in wanted:
            if name not in batch:  # asking for it may make one up, or fail for another reason
                raise _missing(name, batch)
        if strict:
            _check_names(list(batch), wanted, strict)
    elif _is_data_frame(batch):
        column, rows = batch.__getitem__, len(batch)
        _check_names(list(batch.columns), wanted, strict)
    else:
        table = _to_table(batch)
        column, rows = partial(_column, table), table.num_rows
        try:
            present = table.schema.names
        except UnicodeError as error:
            raise SchemaError(expected="names of columns in UTF-8", got=clip(error)) from error
        _check_names(present, wanted, strict)
        if rows > FREE_ROWS and rows <= ROWS_PER_BYTE * sum(column(name).get_total_buffer_size() for name in wanted):
            known = rows
    arrays: dict[str, PlainArray | Numbers] = {}
    for name in wanted:
        array: PlainArray | Numbers
        data = column(name)
        # Subclasses mean something else by their values: masks, matrices.
        if type(data) is np.ndarray and data.ndim == 1 and data.dtype in _PLAIN:
            array = data
        else:
            array = as_array(name, data, known)
        arrays[name] = array
        if rows < 0:
            rows, known, first = len(array), len(array), name
        elif len(array) != rows:
            whose = f"column {quote(first)}" if first else "the batch"
            raise SchemaError(column=name, expected=f"{rows} rows as in {whose}", got=str(len(array)))
    return Columns(arrays, max(rows, 0))


def _is_data_frame(batch: object) -> TypeGuard[DataFrameLike]:
    return hasattr(batch, "iloc") and hasattr(batch, "columns")


def _to_table(batch: object) -> pa.Table | pa.RecordBatch:
    if isinstance(batch, (pa.Table, pa.RecordBatch)):
        return batch
    expected, got = "a batch (a dict of columns, a DataFrame, or Arrow data)", type(batch).__name__
    try:
        if isinstance(batch, ArrowStream):
            return pa.table(batch)
        if isinstance(batch, ArrowArray):
            return pa.record_batch(batch)
    except ARROW_REFUSALS as error:
        raise SchemaError(expected=expected, got=f"{got}: {clip(error)}") from error
    raise SchemaError(expected=expected, got=got)


def _column(table: pa.Table | pa.RecordBatch, name: str) -> pa.Array[Any] | pa.ChunkedArray[Any]:
    try:
        return table.column(name)
    except KeyError:  # of the type: the name is there
        check_type(name, table.schema.field(name).type)
        raise


def _check_names(present: Sequence[object], wanted: Mapping[str, None], strict: bool) -> None:
    counts = Counter(present)
    for name in wanted:
        if name not in counts:
            raise _missing(name, counts)
        if counts[name] > 1:
            raise SchemaError(column=name, expected="one of that name", got=str(counts[name]))
    extra = [name for name in counts if name not in wanted] if strict else []
    if extra:
        raise SchemaError(
            f"unexpected column{'s' * (len(extra) > 1)} {name_list(extra)}; expected only {name_list(wanted)}"
        )


def _missing(name: str, present: Iterable[object]) -> SchemaError:
    names = name_list(present)
    return SchemaError(column=name, expected="it in the batch", got=f"columns {names}" if names else "no columns")
