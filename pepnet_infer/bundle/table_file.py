"""`tables/NAME.safetensors`: opened with the checks that cost no pass over the rows, or checked in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import BundleError
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.schema.ids import ID_BITS, Keys
from pepnet_infer.schema.row_batch import Mask, Positions, RowBatch
from pepnet_infer.storage.tensorfile import Array, MappedFile, TensorInfo, from_bfloat16
from pepnet_infer.validation import untrusted

#: safetensors dtype of `rows` → its name in reports.
ROW_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NAMES = ("keys", "rows", "scores", "default")
_NUMBERS = 1 << 18  # checked in one step: the check's own memory stays small


@dataclass(frozen=True)
class TableFile:
    """The arrays of a table, none to be written to: maps of the file, except `default`, which is copied."""

    keys: Keys  # [N] ascending, distinct, all of one table number
    rows: Array  # [N, dim] float32, float16, or uint16 holding bfloat16
    scores: npt.NDArray[np.float32]  # [N]
    default: npt.NDArray[np.float32]  # [dim]
    dtype: str  # float32, float16 or bfloat16
    number: int | None  # the table's number; None for a table of no rows whose spec is not known
    file: MappedFile  # `check` it after reading

    def take(self, at: slice | Positions | Mask) -> RowBatch:
        """Returns copies of some rows as float32, with their keys and scores. `default` is left out."""
        rows = self.rows[at]
        wide = from_bfloat16(rows) if self.dtype == "bfloat16" else rows.astype(np.float32)
        return RowBatch.of(wide, keys=np.array(self.keys[at]), scores=np.array(self.scores[at]))


def open_table(path: Path, spec: TableSpec | None = None) -> TableFile:
    """Maps a table. `spec` adds the expected width and table number. Raises BundleError with what is off, and where.

    Keys, scores and the default row are read and checked. Values of rows are not: that would read the whole file, and
    the bundle's hashes cover it.
    """
    with untrusted(path, BundleError):
        file = MappedFile(path)
        if set(file.tensors) != set(_NAMES):
            got = ", ".join(sorted(file.tensors)) or "none"
            raise BundleError(f"expected tensors {', '.join(_NAMES)}, got {got}", file=path)
        _check_shapes(path, file.tensors, spec)
        keys, scores, default = file.array("keys"), file.array("scores"), file.array("default").copy()
        default.flags.writeable = False  # it is served
        number = _check_keys(path, keys, spec)
        for name, values in (("scores", scores), ("default", default)):
            row = _first_bad(np.isfinite, values)
            if row is not None:
                raise BundleError(f"{name}[{row}]: expected a finite number, got {values[row]}", file=path)
        file.check(error=BundleError)
        dtype = ROW_DTYPES[file.tensors["rows"].dtype]
        return TableFile(keys, file.array("rows"), scores, default, dtype, number, file)


def _check_shapes(path: Path, tensors: dict[str, TensorInfo], spec: TableSpec | None) -> None:
    keys, rows = tensors["keys"], tensors["rows"]
    if rows.dtype not in ROW_DTYPES:
        raise BundleError(f"rows: expected one of {', '.join(ROW_DTYPES)}, got {_show(rows)}", file=path)
    count = keys.shape[0] if len(keys.shape) == 1 else "N"
    dim = spec.dim if spec is not None else rows.shape[1] if len(rows.shape) == 2 and rows.shape[1] > 0 else "dim"
    for name, dtype, shape in (
        ("keys", "U64", (count,)),
        ("rows", rows.dtype, (count, dim)),
        ("scores", "F32", (count,)),
        ("default", "F32", (dim,)),
    ):
        got = tensors[name]
        if got.dtype != dtype or got.shape != shape:
            raise BundleError(f"{name}: expected {dtype} [{', '.join(map(str, shape))}], got {_show(got)}", file=path)


def _check_keys(path: Path, keys: Keys, spec: TableSpec | None) -> int | None:
    if keys.size == 0:
        return None if spec is None else spec.number
    before, after = keys[:-1], keys[1:]
    row = _first_bad(np.greater, after, before)
    if row is not None:
        got = f"{after[row]} after {before[row]} at row {row + 1}"
        raise BundleError(f"keys: expected ascending, distinct keys, got {got}", file=path)
    number = int(keys[0]) >> ID_BITS
    wanted = number if spec is None else spec.number
    for row in (0, keys.size - 1):  # ascending: the ends bound the rest
        if (other := int(keys[row]) >> ID_BITS) != wanted:
            got = f"{other} in key {keys[row]} at row {row}"
            raise BundleError(f"keys: expected table number {wanted}, got {got}", file=path)
    return number


def _first_bad(good: Callable[..., Mask], *arrays: Array) -> int | None:
    """Returns the first place of arrays of one length that is not `good`, None where all are."""
    for at in range(0, len(arrays[0]), _NUMBERS):
        there = good(*(array[at : at + _NUMBERS] for array in arrays))
        if not there.all():
            return at + int(np.argmin(there))
    return None


def _show(info: TensorInfo) -> str:
    return f"{info.dtype} {list(info.shape)}"


@dataclass(frozen=True)
class TableInfo:
    """One table file."""

    rows: int
    dim: int
    dtype: str  # of the rows: float32, float16 or bfloat16
    bytes: int  # of the file
    #: the largest magnitude in each column [dim] of the rows and of the default row; None where they were not looked at
    largest: npt.NDArray[np.float64] | None = None


def check_table(path: Path, spec: TableSpec, values: bool) -> TableInfo:
    """Checks a table against `spec` as the store does, with `values` also that all rows are finite.

    Raises BundleError.
    """
    file = open_table(path, spec)
    largest = None
    if values:
        largest = np.maximum(_largest(path, file.rows, file.dtype == "bfloat16"), np.abs(file.default))
        file.file.check(error=BundleError)
    return TableInfo(file.keys.size, spec.dim, file.dtype, file.file.bytes, largest)


def _largest(path: Path, rows: Array, bfloat16: bool) -> npt.NDArray[np.float64]:
    """Returns the largest magnitude in each column. Raises BundleError for a row that is not finite."""
    largest = np.zeros(rows.shape[1])
    step = max(1, _NUMBERS // rows.shape[1])
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        values = from_bfloat16(part) if bfloat16 else part
        here = np.maximum(values.max(axis=0), -values.min(axis=0))  # NaN where any is
        if not np.isfinite(here).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise BundleError(f"rows[{at + row}, {column}]: expected a finite number, got NaN or infinity", file=path)
        largest = np.maximum(largest, here)
    return largest
