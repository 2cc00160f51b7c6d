"""What changed between two bundles, as a delta that leads from one to the other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.errors import UpdateError
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.storage.tensorfile import Array
from pepnet_infer.sync.delta import DeltaHead, write_delta


class Difference(NamedTuple):
    """Dense weights, where any differ, and the rows that do."""

    dense: Mapping[str, Array] | None
    rows: Mapping[str, RowBatch]


def difference(old: Bundle, new: Bundle) -> Difference:
    """Returns what leads from one bundle to another of the same schema, config and side tables.

    Rows count as changed when their bits as float32 differ; a score that differs alone is no change. Raises UpdateError
    for bundles that no delta can join.
    """
    if new.schema.hash != old.schema.hash:
        raise UpdateError("schema", f"{new.path}: schema_hash: expected {old.schema.hash}, got {new.schema.hash}")
    if new.config != old.config or new.network != old.network:
        raise UpdateError("dense", f"{new.path}: expected the same network as in {old.path}, got another config")
    if new.model_version <= old.model_version:
        got = f"{new.model_version} after {old.model_version}"
        raise UpdateError("version", f"{new.path}: expected a version above that of {old.path}, got {got}")
    for name in (entry for entry in old.manifest["files"] if entry.startswith("side/")):
        if old.manifest["files"][name] != new.manifest["files"].get(name):
            raise UpdateError("files", f"{new.path}: {name}: expected the side table of {old.path}: it needs a bundle")
    before, after = old.dense(), new.dense()
    dense = None if all(_same(before[name], after[name]).all() for name in before) else after
    rows = {
        spec.name: _rows(old.table_paths[spec.name], new.table_paths[spec.name], spec, new.model_version)
        for spec in new.schema.tables
    }
    return Difference(dense, rows)


def write_difference(old: Bundle, new: Bundle, target: Path, onnx: bool) -> tuple[Path, Difference]:
    """Writes the delta from one bundle to another; `onnx`: with the new one's graph."""
    found = difference(old, new)
    graph = new.onnx_path.read_bytes() if onnx and found.dense is not None else None
    head = DeltaHead(old.model_version, new.model_version, 0, time.time(), new.schema.hash)
    return write_delta(target, head, found.rows, found.dense, graph), found


def _rows(old: Path, new: Path, spec: TableSpec, version: int) -> RowBatch:
    before, after = open_table(old, spec), open_table(new, spec)
    before_keys, after_keys = np.array(before.keys), np.array(after.keys)
    both, in_old, in_new = np.intersect1d(before_keys, after_keys, assume_unique=True, return_indices=True)
    changed = np.ones(len(after_keys), np.bool_)
    for begin in range(0, len(both), 1 << 16):
        some = slice(begin, begin + (1 << 16))
        same = _same(after.take(in_new[some]).rows, before.take(in_old[some]).rows)
        changed[in_new[some]] = ~same.all(axis=1)
    live = after.take(changed)
    gone = np.setdiff1d(before_keys, after_keys, assume_unique=True)
    rows = RowBatch.concat([live, RowBatch.nothing(len(gone), spec.dim, keys=gone)]).ordered()
    default = np.array(after.default, np.float32)
    unchanged = _same(default, np.array(before.default, np.float32)).all()
    versions = np.full(len(rows.keys), version, np.uint64)
    return replace(rows, versions=versions, default=None if unchanged else default)


def _same(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """Bit by bit: 0.0 and -0.0 are different rows."""
    same: npt.NDArray[np.bool_] = np.ascontiguousarray(a).view(np.uint32) == np.ascontiguousarray(b).view(np.uint32)
    return same
