"""The store over a bundle's own tables: files mapped, keys indexed, rows read where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import Table
from pepnet_infer.errors import BundleError, StoreError
from pepnet_infer.ids import ID_BITS, Keys
from pepnet_infer.schema import TableSpec
from pepnet_infer.store import Pooling, Rows, TableStats
from pepnet_infer.store.table_file import TableFile, open_table


@dataclass(frozen=True)
class _Tables:
    """What an open store holds. A call takes it once and keeps it: closing does not pull it from under the call."""

    files: dict[str, TableFile] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    by_number: dict[int, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Table:
        table = self.tables.get(name)
        if table is None:
            raise StoreError(f"table: expected one of {_names(self.tables)}, got {name!r}")
        return table


class MmapStore:
    """A `RowSource` and a `Store` over table files. Any thread may ask at any time.

    Files are mapped once, here: a bundle that is replaced on disk while this store serves changes nothing.
    """

    def __init__(self, paths: Mapping[str, Path], specs: Mapping[str, TableSpec] | None = None) -> None:
        """Opens `paths` (table name → file). `specs`, by the same names, adds the widths and numbers to expect.

        Reads every key once to index it (about 19 bytes a key of memory). Raises BundleError for a file that is not
        a table, StoreError when paths and specs do not name the same tables.
        """
        if specs is not None and set(specs) != set(paths):
            raise StoreError(f"tables: expected files for {_names(specs)}, got {_names(paths)}")
        held = _Tables()
        for name, path in paths.items():
            file = open_table(path, None if specs is None else specs[name])
            if file.number is not None:
                other = held.by_number.setdefault(file.number, name)
                if other != name:
                    raise BundleError(f"{path}: expected a table number of its own, got {file.number} as in {other!r}")
            held.files[name] = file
            held.tables[name] = Table(file.keys, file.rows, file.default)
        self._held: _Tables | None = held

    def lookup(self, table: str, keys: Keys, out: Rows) -> int:
        """Writes rows of `keys` [N] to `out` [N, dim]; see `RowSource.lookup`."""
        return self._open()[table].lookup(keys, out)

    def pool(self, table: str, keys: Keys, offsets: npt.NDArray[np.int64], pooling: Pooling, out: Rows) -> int:
        """Writes pooled rows of bags to `out` [B, dim]; see `RowSource.pool`."""
        return self._open()[table].pool(keys, offsets, pooling, out)

    def get_many(self, keys: Keys, dim: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Returns (rows [N, dim], found [N]); see `Store.get_many`."""
        held = self._open()
        rows, found = np.zeros((keys.size, dim), np.float32), np.zeros(keys.size, np.bool_)
        numbers = keys >> np.uint64(ID_BITS)
        for number in np.unique(numbers):
            name = held.by_number.get(int(number))
            if name is None:
                continue
            table = held[name]
            if table.dim != dim:
                raise StoreError(f"keys: expected tables of width {dim}, got a key of {name!r} of width {table.dim}")
            at = np.flatnonzero(numbers == number)
            some = np.empty((at.size, dim), np.float32)
            some_found = np.empty(at.size, np.bool_)
            table.lookup(keys[at], some, some_found)
            rows[at], found[at] = some, some_found
        return rows, found

    def stats(self) -> dict[str, TableStats]:
        """Returns what each table is and was asked. Counters are read as they stand, without stopping anyone."""
        held = self._open()
        return {
            name: TableStats(
                rows=len(table),
                dim=table.dim,
                dtype=held.files[name].dtype,
                lookups=table.lookups,
                unknown=table.unknown,
                index_bytes=table.index.memory_bytes,
                file_bytes=held.files[name].bytes,
            )
            for name, table in held.tables.items()
        }

    def close(self) -> None:
        """Lets go of the tables: later calls raise StoreError, calls under way finish and keep their maps alive."""
        self._held = None

    def __enter__(self) -> MmapStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> _Tables:
        held = self._held
        if held is None:
            raise StoreError("store: expected an open one, got one that was closed")
        return held


def _names(tables: Mapping[str, object]) -> str:
    return ", ".join(sorted(tables)) or "none"
