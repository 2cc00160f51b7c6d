"""One column in any of the accepted forms → one plain Arrow array.

Plain: one chunk, native byte order, no dictionary, no run-ends, no extension type. A bag becomes a LargeListArray
whose offsets start at 0 and whose nulls are empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pepnet_infer.encode import ragged
from pepnet_infer.encode.arrow_validation import (
    FREE_BYTES,
    allowed_size,
    check,
    check_size,
    decoded_size,
    taken_size,
    text_size,
)
from pepnet_infer.encode.objects import ARROW_REFUSALS, from_objects
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import MOST_VALUE, clip, quote

if TYPE_CHECKING:
    PlainArray = pa.Array[Any]

_MOST_DEPTH = 16  # types in each other: a bag has one inside, and whoever goes through them needs a stack
#: Numbers of Arrow's types of which pyarrow has no arrays: intervals of months, and of days and milliseconds.
_WITHOUT_ARRAYS = (21, 22)
_BYTES = "OSTU"  # NumPy kinds without a byte order Arrow could stumble over


class _Series(Protocol):
    """What is used of a pandas Series; pandas itself is never imported."""

    dtype: object

    def to_numpy(self) -> npt.NDArray[Any]: ...


def as_array(column: str, data: object, rows: int = 0) -> PlainArray:
    """Returns `data` as a plain Arrow array.

    Accepts NumPy arrays (two dimensions: a bag of equal lengths), lists, the pair (values, offsets), Arrow arrays,
    pandas series and whatever has `__arrow_c_array__`, `__arrow_c_stream__` or `__array__`. NaN is a null in pandas
    series only, where it stands for one. `rows` are known to be there (see `arrow_validation.check`). Raises
    SchemaError with the column's name.
    """
    try:
        if isinstance(data, np.ndarray):
            return _from_numpy(column, data)
        return plain(column, _convert(column, data), rows)
    except SchemaError:  # a ValueError too, and says already what is wrong and where
        raise
    except ARROW_REFUSALS as error:
        row, why = _refused_row(column, data, error)
        raise refusal(column, why, row) from error


def plain(column: str, array: PlainArray | pa.ChunkedArray[Any], rows: int = 0) -> PlainArray:
    """Returns `array`, which may come from anywhere, in one chunk and without encodings.

    Raises SchemaError for what `arrow_validation.check` refuses.
    """
    bare = _is_bare(array.type)
    if not bare:
        check_type(column, array.type)
    if isinstance(array, pa.ChunkedArray) and array.num_chunks == 1:
        array = array.chunk(0)
    check(column, array, rows)
    most = None if bare else allowed_size(array)
    if isinstance(array, pa.ChunkedArray):
        combined = array.combine_chunks()
        if isinstance(combined, pa.ChunkedArray):
            raise SchemaError(column=column, expected="at most 2 GiB of strings", got="more")
        array = combined
    return array if most is None else _decoded(column, array, most)


def check_type(column: str, kind: pa.DataType) -> None:
    """Raises SchemaError for types that lie too deep in each other, and for those that pyarrow makes no arrays of."""
    level, depth = [kind], 0
    while level:
        strange = next((inside for inside in level if inside.id in _WITHOUT_ARRAYS), None)
        if strange is not None:
            raise SchemaError(column=column, expected="a type that pyarrow has arrays of", got=quote(str(strange)))
        level = [inside for outer in level for inside in _inside(outer)]
        depth += 1
        if level and depth > _MOST_DEPTH:
            expected = f"types at most {_MOST_DEPTH} deep in each other"
            raise SchemaError(column=column, expected=expected, got="deeper ones")


def _inside(kind: pa.DataType) -> list[pa.DataType]:
    if isinstance(kind, pa.BaseExtensionType):
        return [kind.storage_type]
    if isinstance(kind, (pa.DictionaryType, pa.RunEndEncodedType)):
        return [kind.value_type]
    return [kind.field(i).type for i in range(kind.num_fields)]


def _decoded(column: str, array: PlainArray, most: int) -> PlainArray:
    """Returns a valid array without encodings; what holds neither numbers nor texts nor lists stays as it is."""
    kind = array.type
    if _is_bare(kind):
        return array
    if isinstance(array, pa.ExtensionArray):
        return _decoded(column, array.storage, most)
    if isinstance(array, pa.DictionaryArray):
        values = _decoded(column, array.dictionary, most)
        if not _is_plain(values.type):
            return array
        indices = array.indices
        if not pa.types.is_primitive(values.type):
            known = indices.drop_null() if indices.null_count else indices
            check_size(column, taken_size(values, known.to_numpy().astype(np.int64)), most)
        return values.take(indices)  # Arrow itself cannot decode string views
    if isinstance(array, pa.RunEndEncodedArray):
        if pa.types.is_primitive(kind.value_type) or _is_text(kind.value_type):
            check_size(column, decoded_size(array), most)
            decoded: PlainArray = pc.call_function("run_end_decode", [array])
            return decoded
        return array
    if pa.types.is_string_view(kind):
        check_size(column, text_size(array), most)
        return array.cast(pa.large_string())
    if _is_list(kind):
        return _plain_list(column, array, most)
    return array


def _convert(column: str, data: Any) -> PlainArray | pa.ChunkedArray[Any]:
    if isinstance(data, (pa.Array, pa.ChunkedArray)):
        return data
    if isinstance(data, np.ndarray):
        return _from_numpy(column, data)
    if isinstance(data, list):
        return from_objects(data)
    if isinstance(data, tuple):
        return _from_pair(column, data)
    if hasattr(data, "iloc") and hasattr(data, "dtype"):
        return _from_series(column, data)
    if hasattr(data, "__arrow_c_stream__"):
        chunks: pa.ChunkedArray[Any] = pa.chunked_array(data)
        return chunks
    if hasattr(data, "__arrow_c_array__") or hasattr(data, "__arrow_array__"):
        array: PlainArray = pa.array(data)
        return array
    if hasattr(data, "__array__"):
        return _from_numpy(column, np.asarray(data))
    raise TypeError(f"expected a column (array, list, series or Arrow data), got {type(data).__name__}")


def _from_numpy(column: str, data: npt.NDArray[Any], nan_is_null: bool = False) -> PlainArray:
    if isinstance(data, np.matrix):
        data = np.asarray(data)
    if data.ndim == 2:
        rows, length = data.shape
        offsets = np.arange(rows + 1, dtype=np.int64) * length
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), _from_numpy(column, data.reshape(-1)))
    if data.ndim != 1:
        got = f"{data.ndim} dimensions" if data.ndim else "a single value (0 dimensions)"
        raise SchemaError(column=column, expected="an array of one dimension", got=got)
    kind = data.dtype.kind
    if kind == "V" or kind == "c":
        got = f"a NumPy array of {clip(data.dtype, MOST_VALUE)}"
        raise SchemaError(column=column, expected="plain values", got=got)
    if data.dtype == np.float64 and data.size == 0:  # as NumPy makes an array of nothing: of any type
        return pa.array([], pa.null())
    if kind not in _BYTES and not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    mask = np.ma.getmaskarray(data) if isinstance(data, np.ma.MaskedArray) else None
    if kind not in "OT":  # Arrow before 21 does not know NumPy's strings of any length
        try:
            array: PlainArray = pa.array(np.asarray(data), mask=mask, from_pandas=nan_is_null)
            return array
        except UnicodeDecodeError:
            pass  # of half a character in NumPy's text: what is said of Python's text names it
    values = np.array(data, dtype=object)
    if mask is not None:
        values[mask] = None
    return plain(column, from_objects(values, nan_is_null))


def _from_series(column: str, series: _Series) -> PlainArray | pa.ChunkedArray[Any]:
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biufO":
        return _from_numpy(column, series.to_numpy(), nan_is_null=True)
    raw: Any = series
    array: PlainArray | pa.ChunkedArray[Any] = pa.array(raw, from_pandas=True)
    return array


def _from_pair(column: str, pair: tuple[object, ...]) -> PlainArray:
    if len(pair) != 2:
        raise TypeError(f"expected a pair (values, offsets), got a tuple of {len(pair)}")
    values, offsets = plain(column, _convert(column, pair[0])), as_array(column, pair[1])
    if len(offsets) == 0:
        raise ValueError("expected one offset more than rows, got no offsets")
    if not pa.types.is_integer(offsets.type) or offsets.null_count:
        nulls = f" with {offsets.null_count} nulls" if offsets.null_count else ""
        raise TypeError(f"expected integer offsets, got {clip(offsets.type, MOST_VALUE)}{nulls}")
    if _is_list(values.type):
        raise TypeError(f"expected flat values beside the offsets, got {clip(values.type, MOST_VALUE)}")
    return _list_array(column, values, offsets.cast(pa.int64()).to_numpy(), None, FREE_BYTES)


def _plain_list(column: str, array: PlainArray, most: int) -> PlainArray:
    nulls = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    rows = len(array)
    if isinstance(array, (pa.ListViewArray, pa.LargeListViewArray)):
        return _from_views(column, array, nulls, most)
    if isinstance(array, pa.FixedSizeListArray):
        offsets = (np.arange(rows + 1, dtype=np.int64) + array.offset) * array.type.list_size
    elif isinstance(array, (pa.ListArray, pa.LargeListArray)):
        offsets = array.offsets.to_numpy().astype(np.int64) if rows else np.zeros(1, dtype=np.int64)
    else:
        raise TypeError(f"expected lists, got {clip(array.type, MOST_VALUE)}")
    check_size(column, 8 * int(offsets[-1] - offsets[0]), most)  # nulls in a list take no bytes
    return _list_array(column, array.values, offsets, nulls, most)


def _from_views(
    column: str,
    array: pa.ListViewArray[Any] | pa.LargeListViewArray[Any],
    nulls: npt.NDArray[np.bool_] | None,
    most: int,
) -> PlainArray:
    values = _decoded(column, array.values, most)
    if not _is_plain(values.type):
        raise TypeError(f"expected lists of numbers or texts, got {clip(array.type, MOST_VALUE)}")
    starts = array.offsets.to_numpy().astype(np.int64)[: len(array)]
    lengths = array.sizes.to_numpy().astype(np.int64)[: len(array)]
    if nulls is not None:
        lengths = np.where(nulls, 0, lengths)
    check_size(column, 8 * int(lengths.sum()), most)
    offsets = ragged.to_offsets(lengths)
    positions = ragged.gather(starts, offsets)
    check_size(column, taken_size(values, positions), most)
    return _list_array(column, values.take(positions), offsets, nulls, most)


def _list_array(
    column: str, values: PlainArray, offsets: ragged.Offsets, nulls: npt.NDArray[np.bool_] | None, most: int
) -> PlainArray:
    ragged.check_offsets(column, offsets, len(values))
    values = values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    offsets = offsets - offsets[0]
    mask = None
    if nulls is not None:
        mask = pa.array(nulls)
        lengths = np.where(nulls, 0, np.diff(offsets))
        if lengths.sum() != len(values):  # Arrow lets a null hide values
            starts, offsets = offsets[:-1], ragged.to_offsets(lengths)
            values = values.take(ragged.gather(starts, offsets))
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), _decoded(column, values, most), mask=mask)


def _is_bare(kind: pa.DataType) -> bool:
    types = pa.types
    primitive = types.is_primitive(kind) and kind.id not in _WITHOUT_ARRAYS
    return primitive or types.is_string(kind) or types.is_large_string(kind)


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_plain(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.LargeListType):
        return _is_plain(kind.value_type)
    return _is_bare(kind) or pa.types.is_decimal(kind)


def _is_list(kind: pa.DataType) -> TypeGuard[pa.ListType[Any]]:
    types = pa.types
    return (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def refusal(column: str, error: Exception, row: int | None = None) -> SchemaError:
    """Returns the error for a column that Arrow, or we, could not read; `row` is the first that it fails at."""
    if isinstance(error, UnicodeEncodeError):
        return SchemaError(column=column, expected="text in UTF-8", got=quote(error.object), row=row)
    return SchemaError(clip(error), column=column, row=row)


def _refused_row(column: str, data: Any, error: Exception) -> tuple[int | None, Exception]:
    """Returns the first row that Arrow refuses, where `data` has rows that can be told, and what it says of it."""
    if isinstance(data, tuple) and len(data) == 2:
        place, error = _refused_row(column, data[0], error)
        return None if place is None else _bag_of(place, data[1]), error
    if not isinstance(data, (list, np.ndarray)) and not hasattr(data, "iloc"):
        return None, error
    values = getattr(data, "iloc", data)
    low, high, middle = 0, len(data) + 1, len(data)  # so many rows from the first are read, and so many are not
    while high - low > 1:
        try:
            _convert(column, values[:middle])
            low = middle
        except ARROW_REFUSALS as refused:
            high, error = middle, refused
        middle = (low + high) // 2
    return None if high > len(data) else high - 1, error


def _bag_of(place: int, offsets: Any) -> int | None:
    """Returns which bag the value at `place` is in; None where the offsets do not say."""
    try:
        row = int(np.searchsorted(np.asarray(offsets, dtype=np.int64), place, side="right")) - 1
    except (TypeError, ValueError, OverflowError):
        return None
    return row if 0 <= row < len(offsets) - 1 else None
