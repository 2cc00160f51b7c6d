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
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.schema.ids import ID_BITS
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.storage.tensorfile import MappedFile, write_tensors

_FINITE = f"a finite number of at most {NUMBER:g}"
_TENSORS = ("keys", "rows", "versions", "scores", "expires", "tombstones")
_Place = tuple[str, TableSpec | None, int]  # where a table is, which it is, and where it ends among others


def check_rows(rows: RowBatch, where: str, base_version: int, model_version: int) -> None:
    """Raises UpdateError unless all is as said above, of a table that is not known."""
    _check_shapes(rows, where, None)
    _check_values(rows, [(where, None, len(rows.keys))], base_version, model_version)


def checked(
    tables: Sequence[tuple[str, TableSpec, RowBatch]], base_version: int, model_version: int, rest: Rest = no_rest
) -> dict[str, RowBatch]:
    """Returns the rows of each table, as views of arrays in which those of a width lie one after another.

    tables: (where, table, rows), in the order of the tables' numbers. Raises UpdateError unless all is as said above:
    thirty small tables take as long as a large one each, so they are looked at together.
    """
    widths: dict[int, list[tuple[str, TableSpec, RowBatch]]] = {}
    for where, spec, rows in tables:
        _check_shapes(rows, where, spec)
        widths.setdefault(spec.dim, []).append((where, spec, rows))
    found = {}
    for some in widths.values():
        rest()
        together = RowBatch.concat([rows for _, _, rows in some], copy=True)
        rest()
        ends = np.cumsum([len(rows.keys) for _, _, rows in some]).tolist()
        places = [(where, spec, end) for (where, spec, _), end in zip(some, ends, strict=True)]
        _check_values(together, places, base_version, model_version)
        for (_, spec, rows), begin, end in zip(some, [0, *ends], ends, strict=False):
            default = None if rows.default is None else rows.default.copy()
            found[spec.name] = replace(together.take(slice(begin, end)), default=default)
    return found


def write_rows(path: Path, rows: RowBatch) -> None:
    """Writes the file of one table."""
    tensors = {name: getattr(rows, name) for name in _TENSORS[:-1]}
    default = {} if rows.default is None else {"default": rows.default}
    write_tensors(path, {**tensors, "tombstones": (~rows.found).astype(np.uint8), **default})


def read_rows(path: Path, data: bytes, spec: TableSpec) -> RowBatch:
    """Returns what `data`, the bytes of the file of one table, hold: views, not copies. Raises UpdateError."""
    with UpdateError.in_place_of(BundleError, reason="files"):
        file = MappedFile(path, data)
        if set(file.tensors) - {"default"} != set(_TENSORS):
            raise UpdateError("shape", f"{path}: expected tensors {sorted(_TENSORS)}, got {sorted(file.tensors)}")
        tensors = {name: file.array(name) for name in file.tensors}
    keys, gone = tensors["keys"], tensors["tombstones"]
    if keys.ndim != 1:
        raise UpdateError("shape", f"{path}: keys: expected [N], got {list(keys.shape)} in table {spec.name}")
    if gone.dtype != np.uint8 or gone.shape != keys.shape:
        got = f"{gone.dtype} {list(gone.shape)}"
        raise UpdateError("shape", f"{path}: tombstones: expected uint8 {list(keys.shape)}, got {got}")
    _refuse("tombstone", [(str(path), spec, len(gone))], "tombstones", gone, gone > 1, "0 or 1")
    tensors["found"] = tensors.pop("tombstones") == 0
    return RowBatch.of(**tensors)


def _check_shapes(rows: RowBatch, where: str, spec: TableSpec | None) -> None:
    dim = rows.rows.shape[1] if rows.rows.ndim == 2 else -1
    problem = rows.misfit(len(rows.keys), dim if spec is None else spec.dim)
    if problem is not None:
        raise UpdateError("shape", f"{where}: {problem}")
    if (default := rows.default) is not None:
        _refuse("finite", [(where, spec, len(default))], "default", default, ~(np.abs(default) <= NUMBER), _FINITE)


def _check_values(rows: RowBatch, places: Sequence[_Place], base_version: int, model_version: int) -> None:
    """Raises UpdateError unless the rows of several tables, which come in the order of their numbers, can be."""
    keys, versions = rows.keys, rows.versions
    if specs := [spec for _, spec, _ in places if spec is not None]:
        counts = np.diff([0, *(end for _, _, end in places)])
        numbers = np.repeat(np.array([spec.number for spec in specs], np.uint64), counts)
        other = keys >> np.uint64(ID_BITS) != numbers
        if other.any():
            wanted = f"keys of table number {numbers[np.argmax(other)]}, ids below 2^48"
            _refuse("range", places, "keys", keys, other, wanted)
    _refuse("order", places, "keys", keys, keys[1:] <= keys[:-1], "ascending keys, each once")
    old = (versions <= base_version) | (versions > model_version)
    _refuse("version", places, "versions", versions, old, f"{base_version + 1} to {model_version}")
    _refuse("finite", places, "expires", rows.expires, ~(rows.expires > -np.inf), "Unix seconds or inf")
    _refuse("finite", places, "scores", rows.scores, np.isinf(rows.scores), "a finite score or NaN for none")
    if rows.rows.max(initial=0.0) <= NUMBER and rows.rows.min(initial=0.0) >= -NUMBER:
        return
    row, column = np.argwhere(~(np.abs(rows.rows) <= NUMBER))[0].tolist()
    where, at = _locate(row, places)
    raise UpdateError("finite", f"{where}: rows[{at}, {column}]: expected {_FINITE}, got {rows.rows[row, column]}")


def _refuse(
    reason: str,
    places: Sequence[_Place],
    name: str,
    values: npt.NDArray[np.generic],
    bad: npt.NDArray[np.bool_],
    expected: str,
) -> None:
    if bad.any():
        first = int(np.argmax(bad))
        where, at = _locate(first, places)
        raise UpdateError(reason, f"{where}: {name}[{at}]: expected {expected}, got {values[first]}")


def _locate(row: int, places: Sequence[_Place]) -> tuple[str, int]:
    """Returns where a row of several tables is, and its place there."""
    ends = [end for _, _, end in places]
    table = int(np.searchsorted(ends, row, side="right"))
    return places[table][0], row - (ends[table - 1] if table else 0)
