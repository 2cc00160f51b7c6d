"""Arrow numbers → NumPy arrays, with nulls set aside and what is no number of the asked kind refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pepnet_infer.encode.row_errors import Faults, Mask
from pepnet_infer.encode.transforms import Integers
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import MOST_VALUE, clip, quote

if TYPE_CHECKING:
    from pepnet_infer.encode.arrays import PlainArray

Reals = npt.NDArray[np.float64]

_EXACT = 2.0**53  # float64 holds every whole number up to here


@dataclass(frozen=True)
class NullRule:
    """What a column may leave out.

    `messy` is the leniency of side tables: nulls always, NaN as null, and floats that hold whole numbers.
    """

    column: str
    nullable: bool = False
    messy: bool = False

    def missing(self, array: PlainArray, faults: Faults) -> Mask | None:
        """Returns where `array` is null, None if nowhere; a fault where nulls are not allowed."""
        if not array.null_count:
            return None
        nulls: Mask = array.is_null().to_numpy(zero_copy_only=False)
        self.report(nulls, faults)
        return nulls

    def report(self, nulls: Mask, faults: Faults) -> None:
        """Adds a fault for `nulls` unless they are allowed."""
        if not (self.nullable or self.messy):
            faults.add(self.column, nulls, "no nulls")


def integers(rule: NullRule, array: PlainArray, faults: Faults, wanted: str) -> tuple[Integers, Mask | None]:
    """Returns (int64 or uint64 [n] with 0 for what is missing, what is missing). `wanted` names the type in errors."""
    if pa.types.is_integer(array.type):
        missing = rule.missing(array, faults)
        values: npt.NDArray[Any] = _values(array)
        wide = values.dtype.kind == "u" and values.dtype.itemsize == 8
        return values if wide else values.astype(np.int64, copy=False), missing
    if not (rule.messy and pa.types.is_floating(array.type)):
        raise type_error(rule.column, wanted, array)
    reals, missing = _floats(array)
    broken = ~(np.abs(reals) <= _EXACT) | (reals != np.floor(reals))
    if broken.any():
        faults.add(rule.column, broken, "whole numbers up to 2^53", lambda i: array[i].as_py())
        reals[broken] = 0.0
        missing = broken if missing is None else missing | broken
    return reals.astype(np.int64), missing


def real_numbers(rule: NullRule, array: PlainArray, faults: Faults, wanted: str) -> tuple[Reals, Mask | None]:
    """Returns (float64 [n] of its own memory, 0 for what is missing; what is missing). NaN and ±Inf are faults."""
    kind = array.type
    if pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise type_error(rule.column, wanted, array)
    if rule.messy and pa.types.is_floating(array.type):
        reals, missing = _floats(array)
    else:
        missing = rule.missing(array, faults)
        reals = _values(array).astype(np.float64)
    finite = np.isfinite(reals)
    if not finite.all():
        faults.add(rule.column, ~finite, "finite numbers", lambda i: array[i].as_py())
        reals[~finite] = 0.0
        missing = ~finite if missing is None else missing | ~finite
    return reals, missing


def type_error(column: str, wanted: str, array: PlainArray) -> SchemaError:
    """Returns the error for a column whose type is not what is `wanted`."""
    notes = []
    if array.null_count:
        notes.append(f"{array.null_count} null{'s' * (array.null_count > 1)}")
    if pa.types.is_floating(array.type) and (nan := int(np.isnan(_values(array)).sum())):
        notes.append(f"{nan} NaN")
    note = f" ({', '.join(notes)})" if notes else ""
    return SchemaError(f"column {quote(column)}: expected {wanted}, got {clip(array.type, MOST_VALUE)}{note}", column)


def _values(array: PlainArray) -> npt.NDArray[Any]:
    filled = array.fill_null(False if pa.types.is_boolean(array.type) else 0) if array.null_count else array
    values: npt.NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return values


def _floats(array: PlainArray) -> tuple[Reals, Mask | None]:
    reals = _values(array).astype(np.float64)
    missing = np.isnan(reals)
    if array.null_count:
        missing |= array.is_null().to_numpy(zero_copy_only=False)
    reals[missing] = 0.0
    return reals, missing if missing.any() else None
