"""`pepnet-infer score`: parquet in, parquet with scores out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import typer

from pepnet_infer.backends.protocol import MAX_THREADS
from pepnet_infer.cli.output import AsJson, ExitCode, as_path, emit, expect_bundle, progress, say
from pepnet_infer.cli.progress import ProgressOption, Watch
from pepnet_infer.engine import Engine
from pepnet_infer.parquet import Progress, Summary, score_parquet
from pepnet_infer.parquet.run import BATCH_ROWS, OFFLINE, OnBadRow, OnFault
from pepnet_infer.process.cpu import cpu_limits
from pepnet_infer.rows.cache.config import CacheConfig, Policy
from pepnet_infer.sync.logs.open import open_transport

CachePolicy = Literal[Policy, "none"]


def score(
    bundle: Annotated[Path, typer.Argument(parser=as_path, metavar="BUNDLE", help="The bundle's directory.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet files, folders or patterns.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="A local folder for the scored files, under the same names.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: a GPU where one answers.")] = "cpu",
    backend: Annotated[str, typer.Option(help="auto, native or onnxruntime.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, or with native bf16, or int8 if the bundle offers it.")
    ] = "fp32",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_THREADS, help="Of scoring and of reading. Default: what the cpuset and the cgroup allow."
        ),
    ] = None,
    cache_policy: Annotated[CachePolicy, typer.Option(help="What the cache of rows evicts; none: no cache.")] = "gset",
    cache_bytes: Annotated[
        str, typer.Option(metavar="SIZE", help="Maximum size of the cache, e.g. 512MiB.")
    ] = "512MiB",
    columns: Annotated[
        str | None,
        typer.Option(help="Carried through: all, names with commas, or '' for none. Default: the ids and the domain."),
    ] = None,
    on_bad_row: Annotated[OnBadRow, typer.Option(help="Stop at a bad row, or give it null scores.")] = "raise",
    max_bad_rows: Annotated[
        int | None,
        typer.Option(min=0, help="With --on-bad-row null: exit code 3 when more rows than this have null scores."),
    ] = None,
    on_fault: Annotated[
        OnFault,
        typer.Option(
            help="When ids get default rows because their store fails: stop; go on, but leave the file unfinished "
            "under a hidden name (exit code 3); or accept the file as it is."
        ),
    ] = "raise",
    batch_rows: Annotated[int, typer.Option(help="Rows scored at a time.")] = BATCH_ROWS,
    resume: Annotated[
        bool, typer.Option(help="Keep files that an earlier run finished for the same input, model and options.")
    ] = True,
    follow: Annotated[
        str | None,
        typer.Option(
            metavar="LOG", help="Keep up with what is published there: a folder or redis://…; an error without a log."
        ),
    ] = None,
    show: ProgressOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Score parquet files: one output file per input file, rows in order, one float32 column score_TASK per task.

    A file appears only when it is whole; run the same command again after an interruption. With --follow each file is
    scored by the newest version there is when its turn comes.

    Exit code 0: all files are finished. 1: an error. 2: wrong usage. 3: see --on-fault and --max-bad-rows.

    Example: pepnet-infer score bundle/ in/ --out scored/ --on-bad-row null --max-bad-rows 1000
    """
    if max_bad_rows is not None and on_bad_row != "null":
        raise typer.BadParameter("--max-bad-rows counts rows with null scores: add --on-bad-row null")
    expect_bundle(bundle)
    cache = None if cache_policy == "none" else CacheConfig(cache_policy, cache_bytes)
    carried: list[str] | Literal["all"] | None = "all" if columns == "all" else None
    if columns is not None and columns != "all":
        carried = [name.strip() for name in columns.split(",") if columns.strip()]
    # Our kernels on a GPU have no threads that could spin.
    options = {} if backend == "native" and device != "cpu" else OFFLINE
    _set_threads(threads)
    with Watch(show) as watch:
        watch.step("load the bundle")
        with Engine.load(
            bundle,
            device=device,
            backend=backend,
            precision=precision,
            threads=threads,
            cache=cache,
            options=options,
        ) as engine:
            if follow is not None:
                engine.follow(open_transport(follow))
            watch.step("check the inputs")
            summary = score_parquet(
                engine,
                inputs,
                out,
                columns=carried,
                on_bad_row=on_bad_row,
                on_fault=on_fault,
                batch_rows=batch_rows,
                resume=resume,
                progress=lambda now: _show(watch, now),
            )
            result = _result(summary, engine, out)
    result["incomplete"] = list(_incomplete(summary, max_bad_rows))
    emit(result, as_json, _lines(result))
    for sentence in result["incomplete"]:
        say(progress, f"incomplete: {sentence}")
    if result["incomplete"]:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _set_threads(threads: int | None) -> None:
    """Lets pyarrow, which knows of no quota, have no more threads than scoring."""
    allowed = cpu_limits()
    if threads is not None and threads > allowed.threads:
        said = f"--threads {threads}: more than the CPUs this process may use ({allowed.why}), so that they take turns"
        say(progress, f"note: {said}")
    pa.set_cpu_count(threads or allowed.threads)
    pa.set_io_thread_count(threads or allowed.threads)


def _show(watch: Watch, now: Progress) -> None:
    file = now.file
    if file is None:
        watch.step(f"score {now.of_rows:,} rows in {now.of_files} file{'s' * (now.of_files != 1)}")
        return
    rows = f"{file.rows:,} rows" if file.rows == file.of_rows else f"{file.rows:,} of {file.of_rows:,} rows"
    here = f"{file.path}: {rows}, {file.null_rows:,} null rows, {file.seconds:.1f} s"
    total = f"{now.rows:,} of {now.of_rows:,} rows, {now.null_rows:,} null rows, {now.files} of {now.of_files} files"
    if now.event == "file":
        rate = f"{file.rows / file.seconds:,.0f} rows/s" if file.seconds else ""
        watch.line(f"{here}, {rate} (file {now.files} of {now.of_files})")
    rate = f"{now.rows / max(now.seconds, 1e-9):,.0f} rows/s"
    watch.at(now.rows, now.of_rows, rate, f"{here}; in all {total}, {now.seconds:.1f} s")


def _incomplete(summary: Summary, max_bad_rows: int | None) -> Iterator[str]:
    """Yields why the exit code is 3."""
    if summary.unfinished:
        count = len(summary.unfinished)
        yield f"{count} files have default rows because the store failed; the same command scores them anew"
    if max_bad_rows is not None and summary.null_rows > max_bad_rows:
        yield f"{summary.null_rows:,} rows have null scores, more than --max-bad-rows {max_bad_rows:,} allows"


def _result(summary: Summary, engine: Engine, out: str) -> dict[str, Any]:
    stats = dict(engine.stats())
    return {
        "out": out,
        **vars(summary),
        "seconds": round(summary.seconds, 3),
        "rows_per_s": round(summary.rows_per_s, 1),
        "peak_rss": _peak_rss(),
        "skipped": list(map(str, summary.skipped)),
        "unfinished": list(map(str, summary.unfinished)),
        **{name: stats[name] for name in ("time_us", "cache", "backend", "model_version", "sync")},
        "tasks": list(engine.tasks),
    }


def _peak_rss() -> int | None:
    """Returns the peak resident set in bytes, None where the system does not say it.

    `ru_maxrss` will not do: it begins with the size of the process that started this one.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


def _lines(result: dict[str, Any]) -> Iterator[str]:
    """Yields what a person is told of the run."""
    backend, sync, cache = result["backend"], result["sync"], result["cache"]
    took = f"{result['seconds']:.1f} s, {result['rows_per_s']:,.0f} rows/s"
    files = f"{result['files']} file{'s' * (result['files'] != 1)}"
    yield f"{result['rows']:,} rows in {files} scored in {took}, written to {result['out']}"
    on = f"{backend['backend']} {backend.get('isa', backend['device'])} {backend['precision']}"
    yield f"model version {result['model_version']} on {on}, {backend['threads']} threads"
    if sync is not None:
        refused = sum(sync["refused"].values())
        yield f"followed: {sync['applied']} deltas with {sync['rows']:,} rows applied, {refused} refused"
        if not sync["following"]:
            yield f"the log was not read for the last {sync['last_read_s']:.0f} s: {sync['last_fault']}"
    if cache is not None and (looked := cache["total"]["keys"]):
        there = f"{cache['total']['hits'] / looked:.1%} of {looked:,} ids were there"
        room = f"{cache['rows']:,} of {cache['capacity_rows']:,} rows in {cache['memory_bytes'] / 2**20:.1f} MiB"
        yield f"{cache['policy']} cache: {there}, {room}"
    if result["skipped"]:
        yield f"{len(result['skipped'])} kept that an earlier run had finished, {result['skipped_rows']:,} rows"
    if result["null_rows"]:
        yield f"{result['null_rows']:,} bad rows have null scores; the first of each column:"
        yield from (f"  {fault}" for fault in result["faults"].values())
    yield f"ids that the model does not know, scored with the default row: {_counts(result['unknown'])}"
    if result["unavailable"]:
        yield f"ids scored with the default row because the store of rows failed: {_counts(result['unavailable'])}"
    if result["unfinished"]:
        yield "not finished because of that:"
        yield from (f"  {path}" for path in result["unfinished"])


def _counts(by_field: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in by_field.items()) or "none"
