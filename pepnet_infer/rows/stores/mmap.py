"""The store over a bundle's own tables: files mapped, keys indexed, rows read where they lie."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from pepnet_infer._kernels import Table, all_as_mapped
from pepnet_infer.bundle.table_file import TableFile, open_table
from pepnet_infer.errors import BundleError, StoreError
from pepnet_infer.process.closing import Closing
from pepnet_infer.rows.protocols import NO_DEFAULTS, DefaultCounts, RowRequest, RowSource
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.schema.ids import ID_BITS, Keys
from pepnet_infer.schema.row_batch import RowBatch

_LOG = logging.getLogger("pepnet_infer.stores")


@dataclass(frozen=True)
class _Tables:
    """What an open store holds. A call takes it once and keeps it: closing does not pull it from under the call."""

    files: dict[str, TableFile] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    by_number: dict[int, str] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)  # tables of which the log has it that they were changed

    def __getitem__(self, name: str) -> Table:
        table = self.tables.get(name)
        if table is None:
            raise StoreError(f"table: expected one of {_names(self.tables)}, got {name!r}")
        return table

    def check(self, names: Collection[str]) -> None:
        """Raises StoreError when what was read of these tables may not be what their files held at first."""
        if all_as_mapped([found for name in names if (found := self.files[name].file.map) is not None]):
            return
        for name in names:
            try:
                self.files[name].file.check(self.hashes.get(name))
            except StoreError as error:
                if name not in self.said:
                    self.said.add(name)
                    _LOG.warning("%s", error)
                raise

    def fetch(self, number: int, keys: Keys, got: RowBatch) -> RowBatch:
        """Fills in what the table of this number has of `keys`; nothing where no table has the number."""
        name = self.by_number.get(number)
        if name is None:
            return got
        table, dim = self.tables[name], got.rows.shape[1]
        if table.dim != dim:
            there = table.index.find(keys) >= 0
            return replace(got, damaged=there) if there.any() else got
        if table.lookup(keys, got.rows, got.found):
            got.rows[~got.found] = 0
        got.scores[got.found] = self.files[name].scores[table.index.find(keys[got.found])]
        return got


class MmapStore(RowSource, Closing):
    """A `RowSource` and a `Store` over table files. Any thread may ask at any time.

    Files are mapped once, here: a bundle that is replaced by rename while this store serves changes nothing. Of a file
    that is cut or written in place nothing more is served: from then on its rows are a StoreError, and once a warning.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        specs: Mapping[str, TableSpec] | None = None,
        known_as: str | None = None,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        """Opens `paths` (table name → file). `specs`, by the same names, adds the widths and numbers to expect.

        `known_as`: what `identity` returns, such as a hash of the files that somebody has checked. `hashes`: the
        SHA-256 of each file, see `MappedFile.check`.

        Reads every key once to index it (about 19 bytes a key of memory). Raises BundleError for a file that is not
        a table, StoreError when paths and specs do not name the same tables.
        """
        if specs is not None and set(specs) != set(paths):
            raise StoreError(f"tables: expected files for {_names(specs)}, got {_names(paths)}")
        held = _Tables(hashes=hashes or {})
        for name, path in paths.items():
            file = open_table(path, None if specs is None else specs[name])
            if file.number is not None:
                other = held.by_number.setdefault(file.number, name)
                if other != name:
                    raise BundleError(f"{path}: expected a table number of its own, got {file.number} as in {other!r}")
            held.files[name] = file
            held.tables[name] = Table(file.keys, file.rows, file.default)
        self._held: _Tables | None = held
        self._known_as = known_as

    def identity(self) -> str | None:
        """Returns what tells the rows from others, where it was given; see `Identified`."""
        return self._known_as

    def answer(self, requests: Sequence[RowRequest]) -> list[DefaultCounts]:
        """Does all requests of a batch; see `RowSource.answer`."""
        held, counts = self._open(), []
        for table, keys, out, offsets, pooling in (request[1:] for request in requests):
            rows = held[table]
            unknown = rows.lookup(keys, out) if offsets is None else rows.pool(keys, offsets, pooling, out)
            counts.append(DefaultCounts(unknown, 0) if unknown else NO_DEFAULTS)
        held.check({request.table for request in requests})
        return counts

    def check_reachable(self) -> None:
        """Raises StoreError when a file was changed in place since it was opened, and what was read may be wrong."""
        held = self._open()
        held.check(held.files)

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns rows and scores of what is there, all of version 0 and without expiry; see `Store.get_many`."""
        held = self._open()
        got = RowBatch.nothing(keys.size, dim)
        if keys.size == 0:
            return got
        first, last = int(keys.min()) >> ID_BITS, int(keys.max()) >> ID_BITS
        if first == last:
            asked, got = [first], held.fetch(first, keys, got)
        else:  # each table is asked once
            numbers = (keys >> np.uint64(ID_BITS)).astype(np.uint16)
            asked = np.unique(numbers).tolist()
            for number in asked:
                at = np.flatnonzero(numbers == number)
                got = got.put(at, held.fetch(number, keys[at], RowBatch.nothing(at.size, dim)))
        held.check([held.by_number[number] for number in asked if number in held.by_number])
        return got

    @property
    def files(self) -> Mapping[str, TableFile]:
        """Table name → what its file holds: keys, scores and rows where they lie in it, and the default row."""
        return MappingProxyType(self._open().files)

    def close(self) -> None:
        """Lets go of the tables: later calls raise StoreError, calls under way finish and keep their maps alive."""
        self._held = None

    def _open(self) -> _Tables:
        held = self._held
        if held is None:
            raise StoreError("store: expected an open one, got one that was closed")
        return held


def _names(tables: Mapping[str, object]) -> str:
    return ", ".join(sorted(tables)) or "none"
