"""Three small input files, runs that score them, and what stands in the folder of their outputs afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pepnet_infer import Engine, score_parquet


def write_inputs(toy_table: Callable[..., pa.Table], folder: Path) -> Path:
    """Writes a.parquet, b.parquet and c.parquet, of 50 rows each, to `in` below a folder, and returns the folder."""
    (folder / "in").mkdir()
    for i, name in enumerate("abc"):
        pq.write_table(toy_table(50, i), folder / "in" / f"{name}.parquet", compression="none", use_dictionary=False)
    return folder


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def run(engine: Engine, folder: Path, **options: Any) -> tuple[int, list[str]]:
    """Scores the inputs of a folder to its `out`. Returns how many files were scored, and which were kept."""
    summary = score_parquet(engine, folder / "in", folder / "out", **options)
    return summary.files, sorted(path.name for path in summary.skipped)
