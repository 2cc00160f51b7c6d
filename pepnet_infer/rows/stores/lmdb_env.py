"""An LMDB environment as one process has it: shared by threads, resized, closed around a fork, opened again."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from msgspec import Meta

from pepnet_infer._kernels import Hold, SharedLock
from pepnet_infer.errors import StoreError
from pepnet_infer.process import forks
from pepnet_infer.rows.stores.lmdb_file import check_file
from pepnet_infer.validation import Options, Several

if TYPE_CHECKING:
    import lmdb

_Result = TypeVar("_Result")
_ROWS = b"rows"  # the name of the database
_TRIES = 3  # to get a reader slot: another thread may take the one that was freed
_MOST_SIZES = 100  # that a map gets in one call: a file whose head says what cannot be is found too small for ever
_CHECK_S = 1.0  # between two looks for slots of processes that were killed
_PATIENCE_S = 5.0  # for another process to take back slots without which this one cannot open the file


class OpenOptions(Options, frozen=True):
    """How the file is opened; see `LmdbStore`."""

    readonly: bool
    map_bytes: Several
    durable: bool
    max_readers: Annotated[int, Meta(ge=1, le=1 << 20)]


class LmdbEnv:
    """Reads and writes in transactions. Any thread may call. Raises StoreError.

    LMDB forbids a forked child to use or to close what its parent opened. So a fork waits until no transaction is under
    way and closes the environment; parent and child open it again when they next use it. A fork that Python's hooks do
    not see, or one from inside a transaction, leaves the child an environment that it may not touch: it is told so.
    """

    def __init__(self, module: Any, path: Path, options: OpenOptions) -> None:
        self._lmdb, self.path, self.options = module, path, options
        self.gate, self._opening, self._process = SharedLock(), SharedLock(), os.getpid()
        self._forking: Hold | None = None  # held by a fork that is under way
        self._env: lmdb.Environment | None = None
        self._map_bytes = options.map_bytes
        self._closed = False
        self._check_due = 0.0
        self.database: Any = None  #: of all rows
        with self._errors():
            self._open()
        forks.register(
            forks.Stage.STORES, before=self._before_fork, parent=self._after_fork_in_parent, child=self._after_fork
        )

    def read(self, work: Callable[[lmdb.Transaction[bytes]], _Result]) -> _Result:
        """Does `work` in a read transaction."""
        full = 0
        while True:
            try:
                return self._fitting(
                    lambda: self.use(lambda env: _within(env, work, self.database)),
                    lambda _: self.resize(0),
                )
            except self._lmdb.ReadersFullError as error:
                full += 1
                freed = self.use(lambda env: int(env.reader_check()))  # the slots of processes that were killed
                if freed == 0 and full >= _TRIES:
                    raise StoreError(self._no_slot()) from error

    def write(self, work: Callable[[lmdb.Transaction[bytes]], _Result], needs: int) -> _Result:
        """Does `work` in a write transaction; again, in a larger map, when it found the map full."""
        size = 0

        def step(env: lmdb.Environment) -> _Result:
            nonlocal size
            size = int(env.info()["map_size"])
            return _within(env, work, self.database, write=True)

        return self._fitting(
            lambda: self.use(step), lambda full: self.resize(2 * size + needs, size) if full else self.resize(0)
        )

    def _fitting(self, step: Callable[[], _Result], resize: Callable[[bool], None]) -> _Result:
        """Does `step`, again whenever the map is too small: `resize(True)` where it is full, else another has grown it.

        Raises StoreError where no size will do.
        """
        refused = Exception()
        for _ in range(_MOST_SIZES):
            try:
                return step()
            except (self._lmdb.MapResizedError, self._lmdb.MapFullError) as error:
                refused = error
                resize(isinstance(error, self._lmdb.MapFullError))
        raise StoreError(
            f"{self.path}: expected a file whose size its own pages tell, got one that fits no map: {refused}"
        ) from refused

    def use(self, work: Callable[[lmdb.Environment], _Result]) -> _Result:
        """Does `work` with the environment, which nobody closes or resizes meanwhile.

        The hold on the gate is on this frame's stack alone: no generator, whose frame a traceback would keep.
        """
        if os.getpid() != self._process:
            raise StoreError(
                f"{self.path}: expected the process that opened the store, got one forked from it, which may "
                "not use it: open a store in the child"
            )
        with self.gate.shared(), self._errors():
            if self._closed:
                raise StoreError(f"{self.path}: expected an open store, got one that was closed")
            if self._env is None:
                with self._opening.alone():
                    if self._env is None:
                        self._open()
            assert self._env is not None
            if (now := monotonic()) >= self._check_due:  # a process that has no slot yet cannot open the file to do it
                self._check_due = now + _CHECK_S
                self._env.reader_check()
            return work(self._env)

    def close(self) -> None:
        """Closes the file when all calls under way have ended; later ones raise StoreError."""
        with self.gate.alone():
            self._closed = True
            env, self._env = self._env, None
            if env is not None and os.getpid() == self._process:
                env.close()

    def _open(self) -> None:
        check_file(self.path / "data.mdb")
        until = monotonic() + _PATIENCE_S
        while self._env is None:
            env: lmdb.Environment | None = None
            try:
                env = self._fitting(self._environment, lambda _: None)  # grown after its size was read
                env.reader_check()  # the slots of processes that were killed
                database = partial(env.open_db, _ROWS, create=not self.options.readonly)
                self.database = self._fitting(database, partial(_grow, env))
            except BaseException as error:
                if env is not None:
                    env.close()
                if not isinstance(error, self._lmdb.ReadersFullError):
                    raise
                # To open it takes a slot itself. Processes that have it open take back those of killed ones in `use`.
                if monotonic() >= until:
                    raise StoreError(self._no_slot()) from error
                time.sleep(_CHECK_S / 10)
            else:
                self._env = env

    def _environment(self) -> lmdb.Environment:
        options = self.options
        opened: lmdb.Environment = self._lmdb.open(
            str(self.path),
            map_size=self._map_bytes,
            max_dbs=1,
            max_readers=options.max_readers,
            max_spare_txns=8,
            readonly=options.readonly,
            create=not options.readonly,
            sync=options.durable,
            metasync=options.durable,
            readahead=False,  # rows are read at random
        )
        return opened

    def _no_slot(self) -> str:
        return (
            f"{self.path}: expected a free reader slot, got all of them taken by processes that run: give "
            "max_readers more than there are reading processes and threads, in the process that opens the file first"
        )

    def resize(self, size: int, above: int | None = None) -> None:
        """Sets the size of the map, 0 for that of the file, once nobody uses it; unless it is larger than `above`."""
        with self.gate.alone(), self._errors():
            if self._env is not None and (above is None or int(self._env.info()["map_size"]) <= above):
                self._env.set_mapsize(size)

    def _before_fork(self) -> None:
        if os.getpid() != self._process or self.gate.is_sharing:
            return  # a signal handler that forks amid a transaction: the child is told
        self._forking = self.gate.alone()
        self._forking.__enter__()
        env, self._env = self._env, None
        if env is not None:
            self._map_bytes = int(env.info()["map_size"])
            env.close()

    def _after_fork_in_parent(self) -> None:
        forking, self._forking = self._forking, None
        if forking is not None:
            forking.__exit__()

    def _after_fork(self) -> None:
        self._forking = None
        self.gate, self._opening = SharedLock(), SharedLock()
        if self._env is None:
            self._process = os.getpid()
        else:  # a fork amid a transaction: it is nobody's here
            forks.leak(self._env)
            forks.leak(self.database)
            self._process = 0

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (self._lmdb.MapFullError, self._lmdb.MapResizedError, self._lmdb.ReadersFullError):
            raise
        except (self._lmdb.Error, OSError) as error:
            if os.strerror(errno.EAGAIN) in str(error):  # of the lock by which LMDB knows that a process lives
                raise StoreError(
                    f"{self.path}: expected no other process with the number {os.getpid()}, got one, in another "
                    "container, that has the file open: let containers that share a file share a PID namespace"
                ) from error
            raise StoreError(f"{self.path}: expected an LMDB store that works, got: {error}") from error


def _within(
    env: lmdb.Environment, work: Callable[[lmdb.Transaction[bytes]], _Result], db: Any, write: bool = False
) -> _Result:
    txn: lmdb.Transaction[bytes] | None = None
    try:
        with env.begin(db=db, write=write) as txn:
            return work(txn)
    finally:
        txn = None  # it ends with its last reference, and a traceback keeps this frame


def _grow(env: lmdb.Environment, full: bool) -> None:
    env.set_mapsize(2 * int(env.info()["map_size"]) if full else 0)
