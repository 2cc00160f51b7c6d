"""What the tables of a bundle are, and whether every number in them can be served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pepnet_infer.errors import BundleError
from pepnet_infer.schema import TableSpec
from pepnet_infer.store.table_file import open_table
from pepnet_infer.tensorfile import Array, from_bfloat16

_CHUNK = 1 << 20  # numbers looked at in one step, so that memory stays small whatever the table's size


@dataclass(frozen=True)
class TableInfo:
    """One table file."""

    rows: int
    dim: int
    dtype: str  # of the rows: float32, float16 or bfloat16
    bytes: int  # of the file


def check_table(path: Path, spec: TableSpec, values: bool) -> TableInfo:
    """Checks a table against `spec` as the store does, with `values` also that all rows are finite.

    Raises BundleError.
    """
    file = open_table(path, spec)
    if values:
        _check_finite(path, file.rows, file.dtype == "bfloat16")
    return TableInfo(file.keys.size, spec.dim, file.dtype, file.bytes)


def _check_finite(path: Path, rows: Array, bfloat16: bool) -> None:
    step = max(1, _CHUNK // rows.shape[1])
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        finite = np.isfinite(from_bfloat16(part) if bfloat16 else part)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise BundleError(f"{path}: rows[{at + row}, {column}]: expected a finite number, got NaN or infinity")
