"""What the tables of a bundle are, and whether every number in them can be served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.errors import BundleError
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.storage.tensorfile import Array, from_bfloat16

_CHUNK = 1 << 20  # numbers looked at in one step, so that memory stays small whatever the table's size


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
    return TableInfo(file.keys.size, spec.dim, file.dtype, file.bytes, largest)


def _largest(path: Path, rows: Array, bfloat16: bool) -> npt.NDArray[np.float64]:
    """Returns the largest magnitude in each column. Raises BundleError for a row that is not finite."""
    largest = np.zeros(rows.shape[1])
    step = max(1, _CHUNK // rows.shape[1])
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        values = from_bfloat16(part) if bfloat16 else part
        here = np.maximum(values.max(axis=0), -values.min(axis=0))  # NaN where any is
        if not np.isfinite(here).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise BundleError(f"rows[{at + row}, {column}]: expected a finite number, got NaN or infinity", file=path)
        largest = np.maximum(largest, here)
    return largest
