"""Scores parquet files: checks all of them, then writes one output file after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
import pyarrow as pa

from pepnet_infer.engine import Engine
from pepnet_infer.errors import PepnetError, SchemaError
from pepnet_infer.faults import Mask
from pepnet_infer.features import Features
from pepnet_infer.offline.options import BATCH_ROWS, OnBadRow, Options, output_schema
from pepnet_infer.offline.plan import Constant, Job, PathLike, constants, plan
from pepnet_infer.offline.resume import metadata, model_identity, up_to_date
from pepnet_infer.offline.sink import Sink, remove_leftover
from pepnet_infer.offline.source import Source

#: Backend options for throughput: threads that spin take the CPU from whatever else runs.
OFFLINE = {"spin": False}
#: Called with (rows scored so far, rows to score).
Progress = Callable[[int, int], None]


@dataclass
class Summary:
    """What a run did. Rows of files that an earlier run had finished are not counted."""

    files: int = 0
    rows: int = 0
    seconds: float = 0.0
    null_rows: int = 0  # rows with a fault, written with null scores
    skipped: list[Path] = field(default_factory=list)  # outputs that were finished already
    faults: dict[str, str] = field(default_factory=dict)  # column → the first fault of a row there, and where

    @property
    def rows_per_s(self) -> float:
        """Rows scored a second, reading and writing included."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


def score_parquet(
    bundle: Engine | PathLike,
    inputs: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    columns: Sequence[str] | Literal["all"] | None = None,
    on_bad_row: OnBadRow = "raise",
    batch_rows: int = BATCH_ROWS,
    resume: bool = True,
    progress: Progress | None = None,
) -> Summary:
    """Scores parquet files and writes one file per input file to `out`, with a column `score_<task>` per task.

    bundle: a path, or an engine loaded with the backend of your choice. inputs: files, folders and patterns, see
    `plan`; `key=value` folders give columns that the files lack. columns: those carried through; None is the ids and
    the domain, "all" is every column. on_bad_row: "null" writes null scores for a row with a null, an id out of range,
    NaN or an unknown domain, and counts it; what is wrong with a whole column raises in any case.

    Rows keep their order. A file appears only when it is whole and on the disk. With `resume`, outputs that an earlier
    run finished for the same model, options and input are kept; the result of a killed and repeated run is the same
    bytes as of one that went through. A file is all or nothing: give inputs of some million rows each rather than one
    huge file. Memory does not grow with the input.

    All files are opened and their columns checked before the first row is scored. Raises SchemaError for columns and
    values, PepnetError for files and folders, naming the file and the place in it.
    """
    options = Options(columns, on_bad_row, batch_rows)
    jobs = plan(inputs, out)
    if isinstance(bundle, Engine):
        return _Run(bundle, options, progress).all(jobs, resume)
    with Engine.load(bundle, options=OFFLINE) as engine:
        return _Run(engine, options, progress).all(jobs, resume)


class _Run:
    def __init__(self, engine: Engine, options: Options, progress: Progress | None) -> None:
        self._engine, self._options, self._progress = engine, options, progress
        self._schema = engine.schema
        self._summary = Summary()
        self._total = 0

    def all(self, jobs: Sequence[Job], resume: bool) -> Summary:
        begin = perf_counter()
        given = constants(jobs, self._schema)
        todo = []
        for job, values in zip(jobs, given, strict=True):
            rows = self._check(job, values, resume)
            if rows is None:
                remove_leftover(job.target)
                self._summary.skipped.append(job.target)
            else:
                self._total += rows
                todo.append((job, values))
        self._report()
        for job, values in todo:
            self._score(job, values)
        self._summary.seconds = perf_counter() - begin
        return self._summary

    def _check(self, job: Job, values: Mapping[str, Constant], resume: bool) -> int | None:
        """Returns the rows there are to score; None if an earlier run did. Raises what can be found without reading."""
        with Source(job, self._schema, values) as source:
            self._options.carried(source, self._schema)
            try:
                self._engine.encode(source.empty_batch())
            except SchemaError as error:
                raise source.locate_type(error) from error
            done = up_to_date(job.target, source, self._metadata(source))
            return None if done and resume else source.rows

    def _score(self, job: Job, values: Mapping[str, Constant]) -> None:
        # All rows of a file are scored by one version of the model, whatever the engine follows.
        with self._engine.hold(), Source(job, self._schema, values) as source:
            carried = self._options.carried(source, self._schema)
            schema = output_schema(source, carried, self._schema, self._metadata(source))
            with Sink(job.target, schema) as sink:
                for start, rows in source.batches(self._options.batch_rows, carried):
                    with source.located(start):
                        features, bad = self._encode(source, start, rows)
                    scores = self._engine.score_features(features).values
                    columns = [rows.column(name) for name in carried]
                    columns += [pa.array(column, mask=bad) for column in np.ascontiguousarray(scores.T)]
                    sink.write(pa.RecordBatch.from_arrays(columns, schema=schema))
                    self._count(rows.num_rows, bad)
                if not source.unchanged():
                    raise PepnetError(f"{source.path}: expected a file that stays as it is, but it changed meanwhile")
                sink.commit()
        self._summary.files += 1

    def _encode(self, source: Source, start: int, rows: pa.RecordBatch) -> tuple[Features, Mask | None]:
        if self._options.on_bad_row == "raise":
            return self._engine.encode(rows), None
        encoded = self._engine.encode_rows(rows)
        for fault in encoded.faults:
            error = SchemaError(fault.message, fault.column, fault.first)
            self._summary.faults.setdefault(fault.column, str(source.locate(error, start)))
        return encoded.features, encoded.bad

    def _count(self, rows: int, bad: Mask | None) -> None:
        self._summary.rows += rows
        if bad is not None:
            self._summary.null_rows += int(bad.sum())
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._summary.rows, self._total)

    def _metadata(self, source: Source) -> dict[bytes | str, bytes | str]:
        engine = self._engine
        model = model_identity(engine.bundle, engine.stats()["backend"])
        if engine.cache is not None and engine.cache.config.dtype != "float32":
            model["cached_rows"] = engine.cache.config.dtype  # with float32 scores are those without a cache
        return metadata(model, self._options.to_json(), source)
