"""The rows of one table that a delta changes or deletes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.magnitude import NUMBER
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.process.pace import Rest, no_rest
from pepnet_infer.rows.protocols import Rows
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.schema.ids import ID_BITS, Keys
from pepnet_infer.storage.mapped_file import MappedFile
from pepnet_infer.storage.tensorfile import write_tensors

_LARGEST = 1 << 20  # numbers looked at in one step
_FINITE = f"a finite number of at most {NUMBER:g}"


class DeltaRows(NamedTuple):
    """N rows, each key once, in ascending order."""

    keys: Keys  #: uint64 [N], of the table
    rows: Rows  #: float32 [N, dim]; zeros for a deletion
    versions: npt.NDArray[np.uint64]  #: [N] of the rows, not of the model: above the base's, up to the delta's
    scores: npt.NDArray[np.float32]  #: [N] the score S of each id; NaN: none
    expires: npt.NDArray[np.float64]  #: [N] Unix seconds; inf: never
    tombstones: npt.NDArray[np.uint8]  #: [N] 1: the id is gone, and the table's default row is served for it
    default: Rows | None = None  #: float32 [dim], the table's default row from here on; None: it has not changed

    def take(self, at: slice | npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> DeltaRows:
        """Returns some of the rows, in that order, without the default."""
        return DeltaRows(
            self.keys[at], self.rows[at], self.versions[at], self.scores[at], self.expires[at], self.tombstones[at]
        )

    def merged(self, other: DeltaRows) -> DeltaRows:
        """Returns the rows of both, which have no key in common."""
        both = DeltaRows.concat([self, other])
        return both.take(np.argsort(both.keys))

    @staticmethod
    def concat(parts: Sequence[DeltaRows], copy: bool = False) -> DeltaRows:
        """Returns the rows of one or more of a width, one after another, without defaults; of one alone as a copy."""
        if len(parts) == 1 and not copy:
            return parts[0]._replace(default=None)
        return DeltaRows(
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.versions for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.expires for part in parts]),
            np.concatenate([part.tombstones for part in parts]),
        )

    def check(self, where: str, base_version: int, model_version: int, spec: TableSpec | None = None) -> None:
        """Raises UpdateError unless everything is as said above; `spec` where the table is known."""
        self._check_shapes(where, spec)
        self._check_values(where, base_version, model_version, spec)

    def _is_fine(self, specs: Sequence[TableSpec], ends: Sequence[int], base_version: int, model_version: int) -> bool:
        """Whether rows of several tables, each up to its end, are as said above."""
        count = len(self.keys)
        numbers = np.repeat(np.array([spec.number for spec in specs], np.uint64), np.diff([0, *ends]))
        return bool(
            (self.keys >> np.uint64(ID_BITS) == numbers).all()
            and (count < 2 or (self.keys[1:] > self.keys[:-1]).all())
            and (count == 0 or (self.versions.min() > base_version and self.versions.max() <= model_version))
            and (self.expires > -np.inf).all()
            and not np.isinf(self.scores).any()
            and (self.tombstones <= 1).all()
            and self.rows.max(initial=0.0) <= NUMBER  # NaN is not
            and self.rows.min(initial=0.0) >= -NUMBER
        )

    def _check_shapes(self, where: str, spec: TableSpec | None) -> None:
        count = len(self.keys)
        dim = self.rows.shape[1] if self.rows.ndim == 2 else -1
        for name, dtype, shape in (
            ("keys", np.uint64, (count,)),
            ("rows", np.float32, (count, dim if spec is None else spec.dim)),
            ("versions", np.uint64, (count,)),
            ("scores", np.float32, (count,)),
            ("expires", np.float64, (count,)),
            ("tombstones", np.uint8, (count,)),
        ):
            array: npt.NDArray[np.generic] = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                got = f"{array.dtype} {list(array.shape)}"
                raise UpdateError("shape", f"{where}: {name}: expected {np.dtype(dtype)} {list(shape)}, got {got}")
        default = self.default
        if default is not None and (default.dtype != np.float32 or default.shape != (dim,)):
            got = f"{default.dtype} {list(default.shape)}"
            raise UpdateError("shape", f"{where}: default: expected float32 [{dim}], got {got}")

    def _check_values(self, where: str, base_version: int, model_version: int, spec: TableSpec | None) -> None:
        count, dim = self.rows.shape
        if self.default is not None:
            _refuse("finite", where, "default", self.default, ~(np.abs(self.default) <= NUMBER), _FINITE)
        _refuse("order", where, "keys", self.keys, self.keys[1:] <= self.keys[:-1], "ascending keys, each once")
        if spec is not None:
            other = self.keys >> np.uint64(ID_BITS) != spec.number
            _refuse("range", where, "keys", self.keys, other, f"keys of table number {spec.number}, ids below 2^48")
        old = (self.versions <= base_version) | (self.versions > model_version)
        _refuse("version", where, "versions", self.versions, old, f"{base_version + 1} to {model_version}")
        _refuse("finite", where, "expires", self.expires, ~(self.expires > -np.inf), "Unix seconds or inf")
        _refuse("finite", where, "scores", self.scores, np.isinf(self.scores), "a finite score or NaN for none")
        _refuse("tombstone", where, "tombstones", self.tombstones, self.tombstones > 1, "0 or 1")
        step = max(1, _LARGEST // max(dim, 1))
        for begin in range(0, count, step):
            part = self.rows[begin : begin + step]
            odd = ~(np.abs(part) <= NUMBER)
            if odd.any():
                row, column = np.argwhere(odd)[0]
                at = f"{where}: rows[{begin + row}, {column}]"
                raise UpdateError("finite", f"{at}: expected {_FINITE}, got {part[row, column]}")


def checked(
    tables: Sequence[tuple[str, TableSpec, DeltaRows]], base_version: int, model_version: int, rest: Rest = no_rest
) -> dict[str, DeltaRows]:
    """Returns the rows of each table, as views of arrays in which those of a width lie one after another.

    tables: (where, table, rows), in the order of the tables' numbers. Raises UpdateError, as `DeltaRows.check` of each
    would: thirty small tables take as long as a large one each, so they are looked at together.
    """
    widths: dict[int, list[tuple[str, TableSpec, DeltaRows]]] = {}
    for where, spec, rows in tables:
        rows._check_shapes(where, spec)
        if rows.default is not None:
            _refuse("finite", where, "default", rows.default, ~(np.abs(rows.default) <= NUMBER), _FINITE)
        widths.setdefault(spec.dim, []).append((where, spec, rows))
    found = {}
    for some in widths.values():
        rest()
        together = DeltaRows.concat([rows for _, _, rows in some], copy=True)
        rest()
        ends = np.cumsum([len(rows.keys) for _, _, rows in some]).tolist()
        parts = [together.take(slice(begin, end)) for begin, end in zip([0, *ends], ends, strict=False)]
        if not together._is_fine([spec for _, spec, _ in some], ends, base_version, model_version):
            for (where, spec, _), part in zip(some, parts, strict=True):
                part._check_values(where, base_version, model_version, spec)
        for (_, spec, rows), part in zip(some, parts, strict=True):
            default = None if rows.default is None else rows.default.copy()
            found[spec.name] = part._replace(default=default)
    return found


def write_rows(path: Path, rows: DeltaRows) -> None:
    """Writes the file of one table."""
    write_tensors(path, {name: array for name, array in rows._asdict().items() if array is not None})


def read_rows(path: Path, data: bytes, spec: TableSpec) -> DeltaRows:
    """Returns what `data`, the bytes of the file of one table, hold: views, not copies. Raises UpdateError."""
    try:
        file = MappedFile.over(path, data)
        wanted = set(DeltaRows._fields) - {"default"}
        if set(file.tensors) - {"default"} != wanted:
            raise UpdateError("shape", f"{path}: expected tensors {sorted(wanted)}, got {sorted(file.tensors)}")
        rows = DeltaRows(**{name: file.array(name) for name in file.tensors})
    except BundleError as error:
        raise UpdateError("files", str(error)) from error
    if rows.keys.ndim != 1:
        raise UpdateError("shape", f"{path}: keys: expected [N], got {list(rows.keys.shape)} in table {spec.name}")
    return rows


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
