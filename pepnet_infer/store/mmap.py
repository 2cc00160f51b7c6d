"""The store over a bundle's own tables: files mapped, keys indexed, rows read where they lie."""

from __future__ import annotations

from collections.abc import Mapping
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
        self._closed = False
        self._files: dict[str, TableFile] = {}
        self._tables: dict[str, Table] = {}
        self._by_number: dict[int, str] = {}
        for name, path in paths.items():
            file = open_table(path, None if specs is None else specs[name])
            if file.number is not None:
                other = self._by_number.setdefault(file.number, name)
                if other != name:
                    raise BundleError(f"{path}: expected a table number of its own, got {file.number} as in {other!r}")
            self._files[name] = file
            self._tables[name] = Table(file.keys, file.rows, file.default)

    def lookup(self, table: str, keys: Keys, out: Rows) -> int:
        """Writes rows of `keys` [N] to `out` [N, dim]; see `RowSource.lookup`."""
        return self._table(table).lookup(keys, out)

    def pool(self, table: str, keys: Keys, offsets: npt.NDArray[np.int64], pooling: Pooling, out: Rows) -> int:
        """Writes pooled rows of bags to `out` [B, dim]; see `RowSource.pool`."""
        return self._table(table).pool(keys, offsets, pooling, out)

    def get_many(self, keys: Keys, dim: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Returns (rows [N, dim], found [N]); see `Store.get_many`."""
        self._check_open()
        rows, found = np.zeros((keys.size, dim), np.float32), np.zeros(keys.size, np.bool_)
        numbers = keys >> np.uint64(ID_BITS)
        for number in np.unique(numbers):
            name = self._by_number.get(int(number))
            if name is None:
                continue
            table = self._table(name)
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
        self._check_open()
        return {
            name: TableStats(
                rows=len(table),
                dim=table.dim,
                dtype=self._files[name].dtype,
                lookups=table.lookups,
                unknown=table.unknown,
                index_bytes=table.index.memory_bytes,
                file_bytes=self._files[name].bytes,
            )
            for name, table in self._tables.items()
        }

    def close(self) -> None:
        """Lets go of the tables: later calls raise StoreError, calls under way finish and keep their map alive."""
        self._closed = True
        self._tables, self._files, self._by_number = {}, {}, {}

    def __enter__(self) -> MmapStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _table(self, name: str) -> Table:
        table = self._tables.get(name)
        if table is None:
            self._check_open()
            raise StoreError(f"table: expected one of {_names(self._tables)}, got {name!r}")
        return table

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("store: expected an open one, got one that was closed")


def _names(tables: Mapping[str, object]) -> str:
    return ", ".join(sorted(tables)) or "none"
