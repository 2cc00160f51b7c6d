"""One output file: written under a hidden name, and under its own only when it is whole and on the disk."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pepnet_infer._kernels import FileLock
from pepnet_infer.errors import PepnetError
from pepnet_infer.parquet.resume import check_replaceable
from pepnet_infer.process import forks
from pepnet_infer.storage.atomic import OWN_FILE, check_own, make_folder, put_file, sync_folder

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Rows per row group of the output, whatever the batches are.
GROUP_ROWS = 1 << 17

_BUFFER = 1 << 20  # bytes that Arrow writes in one call of Python, for it writes each page by itself


def temporary(target: Path) -> Path:
    """Returns the hidden name `target` is written under. There is one per target, so that leftovers are found."""
    return target.with_name(f".{target.name}.partial")


def set_aside(target: Path) -> Path:
    """Returns the hidden name that scores of default rows go under: readers of the folder pass it by."""
    return target.with_name(f".{target.name}.unfinished")


class WholeWrites(io.FileIO):
    """A file of which each `write` is whole, and which has a hash of all that was written.

    The system may write less than it was given, on a disk that is nearly full for one, and Arrow does not look at how
    much it was.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW))
        self.digest = xxhash.xxh3_128()

    def write(self, data: Buffer) -> int:
        """Writes all of `data`. Raises OSError."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        self.digest.update(rest)
        while rest:
            rest = rest[super().write(rest) :]
        return size


def lock_of(target: Path) -> FileLock:
    """Returns the lock on the hidden file of an output, to be held around a `Sink`: two runs can never write one.

    It is an object of C++, and by itself in the `with`, so that whatever interrupts the sink lets go of it. What it
    raises where it is entered, `alone` around it says in terms of the output. What an earlier run left is removed, and
    not written over: where that was interrupted, and a traceback keeps its sink, Arrow still writes a footer when the
    traceback goes, which would damage the output of the later run.
    """
    return FileLock(temporary(target), OWN_FILE, wait=False, fresh=True)


@contextlib.contextmanager
def alone(target: Path) -> Iterator[None]:
    """Makes the folder of an output. Raises PepnetError for what the file system refuses, or another run that writes.

    Errors of other files pass.
    """
    path = temporary(target)
    with _reported(target):
        make_folder(target.parent)
    try:
        yield
    except OSError as error:
        if error.filename is None or os.fspath(error.filename) != os.fspath(path):
            raise
        if isinstance(error, BlockingIOError):
            said = f"{target}: expected to be its only writer, but another run is writing it"
            raise PepnetError(said) from None
        raise PepnetError(f"{target}: cannot be written: {error.strerror or error}") from error


class Sink:
    """A parquet file that takes its name `target` at `commit`; leaving the block without it removes all traces.

    Its `lock_of` is held meanwhile. Raises PepnetError for what the file system refuses, a full disk included.
    """

    def __init__(self, target: Path, schema: pa.Schema) -> None:
        self._target, self._temporary = target, temporary(target)
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._schema = schema
        with _reported(target):
            self._raw = WholeWrites(self._temporary)
            check_own(self._raw.fileno(), self._temporary)
            self._raw.truncate(0)
        forks.register(forks.Stage.LEAVES, child=self._close_in_child)
        try:
            with _reported(target):
                self._stream = pa.BufferedOutputStream(pa.PythonFile(self._raw, "w"), _BUFFER)
                self._writer = pq.ParquetWriter(self._stream, schema, compression="zstd")
                self._stream.flush()  # the first bytes, so that a full disk is found before any work
        except BaseException:  # no block has begun that could be left
            self._remove()
            self._raw.close()
            raise

    def _close_in_child(self) -> None:
        forks.leak(self._stream)  # it would write what it holds when it goes
        self._raw.close()  # else a child could write to the file

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        if self._raw.closed:
            return
        self._remove()
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):  # no footer fits on a full disk
            self._writer.close()
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            self._stream.close()
        self._raw.close()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):  # the folder may be gone; the lock goes with the handle either way
            self._temporary.unlink()

    def write(self, batch: pa.RecordBatch) -> None:
        """Appends rows of the schema."""
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        if self._pending_rows >= GROUP_ROWS:
            with _reported(self._target):
                self._flush(self._pending_rows - self._pending_rows % GROUP_ROWS)

    def written(self) -> str:
        """Returns a hash of all that the file holds before its footer; nothing but `commit` may come afterwards."""
        with _reported(self._target):
            self._flush(self._pending_rows)
            self._stream.flush()
        return self._raw.digest.hexdigest()

    def commit(self, metadata: Mapping[str, str], finished: bool = True) -> None:
        """Finishes the file, forces it to the disk and gives it its name, or else the one of `set_aside`.

        Raises PepnetError for another file than an earlier output that took its place meanwhile.
        """
        aside = set_aside(self._target)
        with _reported(self._target):
            self._flush(self._pending_rows)
            self._writer.add_key_value_metadata(dict(metadata))
            self._writer.close()
            self._stream.flush()
            if finished:
                put_file(self._raw.fileno(), self._temporary, self._target, check_replaceable)
            else:
                put_file(self._raw.fileno(), self._temporary, aside)
            self._stream.close()  # and the file
            if finished and aside.exists():
                aside.unlink()
                sync_folder(aside.parent)

    def _flush(self, rows: int) -> None:
        if not rows:
            return
        table = pa.Table.from_batches(self._pending, self._schema)
        self._writer.write_table(table.slice(0, rows), row_group_size=GROUP_ROWS)
        rest = table.slice(rows)
        self._pending = rest.to_batches()
        self._pending_rows = rest.num_rows


def check_names(target: Path) -> None:
    """Raises PepnetError where the hidden names of `target` are longer than its file system takes."""
    folder, longest = target.parent, set_aside(target)
    with _reported(target):
        while not folder.exists():
            folder = folder.parent
        most, extra = os.pathconf(folder, "PC_NAME_MAX"), len(longest.name) - len(target.name)
    if len(os.fsencode(longest.name)) > most:
        raise PepnetError(
            f"{target}: expected a name of at most {most - extra} bytes, got {len(os.fsencode(target.name))}:"
            " the file is written under a longer one"
        )


def remove_leftovers(target: Path) -> None:
    """Removes what killed or unfinished runs left of `target` under its hidden names."""
    path = temporary(target)
    with _reported(target):
        set_aside(target).unlink(missing_ok=True)
    if path.exists():
        with alone(target), lock_of(target) as handle, _reported(target):
            check_own(handle, path)
            path.unlink()


@contextlib.contextmanager
def _reported(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        at = "" if error.filename in (None, str(target)) else f" (at {error.filename})"
        raise PepnetError(f"{target}: cannot be written: {error.strerror or error}{at}") from error
