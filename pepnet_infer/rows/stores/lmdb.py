"""A writable store in a file of this machine, for ids that outgrow memory: LMDB (package `lmdb`, extra `[lmdb]`)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from pepnet_infer.errors import StoreError
from pepnet_infer.rows.stores.lmdb_env import LmdbEnv, OpenOptions
from pepnet_infer.rows.stores.record import REMEMBER, RowDtype, encode, remembered, where_newer
from pepnet_infer.rows.stores.writable import RecordStore, check_keys, key_bytes, rounds
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.storage.local_path import check_local

if TYPE_CHECKING:
    import lmdb

_PURGE = 1 << 14  # keys looked at in one transaction


class LmdbStore(RecordStore):
    """A `WritableStore`. Any number of threads and processes read while one writes; readers never wait for it.

    Keys are the 8 bytes of the number, the largest first, so that a table's rows lie together; values are laid out in
    `record.py`. A batch is written whole or, when a write raises, not at all. A process may open a path once. A forked
    child may use its parent's store, which is opened anew there.
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
        super().__init__(dtype, remember, clock)
        try:
            import lmdb
        except ImportError as error:
            raise StoreError(f"{path}: expected the package lmdb (extra [lmdb]), got: {error}") from error
        check_local(path, "a local directory", StoreError)
        self.path = Path(os.path.abspath(path))  #: of the directory
        #: what reads and writes in transactions
        self.env = LmdbEnv(lmdb, self.path, OpenOptions(readonly, map_bytes, durable, max_readers))

    def __reduce__(self) -> tuple[object, ...]:
        """A store pickles as what it was opened with: who unpickles it, in a process of its own, opens it."""
        given = {**structs.asdict(self.env.options), "dtype": self.dtype, "remember": self._remember}
        return partial(LmdbStore, self.path, clock=self._clock, **given), ()

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns what is there of `keys` [N], as of one moment; see `Store.get_many`.

        A damaged value, or one of another width, is not found, and counted in `damaged`.
        """
        check_keys(keys)
        order = np.argsort(keys, kind="stable")  # neighbours share pages
        names = key_bytes(keys[order])
        values: list[bytes | None] = self.env.read(lambda txn: list(map(txn.get, names)))
        return RowBatch.nothing(keys.size, dim).put(order, self._decode(keys[order], values, dim))

    def purge(self) -> int:
        """Takes out old deletions, rows long expired, and what is damaged. Returns how many.

        Other writers get their turn in between. The file does not shrink, its free pages are used again.
        """
        next_key, purged = b"", 0

        def step(txn: lmdb.Transaction[bytes]) -> tuple[bytes, int]:
            cursor = txn.cursor()
            if not cursor.set_range(next_key):
                return b"", 0
            names, values = zip(*islice(cursor.iternext(), _PURGE), strict=True)
            keys = np.frombuffer(b"".join(names), ">u8").astype(np.uint64)
            known, _ = remembered(keys, values, self._clock(), self._remember)
            forgotten = np.flatnonzero(~known)
            for at in forgotten.tolist():
                txn.delete(names[at])
            return names[-1] + b"\0" if len(names) == _PURGE else b"", len(forgotten)

        while True:
            next_key, count = self.env.write(step, 0)
            purged += count
            if not next_key:
                return purged

    def __len__(self) -> int:
        """How many keys there are, those included that are deleted or expired and remembered."""
        return self.env.read(lambda txn: int(txn.stat(self.env.database)["entries"]))

    @property
    def map_bytes(self) -> int:
        """How large the file may be at present."""
        return self.env.use(lambda env: int(env.info()["map_size"]))

    def close(self) -> None:
        """Closes the file when all calls under way have ended; later ones raise StoreError."""
        self.env.close()

    def _write(self, batch: RowBatch) -> int:
        def write(txn: lmdb.Transaction[bytes]) -> int:
            applied, now = 0, self._clock()
            for at in rounds(batch.keys):
                part = batch.take(at)
                names = key_bytes(part.keys)
                newer = where_newer(part, list(map(txn.get, names)), now, self._remember)
                with txn.cursor() as cursor:
                    values = encode(part.take(newer), self.dtype)
                    cursor.putmulti(zip([names[i] for i in newer.tolist()], values, strict=True))
                applied += int(newer.size)
            return applied

        return self.env.write(write, batch.keys.size * (64 + 4 * batch.rows.shape[1]))
