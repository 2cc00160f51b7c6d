"""Run by the newer build: reads what the older one wrote, and compares with what that read from it.

The bundles themselves are read when they are scored.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pepnet_infer import EmbeddingCache


def main(files: Path) -> None:
    """Ends with an AssertionError that says what cannot be read."""
    bundle, rows = str(files / "bundles" / "pepnet"), str(files / "pepnet.parquet")
    _snapshot(files)
    _score(bundle, rows, files / "followed-again", "--follow", str(files / "log"))
    then, now = (pq.read_table(files / name / "pepnet.parquet") for name in ("followed", "followed-again"))
    assert now.equals(then), "the delta: scores of an engine that followed the old log differ"
    first = pq.read_table(files / "scored" / "pepnet.parquet")
    assert not now.equals(first), "the delta: expected scores that differ from the bundle's, got the same"
    summary = _score(bundle, rows, files / "scored")
    assert summary["files"] == 0, f"the scored folder: expected a finished file, got {summary}"
    assert len(summary["skipped"]) == 1, f"the scored folder: expected one file skipped, got {summary}"
    print("the snapshot, the delta and the scored folder of the old build are read as they were written")


def _snapshot(files: Path) -> None:
    with np.load(files / "cache.npz") as was:
        keys, rows, hits = was["keys"], was["rows"], was["hits"]
    cache = EmbeddingCache(rows.shape[1], 1 << 20, "gset")
    cache.load(files / "cache.snapshot")
    out = np.zeros_like(rows)
    assert np.array_equal(cache.lookup(keys, out), hits), "the snapshot: other keys are there"
    assert np.array_equal(out[hits.astype(bool)], rows[hits.astype(bool)]), "the snapshot: rows differ"


def _score(bundle: str, rows: str, out: Path, *words: str) -> dict[str, object]:
    if words:
        shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "pepnet_infer.cli.main",
        "score",
        bundle,
        rows,
        *words,
        "--out",
        str(out),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    summary: dict[str, object] = json.loads(done.stdout)
    return summary


if __name__ == "__main__":
    main(Path(sys.argv[1]))
