"""Python objects → one Arrow array: the same for a list, an object array and an object series.

Arrow infers a type by what comes first, and gives up where Python has one kind of number: integers of which some need
uint64, NumPy scalars of several types, an empty NumPy array (of float64, as NumPy makes it) among bags of integers.
What it gives up on is looked at value by value here, and so are arrays with a mask, which it does not read. A date of
NumPy before a NumPy value of another type ends the process in Arrow, and so does a list that holds itself: both are
refused before it sees them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pepnet_infer import _kernels
from pepnet_infer.encode.arrow_validation import PlainArray
from pepnet_infer.quoting import quote

Objects = Sequence[Any] | npt.NDArray[np.object_]

#: What Arrow raises for a Python or NumPy value it cannot hold; OSError: what a stream of another library says it has.
ARROW_REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError, OSError, np.ma.MaskError)

_LISTS = (list, tuple, np.ndarray)
_PANDAS_NULLS = ("NAType", "NaTType")  # pandas itself is never imported


def from_objects(values: Objects, nan_is_null: bool = False) -> PlainArray:
    """Returns `values` as an Arrow array; None, and the nulls of pandas, are nulls.

    Raises one of ARROW_REFUSALS for what has no common type.
    """
    times, masked = _kernels.numpy_inside(values)
    if times:
        values = [[] if isinstance(value, np.ndarray) and value.size == 0 else value for value in values]
        if _kernels.numpy_inside(values)[0]:
            raise TypeError("expected numbers, texts or lists of these, got dates or durations of NumPy")
    if masked:
        return _by_value(values, nan_is_null, None)
    array: PlainArray
    try:
        array = pa.array(values, from_pandas=nan_is_null)
    except ARROW_REFUSALS as error:
        return _by_value(values, nan_is_null, error)
    reals = pa.types.is_list(array.type) and pa.types.is_floating(array.type.value_type)
    if reals and any(isinstance(row, np.ndarray) and row.size == 0 for row in values):
        return _by_value(values, nan_is_null, None)
    return array


def _by_value(values: Iterable[Any], nan_is_null: bool, refusal: Exception | None) -> PlainArray:
    plain = [_plain(value, nan_is_null) for value in values]
    known = [value for value in plain if value is not None]
    if any(isinstance(value, _LISTS) for value in known):
        if not all(isinstance(value, _LISTS) and getattr(value, "ndim", 1) for value in known):
            raise refusal or TypeError("expected lists in all rows or in none, got single values among them")
        return _lists(plain, nan_is_null, refusal)
    kinds = {type(value) for value in known}
    array: PlainArray
    if kinds == {int}:
        low, high = min(known), max(known)
        if low < -(1 << 63) or high >= 1 << (63 if low < 0 else 64):
            got = f"{quote(low)} to {quote(high)}"
            raise ValueError(f"expected integers that are all within int64 or uint64, got {got}")
        array = pa.array(plain, pa.uint64() if high >= 1 << 63 else pa.int64())
    elif kinds == {int, float}:
        array = pa.array([None if value is None else float(value) for value in plain], pa.float64())
    else:
        array = pa.array(plain)
    return array


def _plain(value: Any, nan_is_null: bool) -> Any:
    if value is np.ma.masked:
        return None
    if isinstance(value, (np.number, np.bool_)):
        value = value.item()
    if type(value).__name__ in _PANDAS_NULLS or (nan_is_null and isinstance(value, float) and value != value):
        return None
    return value


def _lists(rows: list[Any], nan_is_null: bool, refusal: Exception | None) -> PlainArray:
    lists = [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]
    offsets = np.cumsum([0, *(0 if row is None else len(row) for row in lists)], dtype=np.int64)
    values = _by_value(chain.from_iterable(row for row in lists if row is not None), nan_is_null, refusal)
    mask = pa.array([row is None for row in lists]) if None in lists else None
    array: PlainArray = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values, mask=mask)
    return array
