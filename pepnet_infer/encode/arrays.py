"""One column in any of the accepted forms → one plain Arrow array.

Plain: one chunk, native byte order, no dictionary, no run-ends, no extension type. A bag becomes a LargeListArray
whose offsets start at 0 and whose nulls are empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pepnet_infer.encode import ragged
from pepnet_infer.encode.arrow_validation import VALUE_BYTES, PlainArray, allowed_size, check, check_size, value_bytes
from pepnet_infer.encode.objects import ARROW_REFUSALS, from_objects
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import MOST_VALUE, clip, quote

_MOST_DEPTH = 16  # types in each other: a bag has one inside, and whoever goes through them needs a stack
#: Numbers of Arrow's types of which pyarrow has no arrays: intervals of months, and of days and milliseconds.
_WITHOUT_ARRAYS = (21, 22)
_ARROW = (pa.ChunkedArray, pa.Array)
_LISTS = (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray, pa.ListViewArray, pa.LargeListViewArray)
_BYTES = "OSTU"  # NumPy kinds without a byte order Arrow could stumble over


def as_array(column: str, data: object, rows: int = 0) -> PlainArray:
    """Returns `data` as a plain Arrow array.

    Accepts NumPy arrays (two dimensions: a bag of equal lengths), lists, the pair (values, offsets), Arrow arrays,
    pandas series and whatever has `__arrow_c_array__`, `__arrow_c_stream__` or `__array__`. NaN is a null in pandas
    series only, where it stands for one. `rows` are known to be there (see `arrow_validation.check`). Raises
    SchemaError with the column's name.
    """
    try:
        if isinstance(data, _ARROW):
            return _plain(column, data, rows)
        if isinstance(data, np.ndarray):
            return _from_numpy(column, data)
        return _plain(column, _convert(column, data), rows)
    except SchemaError:  # a ValueError too, and says already what is wrong and where
        raise
    except ARROW_REFUSALS as error:
        row, why = _refused_row(column, data, error)
        if isinstance(why, UnicodeEncodeError):
            raise SchemaError(column=column, expected="text in UTF-8", got=quote(why.object), row=row) from error
        raise SchemaError(clip(why), column=column, row=row) from error


def _plain(column: str, array: PlainArray | pa.ChunkedArray[Any], rows: int = 0) -> PlainArray:
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
    check_size(column, VALUE_BYTES * len(array), most)  # of their positions too, which are computed from a few bytes
    if isinstance(array, pa.ExtensionArray):
        return _decoded(column, array.storage, most)
    if isinstance(array, pa.DictionaryArray):
        return _taken(column, array, array.dictionary, array.indices, most)
    if isinstance(array, pa.RunEndEncodedArray):
        ends = np.clip(array.run_ends.to_numpy().astype(np.int64) - array.offset, 0, len(array))
        runs = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        return _taken(column, array, array.values, pa.array(runs), most)
    if pa.types.is_string_view(kind):
        check_size(column, value_bytes(array), most)
        return array.cast(pa.large_string())
    if _is_list(array):
        return _plain_list(column, array, most)
    return array


def _taken(column: str, array: PlainArray, values: PlainArray, positions: PlainArray, most: int) -> PlainArray:
    """Returns what an encoded `array` stands for: its `values` at some positions; itself where they are not plain."""
    values = _decoded(column, values, most)
    if not _is_plain(values.type):
        return array
    check_size(column, value_bytes(values, positions), most)
    return values.take(positions)  # Arrow itself cannot decode string views


def _convert(column: str, data: Any) -> PlainArray | pa.ChunkedArray[Any]:
    if isinstance(data, _ARROW):
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
            made: Any = pa.array(np.asarray(data), mask=mask, from_pandas=nan_is_null)
            return made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made  # of long text there are some
        except UnicodeDecodeError:
            pass  # of half a character in NumPy's text: what is said of Python's text names it
    values = np.array(data, dtype=object)
    if mask is not None:
        values[mask] = None
    return _plain(column, from_objects(values, nan_is_null))


def _from_series(column: str, series: Any) -> PlainArray | pa.ChunkedArray[Any]:
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biufO":
        return _from_numpy(column, series.to_numpy(), nan_is_null=True)
    array: PlainArray | pa.ChunkedArray[Any] = pa.array(series, from_pandas=True)
    return array


def _from_pair(column: str, pair: tuple[object, ...]) -> PlainArray:
    if len(pair) != 2:
        raise TypeError(f"expected a pair (values, offsets), got a tuple of {len(pair)}")
    values, offsets = _plain(column, _convert(column, pair[0])), as_array(column, pair[1])
    if len(offsets) == 0:
        raise ValueError("expected one offset more than rows, got no offsets")
    if not pa.types.is_integer(offsets.type) or offsets.null_count:
        nulls = f" with {offsets.null_count} nulls" if offsets.null_count else ""
        raise TypeError(f"expected integer offsets, got {clip(offsets.type, MOST_VALUE)}{nulls}")
    if _is_list(values):
        raise TypeError(f"expected flat values beside the offsets, got {clip(values.type, MOST_VALUE)}")
    places = offsets.cast(pa.int64()).to_numpy()
    ragged.check_offsets(column, places, len(values))
    inside = values.slice(int(places[0]), int(places[-1] - places[0]))
    return pa.LargeListArray.from_arrays(pa.array(places - places[0], pa.int64()), inside)


def _plain_list(column: str, array: Any, most: int) -> PlainArray:
    """Returns lists of any layout as large lists: offsets from 0, a null is empty whatever its layout has behind it."""
    fixed = isinstance(array, pa.FixedSizeListArray)
    plain = (fixed or isinstance(array, (pa.ListArray, pa.LargeListArray))) and len(array) > 0 and not array.null_count
    if plain:  # whose offsets say it all: asking Arrow takes 100 µs
        if fixed:
            places = (np.arange(len(array) + 1) + array.offset) * array.type.list_size
        else:
            places = array.offsets.to_numpy().astype(np.int64)
        offsets = places - places[0]
    else:
        offsets = ragged.to_offsets(pc.list_value_length(array).fill_null(0).to_numpy())
    check_size(column, VALUE_BYTES * int(offsets[-1]), most)  # nulls in a list take no bytes
    if plain:
        inside = _decoded(column, array.values.slice(int(places[0]), int(offsets[-1])), most)
    elif isinstance(array, (pa.ListViewArray, pa.LargeListViewArray)):
        starts = array.offsets.to_numpy().astype(np.int64)[: len(array)]
        inside = _taken(column, array, array.values, pa.array(ragged.gather(starts, offsets)), most)
        if inside is array:
            raise TypeError(f"expected lists of numbers or texts, got {clip(array.type, MOST_VALUE)}")
    else:
        inside = _decoded(column, array.flatten(), most)
    mask = array.is_null() if array.null_count else None
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), inside, mask=mask)


def _is_list(array: PlainArray) -> bool:
    return isinstance(array, _LISTS) and not isinstance(array, pa.MapArray)  # whose class is one of lists


def _is_bare(kind: pa.DataType) -> bool:
    types = pa.types
    primitive = types.is_primitive(kind) and kind.id not in _WITHOUT_ARRAYS
    return primitive or types.is_string(kind) or types.is_large_string(kind)


def _is_plain(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.LargeListType):
        return _is_plain(kind.value_type)
    return _is_bare(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)


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
