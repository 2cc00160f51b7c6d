"""Run by the older build: writes bundles and their inputs, and files that a newer build must be able to read.

Only what users are told of is used here and in the other workers: the command line and the names of `pepnet_infer`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pepnet_infer import EmbeddingCache, Engine

PRESETS = ("seed", "paper", "kuaishou")
BASELINES = ("deepfm", "dcnv2", "shared_bottom", "mmoe", "ple")
ROWS = 300
#: An export of weights that differ: what a trainer publishes after the first.
VERSIONS = (1, 2)


def main(folder: Path, source: Path) -> None:
    """Writes everything anew. source: the tree that the build is of."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bundles").mkdir(parents=True)
    for name in PRESETS:
        _command("export", f"preset:{name}", "--table-rows=200", "--seed=3", *_to(folder, name))
    for model in ("pepnet", *BASELINES):
        _train("synthetic:3000", folder, model, "--model", model)
    kuairand = os.environ.get("PEPNET_KUAIRAND")
    if kuairand is not None:
        config = source / "examples" / "kuairand.yaml"
        _train(f"kuairand:{kuairand}", folder, "kuairand", "--config", str(config))
    for bundle in sorted((folder / "bundles").iterdir()):
        _inputs(bundle, folder / f"{bundle.name}.parquet")
    _log(folder)
    _snapshot(folder)
    _scored(folder)


def _to(folder: Path, name: str, version: int = VERSIONS[0]) -> list[str]:
    return [f"--model-version={version}", "--out", str(folder / "bundles" / name)]


def _train(data: str, folder: Path, name: str, *words: str) -> None:
    checkpoint = folder / "checkpoints" / name
    rows = ["--test-rows", str(folder / f"{name}.parquet")]
    _command("train", data, "--seeds=1", "--seed=5", "--epochs=1", *words, *rows, "--out", str(checkpoint))
    _command("export", str(checkpoint), *_to(folder, name))


def _inputs(bundle: Path, path: Path) -> None:
    """Writes rows to score: the test days' of a trained model, else ids of which some are unknown."""
    if path.is_file():
        pq.write_table(pq.read_table(path).slice(0, ROWS), path)
        return
    rng = np.random.default_rng(7)
    columns: dict[str, object] = {}
    with Engine.load(bundle) as engine:
        schema = engine.schema
        for field in schema.fields:
            if field.kind == "id":
                columns[field.column] = rng.integers(0, 250, ROWS)
            elif field.kind == "dense":
                columns[field.column] = rng.normal(size=ROWS)
            else:
                columns[field.column] = [rng.integers(0, 250, rng.integers(0, 5)).tolist() for _ in range(ROWS)]
        columns[schema.domain_column] = [schema.domains[at] for at in rng.integers(0, len(schema.domains), ROWS)]
    pq.write_table(pa.table(columns), path)


def _log(folder: Path) -> None:
    """Writes a log with a delta from the demo's bundle to one of other weights, and the scores by both."""
    other = folder / "checkpoints" / "later"
    _command("train", "synthetic:3000", "--seeds=1", "--seed=6", "--epochs=1", "--out", str(other))
    later = folder / "later"
    _command("export", str(other), f"--model-version={VERSIONS[1]}", "--out", str(later))
    _command("publish", str(folder / "log"), "--onnx", str(folder / "bundles" / "pepnet"), str(later))
    rows = str(folder / "pepnet.parquet")
    follow = ["--follow", str(folder / "log")]
    _command("score", str(folder / "bundles" / "pepnet"), rows, *follow, "--out", str(folder / "followed"))


def _snapshot(folder: Path) -> None:
    """Writes a cache's snapshot, and the rows that it gives."""
    rng = np.random.default_rng(11)
    keys = rng.permutation(1 << 16)[:900].astype(np.uint64)
    rows = rng.standard_normal((len(keys), 24), dtype=np.float32)
    cache = EmbeddingCache(24, 1 << 20, "gset")
    cache.insert(keys, rows)
    cache.save(folder / "cache.snapshot")
    out = np.zeros_like(rows)
    hits = cache.lookup(keys, out)
    np.savez(folder / "cache.npz", keys=keys, rows=out, hits=hits)


def _scored(folder: Path) -> None:
    _command(
        "score", str(folder / "bundles" / "pepnet"), str(folder / "pepnet.parquet"), "--out", str(folder / "scored")
    )


def _command(*words: str) -> None:
    command = [sys.executable, "-m", "pepnet_infer.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"pepnet-infer {' '.join(words)}: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
