"""Traces of accesses: which id, and where it is known, when and to what end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.ids import Keys


@dataclass(frozen=True)
class Trace:
    """N accesses in order.

    keys uint64 [N]; time float64 [N], seconds that never go back, or None; positive bool [N], whether the sample the
    access belongs to was a positive one, or None; distinct: how many different keys there are.
    """

    name: str
    keys: Keys
    time: npt.NDArray[np.float64] | None
    positive: npt.NDArray[np.bool_] | None
    distinct: int


def read_trace(path: Path) -> Trace:
    """Reads a parquet file with an integer column `key` and, if it has them, `time` and `positive`.

    Raises SchemaError naming the column for a file that is none, a missing key, nulls, NaN, or a time that goes back.
    """
    try:
        with open(path, "rb") as file:  # of a path Arrow reads columns from folders' names too
            table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise SchemaError(f"{path}: expected a parquet file, got {error}") from error
    names = table.column_names
    if "key" not in names:
        raise SchemaError(f"{path}: expected a column 'key', got {', '.join(names) or 'no columns'}")
    for name in ("key", "time", "positive"):
        if name in names and table[name].null_count:
            raise SchemaError(f"{path}: column {name!r}: expected no nulls, got {table[name].null_count}")
    if table.num_rows == 0:
        raise SchemaError(f"{path}: expected accesses, got none")
    if not pa.types.is_integer(table["key"].type):
        raise SchemaError(f"{path}: column 'key': expected integers, got {table['key'].type}")
    keys = np.ascontiguousarray(table["key"].to_numpy().astype(np.uint64))
    return Trace(
        path.name,
        keys,
        _times(path, table) if "time" in names else None,
        _positives(path, table) if "positive" in names else None,
        len(np.unique(keys)),
    )


def _times(path: Path, table: pa.Table) -> npt.NDArray[np.float64]:
    kind = table["time"].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise SchemaError(f"{path}: column 'time': expected seconds, got {kind}")
    times = table["time"].to_numpy().astype(np.float64)
    if not np.isfinite(times).all():
        raise SchemaError(f"{path}: column 'time': expected finite seconds, got NaN or infinity")
    back = np.flatnonzero(np.diff(times) < 0)
    if back.size:
        raise SchemaError(f"{path}: column 'time': expected seconds that never go back, got less at row {back[0] + 1}")
    return times


def _positives(path: Path, table: pa.Table) -> npt.NDArray[np.bool_]:
    kind = table["positive"].type
    if not pa.types.is_boolean(kind):
        raise SchemaError(f"{path}: column 'positive': expected bool, got {kind}")
    return np.ascontiguousarray(table["positive"].combine_chunks().to_numpy(zero_copy_only=False))
