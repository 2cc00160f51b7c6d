"""One parquet file, read in batches of bounded size, with errors that say where in the file they are."""

from __future__ import annotations

import bisect
import contextlib
import io
import os
import stat
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pepnet_infer.errors import PepnetError, SchemaError, readable
from pepnet_infer.parquet.folders import folder_column
from pepnet_infer.parquet.plan import Job
from pepnet_infer.parquet.resume import hash_of
from pepnet_infer.quoting import clip
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

    `carried`: the columns that go to the output. One that a folder's name gives goes there as well, unless the output
    lies in a folder of that name: whoever reads the output finds it there, and would find it twice.
    """

    def __init__(self, job: Job, schema: FeatureSchema, columns: Sequence[str] | Literal["all"] | None) -> None:
        """columns: see `ScoreOptions`. Raises SchemaError for columns that are not there, or are there twice."""
        self.path: Path = job.source
        self._raw = _open(self.path)
        try:
            self._open_parquet()
            self._constants: dict[str, Any] = {}  # columns that folders' names give, as scalars
            self._find_needed(job, schema)
            self._find_carried(job, schema, columns)
        except BaseException:
            self._raw.close()
            raise

    def _open_parquet(self) -> None:
        self._stamp = stamp_of(os.fstat(self._raw.fileno()))
        try:
            self._file = pq.ParquetFile(
                self._raw, pre_buffer=False, buffer_size=_READ_BUFFER, page_checksum_verification=True
            )
            self.schema: pa.Schema = self._file.schema_arrow
            self._names = self.schema.names
        except (pa.ArrowException, OSError, ValueError) as error:
            raise PepnetError(f"{self.path}: expected a parquet file, got: {clip(error)}") from error
        meta = self._file.metadata
        self.rows: int = meta.num_rows
        self._group_ends = list(accumulate(meta.row_group(g).num_rows for g in range(meta.num_row_groups)))

    def _find_needed(self, job: Job, schema: FeatureSchema) -> None:
        """Finds the columns that are scored."""
        for name in self._names:
            if self._names.count(name) > 1:
                raise self._refusal(name, "one of that name", str(self._names.count(name)))
        for name in schema.columns:
            if name not in self._names and name not in job.partitions:
                raise self._refusal(name, "it in the file")
        self._needed = [name for name in schema.columns if name in self._names]
        for name in schema.columns:
            if name not in self._names:
                self._constants[name] = folder_column(schema, self.path, name)

    def _find_carried(self, job: Job, schema: FeatureSchema, columns: Sequence[str] | Literal["all"] | None) -> None:
        known = [*self._names, *(name for name in job.lost if name not in self._names)]
        if columns is None:
            ids = {f.column for f in schema.fields if f.kind == "id" and f.join is None}
            ids |= {join.column for join in schema.joins} | {schema.domain_column}
            self.carried = [name for name in known if name in ids]
        elif columns == "all":
            self.carried = known
        else:
            for name in columns:
                if columns.count(name) > 1:
                    raise SchemaError(column=name, expected="it once in columns", got="it twice")
                if name not in known and name not in job.partitions:
                    raise self._refusal(name, "it, to carry it through")
            self.carried = [name for name in columns if name in known]
        self._scores = [f"score_{task}" for task in schema.tasks]
        for name in self._scores:
            if name in job.kept:  # who reads the folder would take its value for the score
                raise self._refusal(name, "no folder of a score's name above the output", "one")
            if name in self.carried:
                raise self._refusal(name, "no column of a score's name to carry", "one")
        for name in self.carried:
            if name not in self._names:
                self._constants[name] = folder_column(schema, self.path, name)

    def _refusal(self, name: str, expected: str, got: str | None = None) -> SchemaError:
        got = f"columns {clip(', '.join(self._names))}" if got is None else got
        return SchemaError(file=self.path, column=name, expected=expected, got=got)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._raw.close()

    def output_schema(self, metadata: dict[bytes | str, bytes | str]) -> pa.Schema:
        """Returns the output's columns: the carried ones as they are, then one float32 a task."""
        fields: list[pa.Field[Any]] = []
        for name in self.carried:
            constant = self._constants.get(name)
            fields.append(self.schema.field(name) if constant is None else pa.field(name, constant.type))
        return pa.schema([*fields, *(pa.field(name, pa.float32()) for name in self._scores)], metadata=metadata)

    def folders(self) -> dict[str, object]:
        """Returns the values from folders' names that go into scores, or are carried through: type, value, and whether
        it is carried. That depends on the folders of the output too, so that the options do not say it.
        """
        found = sorted(self._constants.items())
        return {name: [str(value.type), value.as_py(), name in self.carried] for name, value in found}

    def size(self) -> dict[str, object]:
        """Returns what tells this input from most others at no cost."""
        return {"bytes": self._stamp[1], "rows": self.rows}

    def content(self) -> str:
        """Returns a hash of the whole file.

        Not of the columns that are read alone: where they lie is said in the footer, and where that is damaged pyarrow
        ends the process instead of raising.
        """
        self._hashed_at = time.time()
        return hash_of(self._raw.fileno())

    def unchanged(self, content: str) -> bool:
        """Whether the file is still the one that was opened, and has what `content` returned.

        Its times say so, unless it was written so shortly before it was hashed that a later change may have none of its
        own: then it is hashed again.
        """
        try:
            if not self._stamp == stamp_of(os.fstat(self._raw.fileno())) == stamp_of(os.stat(self.path)):
                return False
        except OSError:
            return False
        return max(self._stamp[2:]) < (self._hashed_at - _TICK_S) * 1e9 or self.content() == content

    def batches(self, rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields (number of the first row, batch of at most `rows` rows) in order.

        Batches have the schema's columns and the carried ones, from the file and from folders' names.
        """
        columns = dict.fromkeys([*self._needed, *(name for name in self.carried if name not in self._constants)])
        start = 0
        groups = self._file.metadata.num_row_groups
        # Arrow before 21 asks for a row group where a file has none.
        read = self._file.iter_batches(rows, columns=list(columns), use_threads=False) if groups else ()
        batches = iter(read)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                group = self._group_of(start)
                raise PepnetError(f"{self.path}: cannot read row group {group}: {clip(error)}") from error
            if batch is None:
                break
            yield start, self._with_constants(batch)
            start += batch.num_rows
        if start != self.rows:
            raise PepnetError(f"{self.path}: expected {self.rows} rows as the footer says, got {start}")

    def empty_batch(self) -> pa.RecordBatch:
        """Returns a batch without rows, of the schema's columns and all that folders' names give.

        It is enough to check the types before any work.
        """
        fields = [self.schema.field(name) for name in self._needed]
        return self._with_constants(pa.RecordBatch.from_pylist([], schema=pa.schema(fields)))

    def _with_constants(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for name, value in self._constants.items():
            batch = batch.append_column(name, pa.repeat(value, batch.num_rows))
        return batch

    @contextlib.contextmanager
    def located(self, start: int) -> Iterator[None]:
        """Adds file, row and row group to a SchemaError about the batch whose first row is `start`."""
        try:
            yield
        except SchemaError as error:
            raise SchemaError.of(self.place(error, start), file=self.path) from error

    def place(self, error: SchemaError, start: int) -> SchemaError:
        """Returns `error`, about the batch whose first row is `start`, with its row in the file, but not the file."""
        if error.row is None:
            return SchemaError.of(error, row_group=self._group_of(start) if self._group_ends else None)
        row = start + error.row
        return SchemaError.of(error, row=row, row_group=self._group_of(row))

    def locate_type(self, error: SchemaError) -> SchemaError:
        """Returns `error`, about the type of a whole column, with the first row group that has nulls there, if any.

        Integers with nulls become floats on their way through pandas; the nulls are then what to look for, among the
        first rows. They are read: what the footer says of a column, pyarrow ends the process over where it is damaged.
        """
        looked = 0
        for group, end in enumerate(self._group_ends):
            if error.column not in self._names or looked >= _NULLS_AMONG:
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


def _open(path: Path) -> io.FileIO:
    # Not to wait for a pipe that took the name since the file was found.
    with readable(path):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise PepnetError(f"{path}: expected a file, got a special file or a folder")
    return io.FileIO(handle)


def stamp_of(found: os.stat_result) -> tuple[int, int, int, int]:
    """Returns what changes with a file: inode, size, and the times of content and of status, nanoseconds."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
