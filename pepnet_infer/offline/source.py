"""One parquet file, read in batches of bounded size, with errors that say where in the file they are."""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pepnet_infer.errors import PepnetError, SchemaError
from pepnet_infer.offline.plan import Constant, Job

if TYPE_CHECKING:
    from pepnet_infer.schema import FeatureSchema

#: Column chunks are read through a buffer of this many bytes. Arrow's defaults hold a row group's chunks whole, so
#: that memory grows with the row group, which is the whole file for many a writer.
_READ_BUFFER = 1 << 20


class Source:
    """An opened input file. `columns`: what is read of it; `constants`: columns that its folders' names give."""

    def __init__(self, job: Job, schema: FeatureSchema, constants: Mapping[str, Constant]) -> None:
        self.path: Path = job.source
        try:
            self.stamp = os.stat(self.path)
            self._file = pq.ParquetFile(
                self.path, pre_buffer=False, buffer_size=_READ_BUFFER, page_checksum_verification=True
            )
            self.schema: pa.Schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise PepnetError(f"{self.path}: expected a parquet file, got: {error}") from error
        meta = self._file.metadata
        self.rows: int = meta.num_rows
        self._group_ends = list(accumulate(meta.row_group(g).num_rows for g in range(meta.num_row_groups)))
        self._needed = [name for name in schema.columns if name in self.schema.names]
        self.partitions = job.partitions
        self.constants = {n: v for n, v in constants.items() if n in schema.columns and n not in self._needed}
        self._check_names(schema.columns)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def identity(self) -> dict[str, object]:
        """Returns what tells this input from an altered one: bytes, rows, and a hash of the footer.

        The footer holds size, place and range of every column chunk. See `resume.up_to_date` for what it cannot see.
        """
        size = self.stamp.st_size
        with open(self.path, "rb") as file:
            file.seek(size - 8)
            length = int.from_bytes(file.read(4), "little") + 8  # footer, its length, and the magic
            file.seek(max(0, size - length))
            return {"bytes": size, "rows": self.rows, "footer": xxhash.xxh3_128_hexdigest(file.read(length))}

    def unchanged(self) -> bool:
        """Whether the file is still the one that was opened."""
        now = os.stat(self.path)
        before = self.stamp
        return (now.st_ino, now.st_size, now.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)

    def batches(self, rows: int, also: Iterable[str] = ()) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields (number of the first row, batch of at most `rows` rows) in order.

        Batches have the schema's columns that the file has, those named in `also`, and the folders' constants.
        """
        columns = list(dict.fromkeys([*self._needed, *also]))
        start = 0
        batches = self._file.iter_batches(rows, columns=columns, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                group = self._group_of(start)
                raise PepnetError(f"{self.path}: cannot read row group {group}: {error}") from error
            if batch is None:
                break
            yield start, self._with_constants(batch)
            start += batch.num_rows
        if start != self.rows:
            raise PepnetError(f"{self.path}: expected {self.rows} rows as the footer says, got {start}")

    def empty_batch(self) -> pa.RecordBatch:
        """Returns what `batches` yields, without rows: enough to check the types before any work."""
        fields = [self.schema.field(name) for name in self._needed]
        return self._with_constants(pa.RecordBatch.from_pylist([], schema=pa.schema(fields)))

    @contextlib.contextmanager
    def located(self, start: int) -> Iterator[None]:
        """Adds file, row and row group to a SchemaError about the batch whose first row is `start`."""
        try:
            yield
        except SchemaError as error:
            raise self.locate(error, start) from error

    def locate(self, error: SchemaError, start: int) -> SchemaError:
        """Returns `error`, about the batch whose first row is `start`, with its place in the file."""
        text, row = str(error), error.row
        if row is None:
            place = f" at row group {self._group_of(start)}" if self._group_ends else ""
            return SchemaError(f"{self.path}: {text}{place}", error.column)
        before, mark, after = text.rpartition(f"at row {row}")
        row += start
        place = f"at row {row} (row group {self._group_of(row)})"
        text = f"{before}{place}{after}" if mark else f"{text}, {place}"
        return SchemaError(f"{self.path}: {text}", error.column, row)

    def locate_type(self, error: SchemaError) -> SchemaError:
        """Returns `error`, about the type of a whole column, with the first row group that has nulls there, if any.

        Integers with nulls become floats on their way through pandas; the nulls are then what to look for.
        """
        meta = self._file.metadata
        for group in range(meta.num_row_groups):
            for position in range(meta.num_columns):
                chunk = meta.row_group(group).column(position)
                stats = chunk.statistics
                if chunk.path_in_schema == error.column and stats is not None and stats.null_count:
                    nulls = f"{stats.null_count} null{'s' * (stats.null_count > 1)}"
                    return SchemaError(f"{self.path}: {error} ({nulls}) at row group {group}", error.column)
        return SchemaError(f"{self.path}: {error}", error.column)

    def _group_of(self, row: int) -> int:
        return min(bisect.bisect_right(self._group_ends, row), max(len(self._group_ends) - 1, 0))

    def _with_constants(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for name, value in self.constants.items():
            batch = batch.append_column(name, pa.array([value.value] * batch.num_rows, value.type))
        return batch

    def _check_names(self, wanted: Iterable[str]) -> None:
        names = self.schema.names
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                raise SchemaError(f"{self.path}: column {name!r}: expected once, got {names.count(name)} of that name")
        for name in wanted:
            if name not in names and name not in self.constants:
                raise SchemaError(f"{self.path}: missing column {name!r}; the file has {', '.join(names)}", name)
