"""Scoring ten times the rows takes no more memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Peak memory as the kernel's VmHWM: ru_maxrss of a child starts at what its parent had before the exec.
SCORE = """
import re, sys
from pathlib import Path
from pepnet_infer import score_parquet
from pepnet_infer.parquet import sink
sink.GROUP_ROWS = 1 << 14  # so that the smaller file has several of them too
summary = score_parquet(sys.argv[1], sys.argv[2], sys.argv[3], columns="all")
print(summary.rows, re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_peak_memory_does_not_grow_with_the_input(
    toy_bundle: Path, toy_table: Callable[..., pa.Table], tmp_path: Path
) -> None:
    part = toy_table(60_000)
    peak, size = {}, {}
    for times in (1, 10):
        # One row group, uncompressed: the reader has no mercy to expect from the file's layout.
        table, path = pa.concat_tables([part] * times), tmp_path / f"{times}.parquet"
        pq.write_table(table, path, row_group_size=table.num_rows, compression="none", use_dictionary=False)
        command = [sys.executable, "-c", SCORE, str(toy_bundle), str(path), str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows, kilobytes = map(int, done.stdout.split())
        assert rows == table.num_rows
        peak[times], size[times] = kilobytes / 1024, path.stat().st_size / 2**20
    grown = size[10] - size[1]
    assert grown > 40  # MiB: holding the file, or its columns, would show
    print(f"{peak} MiB at {size} MiB of input")
    assert peak[10] - peak[1] < 20, f"{peak} MiB at {size} MiB of input"
