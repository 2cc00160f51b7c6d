"""Scores parquet files: checks all of them, then writes one output file after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Literal

import numpy as np
import pyarrow as pa

from pepnet_infer.checked import check_option
from pepnet_infer.encode.features import Features
from pepnet_infer.encode.row_errors import Mask
from pepnet_infer.engine import Engine
from pepnet_infer.errors import PepnetError, SchemaError, StoreError
from pepnet_infer.parquet.options import BATCH_ROWS, OnBadRow, OnFault, ScoreOptions, output_schema
from pepnet_infer.parquet.plan import Job, PathLike, plan
from pepnet_infer.parquet.resume import Request
from pepnet_infer.parquet.sink import Sink, alone, check_names, lock_of, remove_leftovers
from pepnet_infer.parquet.source import Source
from pepnet_infer.parquet.summary import Summary, add_counts
from pepnet_infer.scores import Scores

#: Backend options for throughput: threads that spin take the CPU from whatever else runs.
OFFLINE = {"spin": False}
#: Called with (rows scored so far, rows to score).
Progress = Callable[[int, int], None]


def score_parquet(
    bundle: Engine | PathLike,
    inputs: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    columns: Sequence[str] | Literal["all"] | None = None,
    on_bad_row: OnBadRow = "raise",
    on_fault: OnFault = "raise",
    batch_rows: int = BATCH_ROWS,
    resume: bool = True,
    progress: Progress | None = None,
) -> Summary:
    """Scores parquet files and writes one file per input file to `out`, with a column `score_<task>` per task.

    bundle: a path, or an engine loaded with the backend of your choice. inputs: files, folders and patterns, see
    `plan`; `key=value` folders give columns that the files lack, see `FolderColumns`. columns: those carried through;
    None is the ids and the domain, "all" is every column. on_bad_row: "null" writes null scores for a row with a null,
    an id out of range, NaN, an unknown domain, or scores that are no numbers in [0, 1] (`Scores.invalid`), and counts
    it; what is wrong with a whole column raises in any case.

    on_fault: what it means that ids get default rows because the store failed or was late. "raise" stops there with a
    StoreError; files before it stay. "unfinished" goes on, and leaves such a file under the hidden name
    `.NAME.unfinished`: see `Summary.unfinished`; the next run scores it anew. "accept" gives it its name, and says so
    in its metadata; only a run that accepts it too takes it for finished.

    Rows keep their order. A file appears only when it is whole and on the disk. With `resume`, outputs that an earlier
    run finished for the same request are kept: the same input by its content, values from folders' names, bundle,
    updates and store, options and backend, and an output that nobody changed since. Where it cannot be known which rows
    an engine has, because its cache was updated or its store has no `identity`, files are scored anew. The result of a
    killed and repeated run is the same bytes as of one that went through. A file is all or nothing: give inputs of some
    million rows each rather than one huge file. Memory does not grow with the input.

    All files are opened and their columns checked before the first row is scored. Raises SchemaError for columns and
    values and PepnetError for files and folders, naming the file and the place in it; StoreError for a store that
    fails, see `on_fault`; ConfigError for an option; and for a path what `Engine.load` raises.
    """
    options = ScoreOptions(columns, on_bad_row, batch_rows, on_fault)
    check_option("resume", resume, bool)
    jobs = plan(inputs, out)
    if isinstance(bundle, Engine):
        return _Run(bundle, options, progress).all(jobs, resume)
    with Engine.load(bundle, options=OFFLINE) as engine:
        return _Run(engine, options, progress).all(jobs, resume)


class _Run:
    def __init__(self, engine: Engine, options: ScoreOptions, progress: Progress | None) -> None:
        self._engine, self._options, self._progress = engine, options, progress
        self._schema = engine.schema
        self._summary = Summary()
        self._total = 0

    def all(self, jobs: Sequence[Job], resume: bool) -> Summary:
        begin = perf_counter()
        todo = []
        for job in jobs:
            rows = self._check(job, resume)
            if rows is None:
                remove_leftovers(job.target)
                self._summary.skipped.append(job.target)
            else:
                self._total += rows
                todo.append(job)
        self._report()
        for job in todo:
            self._score(job)
        self._summary.seconds = perf_counter() - begin
        return self._summary

    def _check(self, job: Job, resume: bool) -> int | None:
        """Returns the rows there are to score; None if an earlier run did. Raises what can be found without reading."""
        check_names(job.target)
        with Source(job, self._schema) as source:
            carried = self._options.carried(source, self._schema)
            request = self._request(source, carried)
            try:
                self._engine.encode(source.empty_batch())
            except SchemaError as error:
                raise source.locate_type(error) from error
            done = request.finished(job.target, self._options.on_fault == "accept", source.content)
            return None if done and resume else source.rows

    def _score(self, job: Job) -> None:
        job.check_inside()
        # All rows of a file are scored by one version of the model, whatever the engine follows.
        with self._engine.hold(), Source(job, self._schema) as source:
            carried = self._options.carried(source, self._schema)
            request, content = self._request(source, carried), source.content()
            schema = output_schema(source, carried, self._schema, request.schema_metadata())
            unavailable: dict[str, int] = {}
            with alone(job.target), lock_of(job.target), Sink(job.target, schema) as sink:
                for start, rows in source.batches(self._options.batch_rows, carried):
                    with source.located(start):
                        features, bad = self._encode(source, start, rows)
                    scores = self._engine.score_features(features)
                    add_counts(unavailable, self._available(source, start, scores))
                    bad = self._without_score(source, start, scores, bad)
                    columns = [rows.column(name) for name in carried]
                    columns += [pa.array(column, mask=bad) for column in np.ascontiguousarray(scores.values.T)]
                    sink.write(pa.RecordBatch.from_arrays(columns, schema=schema))
                    self._count(rows.num_rows, bad)
                if not source.unchanged(content):
                    raise PepnetError(f"{source.path}: expected a file that stays as it is, but it changed meanwhile")
                if self._engine.identity() != request.scorer:  # somebody updated the cache meanwhile
                    request = replace(request, scorer={**request.scorer, "rows": None})
                finished = not unavailable or self._options.on_fault == "accept"
                sink.commit(request.metadata(content, unavailable, sink.written()), finished)
        self._summary.files += 1
        if not finished:
            self._summary.unfinished.append(job.target)

    def _request(self, source: Source, carried: Sequence[str]) -> Request:
        return Request.of(self._engine.identity(), self._options, source, carried)

    def _encode(self, source: Source, start: int, rows: pa.RecordBatch) -> tuple[Features, Mask | None]:
        if self._options.on_bad_row == "raise":
            return self._engine.encode(rows), None
        encoded = self._engine.encode_rows(rows)
        for error in encoded.errors:
            self._summary.faults.setdefault(str(error.column), str(source.locate(error, start)))
        return encoded.features, encoded.bad

    def _available(self, source: Source, start: int, scores: Scores) -> Mapping[str, int]:
        """Returns which ids of a batch got default rows because of the store. Raises StoreError if that is to stop."""
        add_counts(self._summary.unknown, scores.unknown)
        add_counts(self._summary.unavailable, scores.unavailable)
        if scores.unavailable and self._options.on_fault == "raise":
            cache = self._engine.cache
            said = None if cache is None else cache.stats()["store"]["last_fault"]
            reason = "it was late" if said is None else said.rstrip(".")
            counts = ", ".join(f"{name} {count}" for name, count in scores.unavailable.items())
            raise StoreError(
                f"{source.path}: expected the store's rows, got default rows for ids ({counts}) of the batch from row"
                f" {start}: {reason}. Run again to go on from this file, or see on_fault"
            )
        return scores.unavailable

    def _without_score(self, source: Source, start: int, scores: Scores, bad: Mask | None) -> Mask | None:
        """Returns the rows to write null scores for: bad ones, and those whose scores are no numbers in [0, 1]."""
        if scores.invalid is None:
            return bad
        invalid = scores.invalid if bad is None else scores.invalid & ~bad
        if not invalid.any():
            return bad
        error = SchemaError(expected="scores in [0, 1]", got="one that is not", row=int(np.argmax(invalid)))
        located = source.locate(error, start)
        if self._options.on_bad_row == "raise":
            raise located
        self._summary.faults.setdefault("scores", str(located))
        return invalid if bad is None else bad | invalid

    def _count(self, rows: int, bad: Mask | None) -> None:
        self._summary.rows += rows
        if bad is not None:
            self._summary.null_rows += int(bad.sum())
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._summary.rows, self._total)
