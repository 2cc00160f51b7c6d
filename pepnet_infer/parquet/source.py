"""One parquet file, read in batches of bounded size, with errors that say where in the file they are."""

from __future__ import annotations

import bisect
import contextlib
import io
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pepnet_infer.errors import PepnetError, SchemaError
from pepnet_infer.parquet.folders import Constant, FolderColumns
from pepnet_infer.parquet.plan import Job
from pepnet_infer.parquet.summary import Counts
from pepnet_infer.quoting import clip

if TYPE_CHECKING:
    from pepnet_infer.schema.feature_schema import FeatureSchema

#: Column chunks are read through a buffer of this many bytes. Arrow's defaults hold a row group's chunks whole, so
#: that memory grows with the row group, which is the whole file for many a writer.
_READ_BUFFER = 1 << 20
#: Rows in which nulls are looked for, to say where they are.
_NULLS_AMONG = 1 << 20
#: Times of files are as fine as a clock tick, or as seconds on some file systems: a change within one may not show.
_TICK_S = 2.0


class Source:
    """An opened input file: what is hashed is what is read, whatever takes its name meanwhile.

    `constants`: columns of the schema that the file lacks and its folders' names give.
    """

    def __init__(self, job: Job, schema: FeatureSchema) -> None:
        self.path: Path = job.source
        self._raw = _open(self.path)
        try:
            self._open_parquet()
            self._needed = [name for name in schema.columns if name in self.schema.names]
            self._partitions, self._lost, self._kept = job.partitions, job.lost, job.kept
            self._folders = FolderColumns(schema)
            self._check_names(schema.columns)
            lacking = [name for name in schema.columns if name not in self._needed]
            self.constants = {name: self._constant(name) for name in lacking}
        except BaseException:
            self._raw.close()
            raise

    def _open_parquet(self) -> None:
        self._stamp = _stamp(os.fstat(self._raw.fileno()))
        try:
            self._file = pq.ParquetFile(
                self._raw, pre_buffer=False, buffer_size=_READ_BUFFER, page_checksum_verification=True
            )
            self.schema: pa.Schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise PepnetError(f"{self.path}: expected a parquet file, got: {clip(error)}") from error
        meta = self._file.metadata
        self.rows: int = meta.num_rows
        self._group_ends = list(accumulate(meta.row_group(g).num_rows for g in range(meta.num_row_groups)))

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._raw.close()

    @property
    def outside(self) -> list[str]:
        """Columns that the folders' names give and neither the file nor the folders of the output have."""
        return [name for name in self._lost if name not in self.schema.names]

    @property
    def kept(self) -> list[str]:
        """Columns that the folders of the output give to whoever reads them."""
        return list(self._kept)

    def has(self, name: str) -> bool:
        """Whether the file or its folders' names have a column."""
        return name in self.schema.names or name in self._partitions

    def fields(self, names: Iterable[str]) -> list[pa.Field[Any]]:
        """Returns what columns of the file, or of its folders' names, are."""
        there = self.schema.names
        return [self.schema.field(n) if n in there else pa.field(n, self._constant(n).type) for n in names]

    def folders(self, carried: Iterable[str]) -> dict[str, object]:
        """Returns the values from folders' names that go into scores, or are carried through: type, value, and whether
        it is carried. That depends on the folders of the output too, so that the options do not say it.
        """
        columns = {name for name in carried if name not in self.schema.names}
        found = {name: self._constant(name) for name in sorted({*self.constants, *columns})}
        return {name: [str(constant.type), constant.value, name in columns] for name, constant in found.items()}

    def size(self) -> dict[str, object]:
        """Returns what tells this input from most others at no cost."""
        return {"bytes": self._stamp[1], "rows": self.rows}

    def content(self) -> str:
        """Returns a hash of the whole file.

        Not of the columns that are read alone: where they lie is said in the footer, and where that is damaged pyarrow
        ends the process instead of raising.
        """
        digest, handle = xxhash.xxh3_128(), self._raw.fileno()
        self._hashed_at = time.time()
        at = 0
        while data := os.pread(handle, _READ_BUFFER, at):
            digest.update(data)
            at += len(data)
        return digest.hexdigest()

    def unchanged(self, content: str) -> bool:
        """Whether the file is still the one that was opened, and has what `content` returned.

        Its times say so, unless it was written so shortly before it was hashed that a later change may have none of its
        own: then it is hashed again.
        """
        try:
            if not self._stamp == _stamp(os.fstat(self._raw.fileno())) == _stamp(os.stat(self.path)):
                return False
        except OSError:
            return False
        return max(self._stamp[2:]) < (self._hashed_at - _TICK_S) * 1e9 or self.content() == content

    def batches(self, rows: int, also: Iterable[str] = ()) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields (number of the first row, batch of at most `rows` rows) in order.

        Batches have the schema's columns that the file has, those named in `also`, and those that folders' names give.
        """
        there, names = self.schema.names, list(also)
        columns = list(dict.fromkeys([*self._needed, *(name for name in names if name in there)]))
        constants = self.constants | {name: self._constant(name) for name in names if name not in there}
        start = 0
        groups = self._file.metadata.num_row_groups
        # Arrow before 21 asks for a row group where a file has none.
        read = self._file.iter_batches(rows, columns=columns, use_threads=False) if groups else ()
        batches = iter(read)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                group = self._group_of(start)
                raise PepnetError(f"{self.path}: cannot read row group {group}: {clip(error)}") from error
            if batch is None:
                break
            yield start, _with_constants(batch, constants)
            start += batch.num_rows
        if start != self.rows:
            raise PepnetError(f"{self.path}: expected {self.rows} rows as the footer says, got {start}")

    def empty_batch(self) -> pa.RecordBatch:
        """Returns what `batches` yields, without rows: enough to check the types before any work."""
        fields = [self.schema.field(name) for name in self._needed]
        return _with_constants(pa.RecordBatch.from_pylist([], schema=pa.schema(fields)), self.constants)

    @contextlib.contextmanager
    def located(self, start: int) -> Iterator[None]:
        """Adds file, row and row group to a SchemaError about the batch whose first row is `start`."""
        try:
            yield
        except SchemaError as error:
            raise self.locate(error, start) from error

    def locate(self, error: SchemaError, start: int) -> SchemaError:
        """Returns `error`, about the batch whose first row is `start`, with its place in the file."""
        return SchemaError.of(self.place(error, start), file=self.path)

    def place(self, error: SchemaError, start: int) -> SchemaError:
        """Returns `error`, about the batch whose first row is `start`, with its row in the file, but not the file."""
        if error.row is None:
            return SchemaError.of(error, row_group=self._group_of(start) if self._group_ends else None)
        row = start + error.row
        return SchemaError.of(error, row=row, row_group=self._group_of(row))

    def told(self, counts: Counts) -> Counts:
        """Returns counts of this file whose faults name it."""
        return replace(counts, faults={name: f"{self.path}: {text}" for name, text in counts.faults.items()})

    def locate_type(self, error: SchemaError) -> SchemaError:
        """Returns `error`, about the type of a whole column, with the first row group that has nulls there, if any.

        Integers with nulls become floats on their way through pandas; the nulls are then what to look for, among the
        first rows. They are read: what the footer says of a column, pyarrow ends the process over where it is damaged.
        """
        looked = 0
        for group, end in enumerate(self._group_ends):
            if error.column not in self.schema.names or looked >= _NULLS_AMONG:
                break
            try:
                column = self._file.read_row_group(group, columns=[error.column], use_threads=False).column(0)
            except (pa.ArrowException, OSError, ValueError):
                break  # what is wrong with the type is known all the same
            looked = end
            if column.null_count:
                nulls = f"{column.null_count} null{'s' * (column.null_count > 1)}"
                return SchemaError.of(error, file=self.path, remarks=(nulls,), row_group=group)
        return SchemaError.of(error, file=self.path)

    def _group_of(self, row: int) -> int:
        return min(bisect.bisect_right(self._group_ends, row), max(len(self._group_ends) - 1, 0))

    def _constant(self, name: str) -> Constant:
        return self._folders.read(self.path, self._partitions, name)

    def _check_names(self, wanted: Iterable[str]) -> None:
        names = self.schema.names
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                got = str(names.count(name))
                raise SchemaError(file=self.path, column=name, expected="one of that name", got=got)
        for name in wanted:
            if not self.has(name):
                got = f"columns {clip(', '.join(names))}"
                raise SchemaError(file=self.path, column=name, expected="it in the file", got=got)


def _open(path: Path) -> io.FileIO:
    # Not to wait for a pipe that took the name since the file was found.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PepnetError(f"{path}: expected a readable file, got: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise PepnetError(f"{path}: expected a file, got a special file or a folder")
    return io.FileIO(handle)


def _stamp(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _with_constants(batch: pa.RecordBatch, constants: Mapping[str, Constant]) -> pa.RecordBatch:
    for name, constant in constants.items():
        batch = batch.append_column(name, constant.array(batch.num_rows))
    return batch
