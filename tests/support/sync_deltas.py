"""Deltas for the toy schema with something of everything in them, and ways to look at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.delta import Delta, DeltaHead, open_delta, write_delta

USER, VIDEO, DENSE = "rows/user.safetensors", "rows/video.safetensors", "dense.safetensors"
BASE, VERSION = 7, 9


def delta_rows(
    keys: np.ndarray,
    rows: np.ndarray,
    versions: np.ndarray,
    scores: np.ndarray,
    expires: np.ndarray,
    tombstones: np.ndarray,
    default: np.ndarray | None = None,
) -> RowBatch:
    """Returns a batch of the tensors that a delta's file has of a table; tombstones uint8 [N]: 1 is a deletion."""
    return RowBatch(rows, tombstones == 0, versions, scores, expires, None, keys, default)


def rows_of(schema: FeatureSchema, table: str, seed: int = 0) -> RowBatch:
    rng, spec = np.random.default_rng(seed), schema.table_by_name[table]
    keys = (np.arange(3, 23, 2) | (spec.number << 48)).astype(np.uint64)
    tombstones = (np.arange(10) == 4).astype(np.uint8)
    rows = rng.standard_normal((10, spec.dim), dtype=np.float32) * (1 - tombstones[:, None]).astype(np.float32)
    scores = np.where(np.arange(10) % 3 == 0, np.nan, rng.random(10)).astype(np.float32)
    expires = np.where(np.arange(10) % 2 == 0, np.inf, 2e9)
    versions = np.where(np.arange(10) % 2 == 0, VERSION, BASE + 1).astype(np.uint64)
    default = rng.standard_normal(spec.dim, dtype=np.float32) if table == "user" else None
    return delta_rows(keys, rows, versions, scores, expires, tombstones, default)


def make(target: Path, checkpoint: Checkpoint, seed: int = 0) -> Path:
    schema = checkpoint.schema
    rows = {name: rows_of(schema, name, seed) for name in ("user", "video")}
    return write_delta(target, DeltaHead(BASE, VERSION, 3, 1e9, schema.hash), rows, checkpoint.dense, b"a graph" * 50)


def same_content(a: Delta, b: Delta) -> bool:
    assert a.dense is not None
    assert b.dense is not None
    same = all(np.array_equal(a.dense[name], b.dense[name]) for name in b.dense) and a.onnx == b.onnx
    for table, rows in b.rows.items():
        pairs = zip(vars(a.rows[table]).values(), vars(rows).values(), strict=True)
        same = same and all((x is None and y is None) or x.tobytes() == y.tobytes() for x, y in pairs)
    return same


def reasons() -> list[str]:
    """Those that `open_delta` says it has."""
    documented = str(open_delta.__doc__).split("`reason` is one word:")[1]
    return "".join(c if c.isalpha() else " " for c in documented).split()
