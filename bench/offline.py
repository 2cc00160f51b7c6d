"""Parquet scoring: rows a second, and whether memory stays the same when the input grows."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pepnet_infer.bench import machine
from pepnet_infer.bench.machine_table import machine_line, machine_table
from pepnet_infer.bench.report import Page, Result, Table
from pepnet_infer.errors import PepnetError
from pepnet_infer.parquet.plan import plan

_ROWS_A_BATCH = 65_536


def measure_offline(
    bundle: Path,
    inputs: Sequence[str],
    command: str,
    *,
    threads: int,
    scales: Sequence[int] = (1, 10),
    runs: int = 1,
    on_bad_row: str = "raise",
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Scores copies of `inputs` with every row `scale` times, `runs` times each, in a fresh process each time.

    A copy has the files of the input under the same names, each `scale` times as long, so that the largest file grows
    with it. Raises PepnetError for what scoring refuses, and for a temporary folder that runs full.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="pepnet-bench-") as folder:
        for scale in scales:
            say(f"writing the input at {scale}×")
            source = Path(folder) / f"in-{scale}"
            files = _copy(inputs, source, scale)
            tries = []
            for run in range(runs):
                say(f"scoring at {scale}×; run {run + 1} of {runs}")
                out = Path(folder) / "out"
                tries.append(_score(bundle, source, out, threads, on_bad_row))
                shutil.rmtree(out)
            shutil.rmtree(source)
            rows.append(_row(scale, files, tries))
    data = {"bundle": bundle.resolve().name, "threads": threads, "on_bad_row": on_bad_row, "rows": rows}
    return Result("offline", command, machine.facts(), data)


def offline_page(result: Result) -> Page:
    """Returns the page of a result of kind "offline"."""
    rows = result.data["rows"]
    columns = ("input", "files", "rows", "rows/s", "seconds", "load s", "MiB loaded", "MiB at most", "runs")
    cells = [
        (
            f"{row['scale']}×",
            str(row["files"]),
            str(row["rows"]),
            f"{row['rows_per_s']:.0f}",
            f"{row['seconds']:.1f}",
            f"{row['load_s']:.2f}",
            _mib(row["loaded_rss"]),
            _mib(row["peak_rss"]),
            str(row["runs"]),
        )
        for row in rows
    ]
    note = "Rows/s: median of the runs, loading left out. MiB: resident memory of the process, mapped tables included."
    first, last = rows[0], rows[-1]
    if len(rows) > 1:
        growth = last["peak_rss"] / first["peak_rss"]
        note += f" Peak at {last['scale']}× over that at {first['scale']}×: {growth:.2f}."
    return Page(
        title=f"Parquet scoring with {result.data['bundle']}",
        lead=f"{machine_line(result.machine)}, {result.data['threads']} threads.",
        command=result.command,
        tables=[Table("Parquet scoring", columns, cells, frozenset({"input"}), note)],
        details=(machine_table(result.machine),),
    )


def _copy(inputs: Sequence[str], target: Path, scale: int) -> int:
    """Writes each input file `scale` times over into one file under `target`. Returns how many files there are."""
    jobs = plan(list(inputs), target.with_name("planned"))
    for job in jobs:
        path = target / job.relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetFile(job.source) as source, pq.ParquetWriter(path, source.schema_arrow) as writer:
                for _ in range(scale):
                    for batch in source.iter_batches(_ROWS_A_BATCH):
                        writer.write_batch(batch)
        except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
            raise PepnetError(f"{job.source}: cannot be copied: {error}") from error
    return len(jobs)


def _score(bundle: Path, source: Path, out: Path, threads: int, on_bad_row: str) -> dict[str, Any]:
    arguments = [str(bundle), str(source), str(out), str(threads), on_bad_row]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pepnet_infer.bench.score_once", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PepnetError(f"scoring ended with exit code {done.returncode}: {last}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _row(scale: int, files: int, tries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds = statistics.median(t["seconds"] for t in tries)
    return {
        "scale": scale,
        "files": files,
        "rows": tries[0]["rows"],
        "null_rows": tries[0]["null_rows"],
        "runs": len(tries),
        "seconds": seconds,
        "rows_per_s": tries[0]["rows"] / seconds,
        "load_s": statistics.median(t["load_s"] for t in tries),
        "loaded_rss": max(t["loaded_rss"] for t in tries),
        "peak_rss": max(t["peak_rss"] for t in tries),
    }


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f}"
