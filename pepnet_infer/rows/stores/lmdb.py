"""A writable store in a file of this machine, for ids that outgrow memory: LMDB (package `lmdb`, extra `[lmdb]`)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import structs

from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.errors import StoreError
from pepnet_infer.process import forks
from pepnet_infer.process.closing import Closing
from pepnet_infer.rows.protocols import Rows
from pepnet_infer.rows.stores.fill_store import fill_from
from pepnet_infer.rows.stores.lmdb_env import LmdbEnv, OpenOptions
from pepnet_infer.rows.stores.record import (
    REMEMBER,
    Remember,
    RowDtype,
    decode,
    encode_deletions,
    encode_rows,
    read_states,
)
from pepnet_infer.rows.stores.write_batch import check_deletion, check_keys, checked_batch, rounds
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import Positions, RowBatch
from pepnet_infer.storage.local_path import check_local
from pepnet_infer.validation import check_option

if TYPE_CHECKING:
    import lmdb

_ROWS, _DEFAULTS = b"rows", b"defaults"
_PURGE = 1 << 14  # keys looked at in one transaction


class LmdbStore(Closing):
    """A `WritableStore`. Any number of threads and processes read while one writes; readers never wait for it.

    Keys are the 8 bytes of the number, the largest first, so that a table's rows lie together; values are laid out in
    `record.py`. A process may open a path once. A forked child may use its parent's store, which is opened anew there.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: RowDtype = "float32",
        readonly: bool = False,
        map_bytes: int = 1 << 30,
        durable: bool = True,
        max_readers: int = 126,
        remember: float = REMEMBER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens, and unless `readonly` creates, the directory `path`.

        `dtype`: of rows that are written; rows are read as they were written. `map_bytes`: how large the file may be,
        to begin with: it is doubled when it is full. `durable`: whether a write is on the disk when it returns;
        without, a crash of the machine (not of a process) can cost the file. `max_readers`: read transactions at a
        time, of all processes. `remember`: seconds for which deletions and expired rows keep their version.
        Raises StoreError, ConfigError for an option.
        """
        check_option("dtype", dtype, RowDtype)
        check_option("remember", remember, Remember)
        try:
            import lmdb
        except ImportError as error:
            raise StoreError(f"{path}: expected the package lmdb (extra [lmdb]), got: {error}") from error
        check_local(path, "a local directory", StoreError)
        self.path, self.dtype = Path(os.path.abspath(path)), dtype
        self.damaged = 0  # values read that were damaged, and so not found
        self._remember, self._clock = remember, clock
        self._counting = threading.Lock()
        options = OpenOptions(readonly, map_bytes, durable, max_readers)
        self._env = LmdbEnv(lmdb, self.path, options, (_ROWS, _DEFAULTS))
        forks.register(forks.Stage.STORES, child=self._reset_after_fork)

    def __reduce__(self) -> tuple[object, ...]:
        """A store pickles as what it was opened with: who unpickles it, in a process of its own, opens it."""
        given = {**structs.asdict(self._env.options), "dtype": self.dtype, "remember": self._remember}
        return partial(LmdbStore, self.path, clock=self._clock, **given), ()

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns what is there of `keys` [N], as of one moment; see `Store.get_many`.

        A damaged value, or one of another width, is not found, and counted in `damaged`.
        """
        check_keys(keys)
        order = np.argsort(keys, kind="stable")  # neighbours share pages
        sorted_keys = keys[order]
        names = _names(sorted_keys)

        def read(txn: lmdb.Transaction[bytes]) -> list[bytes | None]:
            return list(map(txn.get, names))

        values = self._env.read(read)
        sorted_got, damaged = decode(sorted_keys, values, dim, self._clock(), self._remember)
        if damaged.any():
            with self._counting:
                self.damaged += int(damaged.sum())
        return RowBatch.nothing(keys.size, dim).put(order, sorted_got)

    def put_many(
        self,
        keys: Keys,
        rows: Rows,
        versions: npt.NDArray[np.uint64],
        scores: npt.NDArray[np.float32] | None = None,
        expires: npt.NDArray[np.float64] | None = None,
    ) -> int:
        """Writes rows [N, dim] that are newer, all of them or, when it raises, none; see `WritableStore.put_many`."""
        batch = checked_batch(keys, rows, versions, scores, expires)

        def encode(at: Positions) -> list[bytes]:
            return encode_rows(batch.take(at), self.dtype)

        return self._apply(keys, versions, encode, rows.shape[1])

    def delete_many(self, keys: Keys, versions: npt.NDArray[np.uint64]) -> int:
        """Deletes what is older, all of it or, when it raises, nothing; see `WritableStore.delete_many`."""
        check_deletion(keys, versions)

        def encode(at: Positions) -> list[bytes]:
            return encode_deletions(keys[at], versions[at], self._clock())

        return self._apply(keys, versions, encode, None)

    def import_tables(
        self,
        paths: Mapping[str, Path],
        specs: Mapping[str, TableSpec] | None = None,
        *,
        version: int = 0,
    ) -> int:
        """Puts the rows of table files, as `fill_from` does, and their default rows. Returns how many were applied."""
        defaults = {n: open_table(p, None if specs is None else specs[n]).default for n, p in paths.items()}

        def write(txn: lmdb.Transaction[bytes]) -> None:
            for name, row in defaults.items():
                txn.put(name.encode(), row.astype("<f4").tobytes(), db=self._env.databases[1])

        self._env.write(write, sum(row.nbytes for row in defaults.values()))
        return fill_from(self, paths, specs, version=version)

    def default_row(self, table: str) -> npt.NDArray[np.float32]:
        """Returns the default row [dim] of an imported table. Raises StoreError when there is none of that name."""

        def read(txn: lmdb.Transaction[bytes]) -> tuple[bytes | None, list[str]]:
            held = txn.get(table.encode())
            if held is not None:
                return held, []
            return None, [bytes(name).decode() for name in txn.cursor().iternext(values=False)]

        held, names = self._env.read(read, database=1)
        if held is None:
            raise StoreError(f"{self.path}: table: expected one of {', '.join(names) or 'none'}, got {table!r}")
        return np.frombuffer(held, "<f4").copy()

    def purge(self) -> int:
        """Takes out old deletions, rows long expired, and what is damaged. Returns how many.

        Other writers get their turn in between. The file does not shrink, its free pages are used again.
        """
        next_key, purged = b"", 0
        while True:

            def step(txn: lmdb.Transaction[bytes], first: bytes = next_key) -> tuple[bytes, int]:
                cursor = txn.cursor(db=self._env.databases[0])
                if not cursor.set_range(first):
                    return b"", 0
                names, values = zip(*islice(cursor.iternext(), _PURGE), strict=True)
                states = read_states(_keys(names), values, self._clock(), self._remember)
                for at in np.flatnonzero(~states.known).tolist():
                    txn.delete(names[at])
                return names[-1] + b"\0" if len(names) == _PURGE else b"", int((~states.known).sum())

            next_key, count = self._env.write(step, 0)
            purged += count
            if not next_key:
                return purged

    def __len__(self) -> int:
        """How many keys there are, those included that are deleted or expired and remembered."""
        return self._env.read(lambda txn: int(txn.stat(self._env.databases[0])["entries"]))

    @property
    def map_bytes(self) -> int:
        """How large the file may be at present."""
        return self._env.use(lambda env: int(env.info()["map_size"]))

    def close(self) -> None:
        """Closes the file when all calls under way have ended; later ones raise StoreError."""
        self._env.close()

    def _apply(
        self,
        keys: Keys,
        versions: npt.NDArray[np.uint64],
        encode: Callable[[Positions], list[bytes]],
        dim: int | None,
    ) -> int:
        """Writes encode(positions) where versions are newer than what is there, in one transaction."""

        def write(txn: lmdb.Transaction[bytes]) -> int:
            applied, now = 0, self._clock()
            for at in rounds(keys):
                names = _names(keys[at])
                there = read_states(keys[at], list(map(txn.get, names)), now, self._remember)
                there.check_width(keys[at], dim)
                newer = np.flatnonzero(there.older_than(versions[at]))
                if newer.size:
                    with txn.cursor() as cursor:
                        cursor.putmulti(zip([names[i] for i in newer.tolist()], encode(at[newer]), strict=True))
                applied += int(newer.size)
            return applied

        return self._env.write(write, keys.size * (64 + 4 * (dim or 0)))

    def _reset_after_fork(self) -> None:
        self._counting = threading.Lock()


def _names(keys: Keys) -> list[bytes]:
    names: list[bytes] = keys.astype(">u8").view("V8").tolist()
    return names


def _keys(names: Sequence[bytes]) -> Keys:
    return np.frombuffer(b"".join(names), ">u8").astype(np.uint64)
