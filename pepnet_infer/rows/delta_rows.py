"""The rows of one table that a delta changes or deletes: their file, and what is checked of them.

A batch with the keys of one table, each once and ascending. A key that is not found is deleted: the table's default row
is served for it. Versions are of the rows, not of the model: above the base's, up to the delta's. `default` is the
table's default row from here on; None: it has not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.magnitude import NUMBER
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.process.pace import Rest, no_rest
from pepnet_infer.rows.protocols import Rows
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.schema.ids import ID_BITS, Keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.storage.mapped_file import MappedFile
from pepnet_infer.storage.tensorfile import write_tensors

_LARGEST = 1 << 20  # numbers looked at in one step
_FINITE = f"a finite number of at most {NUMBER:g}"
_TENSORS = ("keys", "rows", "versions", "scores", "expires", "tombstones")


def delta_rows(
    keys: Keys,
    rows: Rows,
    versions: npt.NDArray[np.uint64],
    scores: npt.NDArray[np.float32],
    expires: npt.NDArray[np.float64],
    tombstones: npt.NDArray[np.uint8],
    default: Rows | None = None,
) -> RowBatch:
    """Returns a batch of the tensors that a delta's file has of a table; tombstones uint8 [N]: 1 is a deletion."""
    return RowBatch(rows, tombstones == 0, versions, scores, expires, None, keys, default)


def check_rows(
    rows: RowBatch, where: str, base_version: int, model_version: int, spec: TableSpec | None = None
) -> None:
    """Raises UpdateError unless all is as said above, `spec` being the table where it is known."""
    _check_shapes(rows, where, spec)
    _check_values(rows, where, base_version, model_version, spec)


def checked(
    tables: Sequence[tuple[str, TableSpec, RowBatch]], base_version: int, model_version: int, rest: Rest = no_rest
) -> dict[str, RowBatch]:
    """Returns the rows of each table, as views of arrays in which those of a width lie one after another.

    tables: (where, table, rows), in the order of the tables' numbers. Raises UpdateError, as `check_rows` of each
    would: thirty small tables take as long as a large one each, so they are looked at together.
    """
    widths: dict[int, list[tuple[str, TableSpec, RowBatch]]] = {}
    for where, spec, rows in tables:
        _check_shapes(rows, where, spec)
        _check_default(rows, where)
        widths.setdefault(spec.dim, []).append((where, spec, rows))
    found = {}
    for some in widths.values():
        rest()
        together = RowBatch.concat([rows for _, _, rows in some], copy=True)
        rest()
        ends = np.cumsum([len(rows.keys) for _, _, rows in some]).tolist()
        parts = [together.take(slice(begin, end)) for begin, end in zip([0, *ends], ends, strict=False)]
        if not _are_fine(together, [spec for _, spec, _ in some], ends, base_version, model_version):
            for (where, spec, _), part in zip(some, parts, strict=True):
                _check_values(part, where, base_version, model_version, spec)
        for (_, spec, rows), part in zip(some, parts, strict=True):
            found[spec.name] = replace(part, default=None if rows.default is None else rows.default.copy())
    return found


def write_rows(path: Path, rows: RowBatch) -> None:
    """Writes the file of one table."""
    tensors = {name: getattr(rows, name) for name in _TENSORS[:-1]}
    default = {} if rows.default is None else {"default": rows.default}
    write_tensors(path, {**tensors, "tombstones": (~rows.found).astype(np.uint8), **default})


def read_rows(path: Path, data: bytes, spec: TableSpec) -> RowBatch:
    """Returns what `data`, the bytes of the file of one table, hold: views, not copies. Raises UpdateError."""
    try:
        file = MappedFile.over(path, data)
        if set(file.tensors) - {"default"} != set(_TENSORS):
            raise UpdateError("shape", f"{path}: expected tensors {sorted(_TENSORS)}, got {sorted(file.tensors)}")
        tensors = {name: file.array(name) for name in file.tensors}
    except BundleError as error:
        raise UpdateError.of(error, reason="files") from error
    keys, gone = tensors["keys"], tensors["tombstones"]
    if keys.ndim != 1:
        raise UpdateError("shape", f"{path}: keys: expected [N], got {list(keys.shape)} in table {spec.name}")
    if gone.dtype != np.uint8 or gone.shape != keys.shape:
        got = f"{gone.dtype} {list(gone.shape)}"
        raise UpdateError("shape", f"{path}: tombstones: expected uint8 {list(keys.shape)}, got {got}")
    _refuse("tombstone", str(path), "tombstones", gone, gone > 1, "0 or 1")
    return delta_rows(**tensors)


def _are_fine(
    rows: RowBatch, specs: Sequence[TableSpec], ends: Sequence[int], base_version: int, model_version: int
) -> bool:
    """Whether rows of several tables, each up to its end, are as said above."""
    count = len(rows.keys)
    numbers = np.repeat(np.array([spec.number for spec in specs], np.uint64), np.diff([0, *ends]))
    return bool(
        (rows.keys >> np.uint64(ID_BITS) == numbers).all()
        and (count < 2 or (rows.keys[1:] > rows.keys[:-1]).all())
        and (count == 0 or (rows.versions.min() > base_version and rows.versions.max() <= model_version))
        and (rows.expires > -np.inf).all()
        and not np.isinf(rows.scores).any()
        and rows.rows.max(initial=0.0) <= NUMBER  # NaN is not
        and rows.rows.min(initial=0.0) >= -NUMBER
    )


def _check_shapes(rows: RowBatch, where: str, spec: TableSpec | None) -> None:
    dim = rows.rows.shape[1] if rows.rows.ndim == 2 else -1
    problem = rows.misfit(len(rows.keys), dim if spec is None else spec.dim)
    if problem is not None:
        raise UpdateError("shape", f"{where}: {problem}")


def _check_default(rows: RowBatch, where: str) -> None:
    if rows.default is not None:
        _refuse("finite", where, "default", rows.default, ~(np.abs(rows.default) <= NUMBER), _FINITE)


def _check_values(rows: RowBatch, where: str, base_version: int, model_version: int, spec: TableSpec | None) -> None:
    count, dim = rows.rows.shape
    _check_default(rows, where)
    _refuse("order", where, "keys", rows.keys, rows.keys[1:] <= rows.keys[:-1], "ascending keys, each once")
    if spec is not None:
        other = rows.keys >> np.uint64(ID_BITS) != spec.number
        _refuse("range", where, "keys", rows.keys, other, f"keys of table number {spec.number}, ids below 2^48")
    old = (rows.versions <= base_version) | (rows.versions > model_version)
    _refuse("version", where, "versions", rows.versions, old, f"{base_version + 1} to {model_version}")
    _refuse("finite", where, "expires", rows.expires, ~(rows.expires > -np.inf), "Unix seconds or inf")
    _refuse("finite", where, "scores", rows.scores, np.isinf(rows.scores), "a finite score or NaN for none")
    step = max(1, _LARGEST // max(dim, 1))
    for begin in range(0, count, step):
        part = rows.rows[begin : begin + step]
        odd = ~(np.abs(part) <= NUMBER)
        if odd.any():
            row, column = np.argwhere(odd)[0]
            at = f"{where}: rows[{begin + row}, {column}]"
            raise UpdateError("finite", f"{at}: expected {_FINITE}, got {part[row, column]}")


def _refuse(
    reason: str,
    where: str,
    name: str,
    values: npt.NDArray[np.generic],
    bad: npt.NDArray[np.bool_],
    expected: str,
) -> None:
    if bad.any():
        at = int(np.argmax(bad))
        raise UpdateError(reason, f"{where}: {name}[{at}]: expected {expected}, got {values[at]}")
