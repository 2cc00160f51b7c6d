"""Scores parquet files in a process of its own and says what that took: run by `offline`, as a module.

    python -m pepnet_infer.bench.score_once BUNDLE IN OUT THREADS raise|null

Prints one JSON object: rows, null_rows, seconds (of scoring), load_s, loaded_rss and peak_rss in bytes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import cast

from pepnet_infer.engine import Engine
from pepnet_infer.errors import PepnetError
from pepnet_infer.parquet import OFFLINE, score_parquet
from pepnet_infer.parquet.options import OnBadRow


def status_bytes(field: str) -> int:
    """Returns a memory figure of this process, such as VmHWM, its peak resident set since the program started.

    `ru_maxrss` will not do: it begins with the size of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status: expected a line {field}, got none")


def main(bundle: str, source: str, out: str, threads: str, on_bad_row: str) -> None:
    """Scores all of `source` to `out` and prints the figures."""
    start = time.perf_counter()
    with Engine.load(bundle, threads=int(threads), options=OFFLINE) as engine:
        load_s, loaded = time.perf_counter() - start, status_bytes("VmRSS")
        start = time.perf_counter()
        summary = score_parquet(engine, source, out, on_bad_row=cast(OnBadRow, on_bad_row))
        seconds = time.perf_counter() - start
    figures = {
        "rows": summary.rows,
        "null_rows": summary.null_rows,
        "seconds": seconds,
        "load_s": load_s,
        "loaded_rss": loaded,
        "peak_rss": status_bytes("VmHWM"),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except PepnetError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
