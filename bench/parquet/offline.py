"""Parquet scoring: rows a second, and whether memory stays the same when the input grows.

Run as a module it scores once, in a process of its own, and prints one JSON object:

    python -m pepnet_infer.bench.parquet.offline BUNDLE IN OUT THREADS raise|null
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq

from pepnet_infer.bench.harness.measure import Row, Say
from pepnet_infer.bench.harness.report import Report, Table
from pepnet_infer.engine import Engine
from pepnet_infer.errors import PepnetError
from pepnet_infer.parquet import OFFLINE, score_parquet
from pepnet_infer.parquet.plan import plan
from pepnet_infer.parquet.run import OnBadRow

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
                tries.append(_in_a_process([str(bundle), str(source), str(out), str(threads), on_bad_row]))
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


def _in_a_process(arguments: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "pepnet_infer.bench.parquet.offline", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PepnetError(f"scoring ended with exit code {done.returncode}: {last}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _score_once(bundle: str, source: str, out: str, threads: str, on_bad_row: str) -> None:
    """Scores all of `source` to `out` and prints rows, null_rows, seconds of scoring and peak_rss in bytes."""
    with Engine.load(bundle, threads=int(threads), options=OFFLINE) as engine:
        start = time.perf_counter()
        summary = score_parquet(engine, source, out, on_bad_row=cast(OnBadRow, on_bad_row))
        seconds = time.perf_counter() - start
    figures = {"rows": summary.rows, "null_rows": summary.null_rows, "seconds": seconds}
    print(json.dumps(figures | {"peak_rss": _peak_rss()}))


def _peak_rss() -> int:
    """Returns the peak resident set in bytes since the program started.

    `ru_maxrss` will not do: it begins with the size of the process that started this one.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    try:
        _score_once(*sys.argv[1:])
    except PepnetError as refused:
        print(f"{type(refused).__name__}: {refused}", file=sys.stderr)
        sys.exit(1)
