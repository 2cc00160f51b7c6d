"""Traces of accesses: which id, and where it is known, when and to what end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.ids import Keys

#: Column → what it holds, which Arrow types that is, and the type it is read as.
_COLUMNS: dict[str, tuple[str, Callable[[pa.DataType], bool], type]] = {
    "key": ("integers", pa.types.is_integer, np.uint64),
    "time": ("seconds", lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind), np.float64),
    "positive": ("bool", pa.types.is_boolean, np.bool_),
}


@dataclass(frozen=True)
class Trace:
    """N accesses in order.

    keys uint64 [N]; time float64 [N], seconds that never go back, or None; positive bool [N], whether the sample that
    the access belongs to was a positive one, or None.
    """

    name: str
    keys: Keys
    time: npt.NDArray[np.float64] | None = None
    positive: npt.NDArray[np.bool_] | None = None


def read_trace(path: Path) -> Trace:
    """Reads a parquet file with an integer column `key` and, if it has them, `time` and `positive`.

    Raises SchemaError naming the column for a file that is none, a missing key, nulls, NaN, or a time that goes back.
    """
    try:
        with open(path, "rb") as file:  # of a path Arrow reads columns from folders' names too
            table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise SchemaError(f"expected a parquet file, got {error}", file=path) from error
    if "key" not in table.column_names:
        got = ", ".join(table.column_names) or "no columns"
        raise SchemaError(expected="a column 'key'", got=got, file=path)
    if table.num_rows == 0:
        raise SchemaError(expected="accesses", got="none", file=path)
    columns = {name: _column(path, name, table[name]) for name in _COLUMNS if name in table.column_names}
    if (time := columns.get("time")) is not None:
        if not np.isfinite(time).all():
            raise SchemaError(expected="finite seconds", got="NaN or infinity", file=path, column="time")
        if (back := np.flatnonzero(np.diff(time) < 0)).size:
            expected = "seconds that never go back"
            raise SchemaError(expected=expected, got="less", file=path, column="time", row=int(back[0]) + 1)
    return Trace(path.name, columns["key"], time, columns.get("positive"))


def _column(path: Path, name: str, values: pa.ChunkedArray[Any]) -> npt.NDArray[Any]:
    holds, is_kind, kind = _COLUMNS[name]
    if not is_kind(values.type):
        raise SchemaError(expected=holds, got=str(values.type), file=path, column=name)
    if values.null_count:
        raise SchemaError(expected="no nulls", got=str(values.null_count), file=path, column=name)
    return np.ascontiguousarray(values.to_numpy().astype(kind))
