"""Scores parquet files: checks all of them, then writes one output file after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from msgspec import Meta

from pepnet_infer.encode.row_errors import Mask
from pepnet_infer.engine import Engine
from pepnet_infer.errors import ConfigError, PepnetError, SchemaError, StoreError
from pepnet_infer.parquet.plan import Job, PathLike, plan
from pepnet_infer.parquet.resume import Request
from pepnet_infer.parquet.sink import Sink, alone, check_names, lock_of, remove_leftovers
from pepnet_infer.parquet.source import Source
from pepnet_infer.parquet.summary import Counts, FileProgress, Progress, Summary, add_counts
from pepnet_infer.quoting import quote
from pepnet_infer.scores import Scores
from pepnet_infer.validation import Options, check_option

#: Backend options for throughput: threads that spin take the CPU from whatever else runs.
OFFLINE = {"spin": False}
OnBadRow = Literal["raise", "null"]
OnFault = Literal["raise", "unfinished", "accept"]
#: Large enough that the work per batch outweighs Python's, small enough that a wide model's inputs stay below 100 MB.
BATCH_ROWS = 8192
_MAX_BATCH_ROWS = 1 << 20


class ScoreOptions(Options, frozen=True):
    """Columns carried through (None: the ids and the domain), what a bad row and a failing store do, rows per batch.

    Raises ConfigError.
    """

    columns: Sequence[str] | Literal["all"] | None = None
    on_bad_row: OnBadRow = "raise"
    batch_rows: Annotated[int, Meta(ge=1, le=_MAX_BATCH_ROWS)] = BATCH_ROWS
    on_fault: OnFault = "raise"

    def __post_init__(self) -> None:
        if isinstance(self.columns, (set, frozenset)):  # another order in each process
            raise ConfigError(f"columns: expected a list, got {quote(self.columns)}")
        Options.__post_init__(self)

    def to_json(self) -> dict[str, object]:
        """Returns what the bytes of the output depend on; not `on_fault`, without whose rows all are the same."""
        named = self.columns if self.columns is None or isinstance(self.columns, str) else list(self.columns)
        return {"columns": named, "on_bad_row": self.on_bad_row, "batch_rows": self.batch_rows}


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
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Scores parquet files and writes one file per input file to `out`, with a column `score_<task>` per task.

    bundle: a path, or an engine loaded with the backend of your choice. inputs: files, folders and patterns, see
    `plan`; `key=value` folders give columns that the files lack, see `folder_column`. columns: those carried through;
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
    million rows each rather than one huge file. Memory does not grow with the input. progress: called
    once all files are checked, after each batch and after each file.

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
    def __init__(self, engine: Engine, options: ScoreOptions, progress: Callable[[Progress], None] | None) -> None:
        self._engine, self._options, self._progress = engine, options, progress
        self._summary = Summary()
        self._todo: list[Job] = []
        self._rows = 0  # to score
        self._begin = perf_counter()

    def all(self, jobs: Sequence[Job], resume: bool) -> Summary:
        for job in jobs:
            if job.out.resolve().is_relative_to(self._engine.bundle.path):  # it would not open again
                raise PepnetError(f"{job.out}: expected an output folder outside the bundle, got one inside")
            self._check(job, resume)
        self._report("checked")
        for job in self._todo:
            self._score(job)
        self._summary.seconds = perf_counter() - self._begin
        return self._summary

    def _open(self, job: Job) -> Source:
        return Source(job, self._engine.schema, self._options.columns)

    def _request(self, source: Source) -> Request:
        return Request(self._engine.identity(), self._options.to_json(), source.folders(), source.size())

    def _check(self, job: Job, resume: bool) -> None:
        """Finds what a job is: one to do, or one that an earlier run did. Raises what can be found without reading."""
        check_names(job.target)
        with self._open(job) as source:
            try:
                self._engine.encode(source.empty_batch())
            except SchemaError as error:
                raise source.locate_type(error) from error
            accept = self._options.on_fault == "accept"
            finished = self._request(source).finished(job.target, accept, source.content)
        if finished is None or not resume:
            self._rows += source.rows
            self._todo.append(job)
            return
        remove_leftovers(job.target)
        self._summary.skipped.append(job.target)
        self._summary.skipped_rows += source.rows
        self._summary.add(source.path, finished)

    def _score(self, job: Job) -> None:
        job.check_inside()
        # All rows of a file are scored by one version of the model, whatever the engine follows.
        with self._engine.hold(), self._open(job) as source:
            file = _File(self._engine, self._options, source)
            request, content = self._request(source), source.content()
            schema = source.output_schema(request.schema_metadata())
            with alone(job.target), lock_of(job.target), Sink(job.target, schema) as sink:
                for start, rows in source.batches(self._options.batch_rows):
                    scores, bad = file.score(start, rows)
                    add_counts(self._summary.unknown, scores.unknown)
                    columns = [rows.column(name) for name in source.carried]
                    columns += [pa.array(column, mask=bad) for column in np.ascontiguousarray(scores.values.T)]
                    sink.write(pa.RecordBatch.from_arrays(columns, schema=schema))
                    self._summary.rows += rows.num_rows
                    self._report("batch", file)
                if not source.unchanged(content):
                    raise PepnetError(f"{source.path}: expected a file that stays as it is, but it changed meanwhile")
                if self._engine.identity() != request.scorer:  # somebody updated the cache meanwhile
                    request = replace(request, scorer={**request.scorer, "rows": None})
                finished = not file.counts.unavailable or self._options.on_fault == "accept"
                sink.commit(request.metadata(content, file.counts, sink.written()), finished)
        self._summary.add(source.path, file.counts)
        self._summary.files += 1
        if not finished:
            self._summary.unfinished.append(job.target)
        self._report("file", file)

    def _report(self, event: Literal["checked", "batch", "file"], file: _File | None = None) -> None:
        if self._progress is None:
            return
        done, null_rows = self._summary, self._summary.null_rows
        if event == "batch" and file is not None:  # whose counts are no part of the summary yet
            null_rows += file.counts.null_rows
        seconds, at = perf_counter() - self._begin, None if file is None else file.progress()
        self._progress(Progress(event, done.files, len(self._todo), done.rows, self._rows, null_rows, seconds, at))


class _File:
    """Scores the batches of one file and counts what is wrong with its rows."""

    def __init__(self, engine: Engine, options: ScoreOptions, source: Source) -> None:
        self._engine, self._options, self._source = engine, options, source
        self.counts = Counts()
        self._rows = 0
        self._begin = perf_counter()

    def progress(self) -> FileProgress:
        seconds = perf_counter() - self._begin
        return FileProgress(self._source.path, self._rows, self._source.rows, self.counts.null_rows, seconds)

    def score(self, start: int, rows: pa.RecordBatch) -> tuple[Scores, Mask | None]:
        """Returns the scores of the batch that begins at row `start`, and which rows get null ones."""
        to_null, bad = self._options.on_bad_row == "null", None
        with self._source.located(start):
            if to_null:
                encoded = self._engine.encode_rows(rows)
                features, bad = encoded.features, encoded.bad
                for error in encoded.errors:
                    self._note(str(error.column), error, start)
            else:
                features = self._engine.encode(rows)
            scores = self._engine.score_features(features)
            if scores.unavailable and self._options.on_fault == "raise":
                raise self._store_failed(start, scores)
            invalid = scores.invalid if scores.invalid is None or bad is None else scores.invalid & ~bad
            if invalid is not None and invalid.any():
                error = SchemaError(expected="scores in [0, 1]", got="one that is not", row=int(np.argmax(invalid)))
                if not to_null:
                    raise error
                self._note("scores", error, start)
                bad = invalid if bad is None else bad | invalid
        add_counts(self.counts.unavailable, scores.unavailable)
        self.counts.null_rows += 0 if bad is None else int(bad.sum())
        self._rows += rows.num_rows
        return scores, bad

    def _note(self, column: str, error: SchemaError, start: int) -> None:
        self.counts.faults.setdefault(column, str(self._source.place(error, start)))

    def _store_failed(self, start: int, scores: Scores) -> StoreError:
        cache = self._engine.cache
        said = None if cache is None else cache.stats()["store"]["last_fault"]
        reason = "it was late" if said is None else said.rstrip(".")
        counts = ", ".join(f"{name} {count}" for name, count in scores.unavailable.items())
        return StoreError(
            f"{self._source.path}: expected the store's rows, got default rows for ids ({counts}) of the batch from row"
            f" {start}: {reason}. Run again to go on from this file, or see on_fault"
        )
