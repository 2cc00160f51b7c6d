"""One plain Arrow array → the ids, the bag or the dense values of one field."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pepnet_infer._kernels import signed_log1p
from pepnet_infer.encode import ragged
from pepnet_infer.encode.arrow_validation import PlainArray
from pepnet_infer.encode.column_rule import ColumnRule
from pepnet_infer.encode.row_errors import Mask, RowErrors
from pepnet_infer.errors import SchemaError
from pepnet_infer.quoting import MOST_VALUE, clip, quote
from pepnet_infer.schema.feature_schema import FieldSpec, Transform
from pepnet_infer.schema.ids import MAX_ID, hash_integers, hash_strings

Ids = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64] | npt.NDArray[np.uint64]
Reals = npt.NDArray[np.float64]

#: Transforms of unix milliseconds: they read integers.
OF_TIME = ("hour", "weekday")

_EXACT = 2.0**53  # float64 holds every whole number up to here
_LIMIT = np.uint64(MAX_ID)
_RANGE = "ids in [0, 2^48)"
_WANTED = {"none": "integer ids", "bucketize": "numbers", "hour": "unix milliseconds (integers)"}
_WANTED["weekday"] = _WANTED["hour"]

_HOUR = 3_600_000
_DAY = 24 * _HOUR
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday counts as 0


def decode_ids(rule: ColumnRule, array: PlainArray, errors: RowErrors, of: str = "") -> tuple[Ids, Mask | None]:
    """Returns (ids uint64 [n], below 2^48; which of them are missing, or None when none is).

    Missing are nulls and, where `errors` collects, bad values; their ids are of no use. `of` leads the type in
    messages ("lists of ", for bags). Raises SchemaError for a type that holds no ids, and for single errors.
    """
    kind, op, column = array.type, rule.transform.op, rule.column
    wanted = of + _WANTED[op]
    if pa.types.is_null(kind):
        return np.zeros(len(array), dtype=np.uint64), rule.missing(array, errors)
    if op == "bucketize":
        values, missing = real_numbers(rule, array, errors, wanted)
        return _bucketize(rule.transform, values).astype(np.uint64), missing
    if op == "none" and is_text(kind):
        if rule.hashed:
            return _hashed_texts(rule, array, errors)
        wanted += " (texts need a field with hashed: true)"
    numbers, missing = integers(rule, array, errors, wanted)
    if op in OF_TIME:
        return _of_time(rule.transform, numbers).astype(np.uint64), missing
    ids = numbers.astype(np.uint64)  # a negative integer becomes one of at least 2^63
    if len(ids) and ids.max() >= _LIMIT:
        wide = ids >= _LIMIT
        if rule.hashed:
            distinct, places = np.unique(ids[wide], return_inverse=True)
            ids[wide] = hash_integers(distinct)[places]
        else:
            errors.add(column, wide, _RANGE, array)
            missing = wide if missing is None else missing | wide
    return ids, missing


def decode_bag(rule: ColumnRule, spec: FieldSpec, array: PlainArray, errors: RowErrors) -> tuple[Ids, ragged.Offsets]:
    """Returns (ids uint64 [n], offsets int64 [B+1]) of a bag field; the last `spec.max_len` values of a row count.

    A null list is an empty bag and nulls inside a bag are dropped, where the field allows nulls.
    """
    rule.missing(array, errors)
    missing: Mask | None
    if pa.types.is_null(array.type):
        return np.zeros(0, dtype=np.uint64), np.zeros(len(array) + 1, dtype=np.int64)
    if spec.separator is not None:
        texts, offsets = _split(spec.column, spec.separator, array)
        read = _hashed_texts if rule.hashed else _parsed_texts
        ids, missing = read(rule, texts, errors.within(offsets))
    elif isinstance(array, pa.LargeListArray):
        offsets = array.offsets.to_numpy()
        ids, missing = decode_ids(rule, array.values, errors.within(offsets), "lists of ")
    else:
        raise type_error(spec.column, f"lists of {_WANTED[rule.transform.op]}", array)
    if missing is not None:
        offsets = ragged.to_offsets((~missing).astype(np.int64))[offsets]
        ids = ids[~missing]
    if spec.max_len is not None and len(ids):
        ids, offsets = _last(ids, offsets, spec.max_len)
    return ids, offsets


def decode_dense(
    rule: ColumnRule, spec: FieldSpec, array: PlainArray, errors: RowErrors, scale: tuple[float, float]
) -> npt.NDArray[np.float32]:
    """Returns float32 [B]: transformed, then nulls replaced by `spec.fill`, then (x - mean) / std, the `scale`."""
    op = rule.transform.op
    missing: Mask | None
    if pa.types.is_null(array.type):
        values, missing = np.zeros(len(array)), rule.missing(array, errors)
    elif op in OF_TIME:
        numbers, missing = integers(rule, array, errors, _WANTED[op])
        values = _of_time(rule.transform, numbers).astype(np.float64)
    else:
        values, missing = real_numbers(rule, array, errors, "numbers")
        if op == "log1p":
            values = signed_log1p(values)
        elif op == "bucketize":
            values = _bucketize(rule.transform, values).astype(np.float64)
    if missing is not None:
        values[missing] = spec.fill
    values = (values - scale[0]) / scale[1]
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    finite = np.isfinite(result)
    if not finite.all():  # finite in float64, too large for float32
        errors.add(spec.column, ~finite, "numbers within float32", array)
        result[~finite] = 0.0
    return result


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def distinct_texts(array: PlainArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Returns (the distinct strings, the position of each value among them; 0 for a null)."""
    encoded = array.dictionary_encode()
    indices = encoded.indices.fill_null(0) if encoded.indices.null_count else encoded.indices
    texts: list[Any] = encoded.dictionary.to_pylist()
    return texts, indices.to_numpy().astype(np.int64, copy=False)


def _hashed_texts(rule: ColumnRule, array: PlainArray, errors: RowErrors) -> tuple[Ids, Mask | None]:
    missing = rule.missing(array, errors)
    texts, places = distinct_texts(array)
    return hash_strings(texts or [""])[places], missing


def _parsed_texts(rule: ColumnRule, array: PlainArray, errors: RowErrors) -> tuple[Ids, Mask | None]:
    texts, places = distinct_texts(array)
    # -1: no integer; -2: an integer out of range
    codes = np.fromiter((_parse(text) for text in texts), dtype=np.int64, count=len(texts))
    ids = codes[places] if texts else np.zeros(len(array), dtype=np.int64)
    for code, expected in ((-1, "integers between the separators"), (-2, _RANGE)):
        if (ids == code).any():
            errors.add(rule.column, ids == code, expected, array)
    missing = ids < 0
    return ids.astype(np.uint64), missing if missing.any() else None


def _parse(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        return -1
    number = int(text) if len(digits) < 32 else MAX_ID
    return number if 0 <= number < MAX_ID else -2


def _split(column: str, separator: str, array: PlainArray) -> tuple[PlainArray, ragged.Offsets]:
    """Returns (stripped pieces, offsets) of a string column; blank pieces are none, a null is an empty bag."""
    if not is_text(array.type):
        raise type_error(column, f"texts separated by {quote(separator)}", array)
    pieces = pc.split_pattern(array.cast(pa.large_string()).fill_null(""), separator)
    texts = pc.utf8_trim_whitespace(pieces.values)
    blank: Mask = pc.equal(texts, pa.scalar("", pa.large_string())).to_numpy(zero_copy_only=False)
    offsets: ragged.Offsets = pieces.offsets.to_numpy().astype(np.int64)
    if blank.any():
        offsets = ragged.to_offsets((~blank).astype(np.int64))[offsets]
        texts = texts.filter(pa.array(~blank))
    return texts, offsets


def _last(ids: Ids, offsets: ragged.Offsets, most: int) -> tuple[Ids, ragged.Offsets]:
    lengths = offsets[1:] - offsets[:-1]
    if lengths.max() <= most:
        return ids, offsets
    kept = ragged.to_offsets(np.minimum(lengths, most))
    return ids[ragged.gather(offsets[1:] - (kept[1:] - kept[:-1]), kept)], kept


def integers(rule: ColumnRule, array: PlainArray, errors: RowErrors, wanted: str) -> tuple[Integers, Mask | None]:
    """Returns (int64 or uint64 [n] with 0 for what is missing, what is missing). `wanted` names the type in errors."""
    if pa.types.is_integer(array.type):
        missing = rule.missing(array, errors)
        values: npt.NDArray[Any] = _values(array)
        wide = values.dtype.kind == "u" and values.dtype.itemsize == 8
        return values if wide else values.astype(np.int64, copy=False), missing
    if not (rule.lenient and pa.types.is_floating(array.type)):
        raise type_error(rule.column, wanted, array)
    reals, missing = _floats(array)
    broken = ~(np.abs(reals) <= _EXACT) | (reals != np.floor(reals))
    if broken.any():
        errors.add(rule.column, broken, "whole numbers up to 2^53", array)
        reals[broken] = 0.0
        missing = broken if missing is None else missing | broken
    return reals.astype(np.int64), missing


def real_numbers(rule: ColumnRule, array: PlainArray, errors: RowErrors, wanted: str) -> tuple[Reals, Mask | None]:
    """Returns (float64 [n] of its own memory, 0 for what is missing; what is missing). NaN and ±Inf are errors."""
    kind = array.type
    if pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise type_error(rule.column, wanted, array)
    if rule.lenient and pa.types.is_floating(array.type):
        reals, missing = _floats(array)
    else:
        missing = rule.missing(array, errors)
        reals = _values(array).astype(np.float64)
    finite = np.isfinite(reals)
    if not finite.all():
        errors.add(rule.column, ~finite, "finite numbers", array)
        reals[~finite] = 0.0
        missing = ~finite if missing is None else missing | ~finite
    return reals, missing


def type_error(column: str, wanted: str, array: PlainArray) -> SchemaError:
    """Returns the error for a column whose type is not what is `wanted`."""
    remarks = [] if not array.null_count else [f"{array.null_count} null{'s' * (array.null_count > 1)}"]
    if pa.types.is_floating(array.type) and (nan := int(np.isnan(_values(array)).sum())):
        remarks.append(f"{nan} NaN")
    return SchemaError(column=column, expected=wanted, got=clip(array.type, MOST_VALUE), remarks=tuple(remarks) or None)


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


def _of_time(transform: Transform, milliseconds: Integers) -> npt.NDArray[np.int64]:
    """Returns the hour of day (0 to 23) or the weekday (0 to 6) of unix `milliseconds`."""
    # Shift what is left of the day, not the whole value: an int64 near its end would wrap.
    days, rest = (part.astype(np.int64) for part in np.divmod(milliseconds, milliseconds.dtype.type(_DAY)))
    rest = rest + round(transform.utc_offset * _HOUR)
    if transform.op == "hour":
        return rest % _DAY // _HOUR
    return (days + rest // _DAY + _EPOCH_WEEKDAY) % 7


def _bucketize(transform: Transform, values: Reals) -> npt.NDArray[np.int64]:
    """Returns how many boundaries are at or below each value: interval i is [boundary i-1, boundary i)."""
    return np.searchsorted(np.asarray(transform.boundaries, dtype=np.float64), values, side="right")
