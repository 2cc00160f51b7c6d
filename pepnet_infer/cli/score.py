"""`pepnet-infer score`: parquet in, parquet with scores out.

Exit code 0: every file is finished. 1: an error. 2: wrong usage. 3: all files were scored, some with default rows
because the store of rows failed, and these are not finished (`--on-fault unfinished`): the same command scores them
anew.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from pepnet_infer.cli.output import AsJson, as_path, emit, progress
from pepnet_infer.engine import Engine
from pepnet_infer.parquet import Summary, score_parquet
from pepnet_infer.parquet.options import BATCH_ROWS
from pepnet_infer.parquet.run import OFFLINE
from pepnet_infer.quoting import printable
from pepnet_infer.rows.cache.config import CacheConfig, Policy
from pepnet_infer.sync.logs.open import open_transport


class CachePolicy(StrEnum):
    """What the cache evicts."""

    gset = "gset"
    lru = "lru"
    lfu = "lfu"
    sieve = "sieve"
    s3fifo = "s3fifo"
    none = "none"


class OnBadRow(StrEnum):
    """What a row with a fault does."""

    raise_ = "raise"
    null = "null"


class FaultRule(StrEnum):
    """What default rows mean that are there because the store failed or was late."""

    raise_ = "raise"
    unfinished = "unfinished"
    accept = "accept"


#: The exit code when some files are not finished.
UNFINISHED = 3


def score(
    bundle: Annotated[Path, typer.Argument(parser=as_path, metavar="BUNDLE", help="The bundle's directory.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet files, folders or patterns.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="A local folder for the scored files, under the same names.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: a GPU where one answers.")] = "cpu",
    backend: Annotated[str, typer.Option(help="auto, native or onnxruntime.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, or with native bf16, or int8 if the bundle offers it.")
    ] = "fp32",
    threads: Annotated[int | None, typer.Option(help="Default: what the cpuset and the cgroup allow.")] = None,
    cache_policy: Annotated[CachePolicy, typer.Option(help="What the cache of rows evicts; none: no cache.")] = (
        CachePolicy.gset
    ),
    cache_bytes: Annotated[str, typer.Option(metavar="SIZE", help="Of the cache at most, such as 512MiB.")] = "512MiB",
    columns: Annotated[
        str | None,
        typer.Option(help="Carried through: all, names with commas, or '' for none. Default: the ids and the domain."),
    ] = None,
    on_bad_row: Annotated[OnBadRow, typer.Option(help="Stop at a bad row, or give it null scores.")] = OnBadRow.raise_,
    on_fault: Annotated[
        FaultRule,
        typer.Option(
            help="When ids get default rows because their store fails: stop; go on, but leave the file unfinished "
            "under a hidden name (exit code 3); or accept the file as it is."
        ),
    ] = FaultRule.raise_,
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
    as_json: AsJson = False,
) -> None:
    """Score parquet files: one output file per input file, rows in order, one float32 column score_TASK per task.

    A file appears only when it is whole; run the same command again after an interruption. With --follow each file is
    scored by the newest version there is when its turn comes.

    Exit code 0: all files are finished. 1: an error. 2: wrong usage. 3: some are not finished, see --on-fault.
    """
    cache = None if cache_policy is CachePolicy.none else CacheConfig(cast(Policy, cache_policy.value), cache_bytes)
    carried = (
        columns
        if columns is None or columns == "all"
        else [name.strip() for name in columns.split(",") if columns.strip()]
    )
    options = OFFLINE if device == "cpu" else {}  # kernels on a GPU have no threads that could spin
    with (
        Engine.load(
            bundle,
            device=device,
            backend=backend,
            precision=precision,
            threads=threads,
            cache=cache,
            options=options,
        ) as engine,
        Progress(
            "[progress.description]{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            _RowsPerSecond(),
            TimeRemainingColumn(),
            console=progress,
        ) as bar,
    ):
        if follow is not None:
            engine.follow(open_transport(follow))
        task = bar.add_task("rows", total=None)
        summary = score_parquet(
            engine,
            inputs,
            out,
            columns=carried,
            on_bad_row="null" if on_bad_row is OnBadRow.null else "raise",
            on_fault=on_fault.value,
            batch_rows=batch_rows,
            resume=resume,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        result = _result(summary, engine, out)
    emit(result, as_json, lambda console: _render(console, result))
    if summary.unfinished:
        raise typer.Exit(UNFINISHED)


class _RowsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} rows/s")


def _result(summary: Summary, engine: Engine, out: str) -> dict[str, Any]:
    stats = engine.stats()
    return {
        "out": out,
        "rows": summary.rows,
        "files": summary.files,
        "seconds": round(summary.seconds, 3),
        "rows_per_s": round(summary.rows_per_s, 1),
        "skipped": [str(path) for path in summary.skipped],
        "null_rows": summary.null_rows,
        "faults": summary.faults,
        "unknown": summary.unknown,
        "unavailable": summary.unavailable,
        "unfinished": [str(path) for path in summary.unfinished],
        "time_us": stats["time_us"],
        "cache": stats["cache"],
        "backend": stats["backend"],
        "model_version": stats["model_version"],
        "sync": stats["sync"],
        "tasks": list(engine.tasks),
    }


def _render(console: Console, result: dict[str, Any]) -> None:
    def say(text: str) -> None:
        console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    backend = result["backend"]
    say(
        f"{result['rows']:,} rows in {result['files']} file{'s' * (result['files'] != 1)} scored in "
        f"{result['seconds']:.1f} s, {result['rows_per_s']:,.0f} rows/s, written to {result['out']}"
    )
    say(
        f"model version {result['model_version']} on {backend['backend']} {backend.get('isa', backend['device'])} "
        f"{backend['precision']}, {backend['threads']} threads"
    )
    sync = result["sync"]
    if sync is not None:
        refused = sum(sync["refused"].values())
        say(f"followed: {sync['applied']} deltas with {sync['rows']:,} rows applied, {refused} refused")
        if not sync["following"]:
            say(f"the log was not read for the last {sync['last_read_s']:.0f} s: {sync['last_fault']}")
    cache = result["cache"]
    if cache is not None and (looked := cache["total"]["keys"]):
        say(
            f"{cache['policy']} cache: {cache['total']['hits'] / looked:.1%} of {looked:,} ids were there, "
            f"{cache['rows']:,} of {cache['capacity_rows']:,} rows in {cache['memory_bytes'] / 2**20:.1f} MiB"
        )
    if result["skipped"]:
        say(f"{len(result['skipped'])} kept that an earlier run had finished")
    if result["null_rows"]:
        say(f"{result['null_rows']:,} bad rows have null scores; the first of each column:")
        for fault in result["faults"].values():
            say(f"  {fault}")
    say(f"ids that the model does not know, scored with the default row: {_counts(result['unknown'])}")
    if result["unavailable"]:
        say(f"ids scored with the default row because the store of rows failed: {_counts(result['unavailable'])}")
    if result["unfinished"]:
        say(f"{len(result['unfinished'])} files are not finished because of that; the same command scores them anew:")
        for path in result["unfinished"]:
            say(f"  {path}")


def _counts(by_field: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in by_field.items()) or "none"
