"""Parquet scoring: rows a second, and whether memory stays the same when the input grows."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pepnet_infer.bench.harness.measure import Row, Say
from pepnet_infer.bench.harness.report import Report, Table
from pepnet_infer.errors import PepnetError
from pepnet_infer.parquet.plan import plan

_COLUMNS = {
    "input": "{scale}×",
    "files": "{files:d}",
    "rows": "{rows:,}",
    "rows/s": "{rows_per_s:,.0f}",
    "seconds": "{seconds:.1f}",
    "MiB at most": "{peak_rss:MiB}",
    "runs": "{runs:d}",
}


def measure_offline(
    bundle: Path,
    inputs: Sequence[str],
    *,
    threads: int,
    scales: Sequence[int] = (1, 10),
    runs: int = 1,
    on_bad_row: str = "raise",
    say: Say = lambda _: None,
) -> Report:
    """Scores copies of `inputs` with every row `scale` times, `runs` times each, in a fresh process each time.

    A copy has the files of the input under the same names, each `scale` times as long, so that the largest file grows
    with it. Raises PepnetError for what scoring refuses, and for a temporary folder that runs full.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="pepnet-bench-") as folder:
        for scale in scales:
            say(f"writing the input at {scale}×")
            source, out = Path(folder) / f"in-{scale}", Path(folder) / "out"
            files = _copy(inputs, source, scale)
            tries = []
            for run in range(runs):
                say(f"scoring at {scale}×, run {run + 1} of {runs}")
                tries.append(_in_a_process(bundle, source, out, threads, on_bad_row))
                shutil.rmtree(out)
            shutil.rmtree(source)
            seconds = statistics.median(one["seconds"] for one in tries)
            row = {"scale": scale, "files": files, "runs": runs, **tries[0], "seconds": seconds}
            row["peak_rss"] = max(one["peak_rss"] for one in tries)
            rows.append(row | {"rows_per_s": row["rows"] / seconds})
    note = "Rows/s: median of the runs, loading left out. MiB: resident memory of the process, mapped tables included."
    if len(rows) > 1:
        growth = rows[-1]["peak_rss"] / rows[0]["peak_rss"]
        note += f" Peak at {rows[-1]['scale']}× over that at {rows[0]['scale']}×: {growth:.2f}."
    name = bundle.resolve().name
    data = {"bundle": name, "threads": threads, "on_bad_row": on_bad_row, "rows": rows}
    table = Table("Parquet scoring", rows, _COLUMNS, note)
    return Report("offline", f"Parquet scoring with {name}", f"{threads} threads.", data, [table])


def _copy(inputs: Sequence[str], target: Path, scale: int) -> int:
    """Writes each input file `scale` times over into one file under `target`. Returns how many files there are."""
    jobs = plan(list(inputs), target.with_name("planned"))
    for job in jobs:
        path = target / job.relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetFile(job.source) as source, pq.ParquetWriter(path, source.schema_arrow) as writer:
                for _ in range(scale):
                    for batch in source.iter_batches():
                        writer.write_batch(batch)
        except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
            raise PepnetError(f"{job.source}: cannot be copied: {error}") from error
    return len(jobs)


def _in_a_process(bundle: Path, source: Path, out: Path, threads: int, on_bad_row: str) -> dict[str, Any]:
    """Returns rows, null_rows, seconds of scoring and peak_rss in bytes, as the command `score` says them."""
    command = [sys.executable, "-P", "-m", "pepnet_infer.cli.main", "score", str(bundle), str(source)]
    command += ["--out", str(out), "--threads", str(threads), "--on-bad-row", on_bad_row]
    done = subprocess.run([*command, "--progress", "none", "--json"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
        raise PepnetError(f"scoring ended with exit code {done.returncode}: {last}")
    said = json.loads(done.stdout)
    if said["peak_rss"] is None:
        raise PepnetError("expected /proc/self/status to have VmHWM, the peak memory of a process, got none")
    return {name: said[name] for name in ("rows", "null_rows", "seconds", "peak_rss")}
