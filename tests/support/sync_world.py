"""A trainer in small: versions of a model with random changes between them, each also as an engine of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sync_deltas import delta_rows

from pepnet_infer import Engine
from pepnet_infer.backends.native import NativeBackend
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bundle.bundle import Bundle, table_path
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.delta import Delta, DeltaHead, open_delta, write_delta

#: How long what must come about may take: a machine may stand still for seconds, and who waits in vain fails anyway.
PATIENCE_S = 60.0

Rows = dict[int, np.ndarray]


class World:
    """`step` makes the next version; `scores` says what a version scores a batch, by a plain engine made for it."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, seed: int = 0, version: int = 7) -> None:
        self.folder, self.version = folder, version
        self.random = np.random.default_rng(seed)
        self.checkpoints = {version: checkpoint}
        self._schema = checkpoint.schema
        self._engines: dict[int, Engine] = {}

    def step(
        self,
        version: int | None = None,
        dense: bool | Mapping[str, np.ndarray] = True,
        changes: Mapping[str, Rows] | None = None,
        removed: Mapping[str, list[int]] | None = None,
        defaults: bool = True,
        base: int | None = None,
        scale: float = 1.0,
    ) -> Path:
        """Writes a delta to the next version and returns its path. Without `changes`, random rows change and go."""
        base = self.version if base is None else base
        before = self.checkpoints[base]
        after = base + 1 if version is None else version
        tables, rows = {}, {}
        for name, table in before.tables.items():
            ids = (table.keys & np.uint64((1 << 48) - 1)).astype(np.int64)
            if changes is None:
                chosen = self.random.choice(60, self.random.integers(0, 25), replace=False)
                changed = {int(i): self._row(table, scale) for i in chosen}
                gone = [int(i) for i in self.random.choice(ids, min(3, len(ids)), replace=False) if i not in changed]
            else:
                changed, gone = dict(changes.get(name, {})), list((removed or {}).get(name, ()))
            default = self._row(table, scale) if defaults and self.random.random() < 0.5 else None
            known = dict(zip(ids.tolist(), table.rows, strict=True))
            scores = dict(zip(ids.tolist(), table.scores, strict=True))
            known.update(changed)
            for i in changed:
                scores[i] = np.float32(self.random.random())
            for i in gone:
                known.pop(i, None)
                scores.pop(i, None)
            number = self._schema.table_by_name[name].number
            tables[name] = _table(number, known, scores, table.default if default is None else default)
            rows[name] = _changed(number, table.rows.shape[1], changed, gone, scores, after, default)
        weights = None
        if dense is True:
            weights = random_dense(before.config, len(self._schema.tasks), int(self.random.integers(1 << 30)))
        elif dense is not False:
            weights = dict(dense)
        self.checkpoints[after] = replace(before, tables=tables, dense=weights or before.dense)
        self.version = after
        head = DeltaHead(base, after, after, float(self.random.random()), self._schema.hash)
        return write_delta(self.folder / "made" / f"{after}-{self.random.integers(1 << 30)}", head, rows, weights)

    def _row(self, table: RowBatch, scale: float) -> np.ndarray:
        return (self.random.standard_normal(table.rows.shape[1]) * scale).astype(np.float32)

    def open(self, path: Path) -> Delta:
        """Opens a delta as followers do."""
        return open_delta(path, self._schema, self.checkpoints[self.version].network)

    def payload(self, version: int) -> Path:
        """Returns a directory with weights and tables of a version."""
        root = self.folder / "payload" / str(version)
        if not root.exists():
            root.mkdir(parents=True)
            self.checkpoints[version].write_payload(root, "float32")
        return root

    def engine(self, version: int) -> Engine:
        """Returns an engine that was never anything but this version."""
        if version not in self._engines:
            root, checkpoint = self.payload(version), self.checkpoints[version]
            bundle = Bundle(root, {}, checkpoint.schema, checkpoint.config, version, {}, {})
            paths = {name: table_path(root, name) for name in checkpoint.tables}
            store = MmapStore(paths, checkpoint.schema.table_by_name)
            self._engines[version] = Engine(bundle, store, NativeBackend(bundle, Settings(threads=1)))
        return self._engines[version]

    def scores(self, version: int, batch: Any) -> np.ndarray:
        """Returns what a version scores."""
        return self.engine(version).score(batch).values


def scored_meanwhile(
    engine: Engine, batches: Sequence[Any], work: Callable[[], None]
) -> list[tuple[int, int, np.ndarray]]:
    """Scores each batch in a thread of its own for as long as `work` takes. Returns number, version and scores."""
    seen: list[tuple[int, int, np.ndarray]] = []
    stop = threading.Event()

    def score(number: int) -> None:
        while not stop.is_set():
            scores = engine.score(batches[number])
            seen.append((number, scores.model_version, scores.values))

    threads = [threading.Thread(target=score, args=(number,)) for number in range(len(batches))]
    for thread in threads:
        thread.start()
    try:
        work()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return seen


def until(what: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Waits until something has come about."""
    ends = time.monotonic() + timeout_s
    while not what() and time.monotonic() < ends:
        time.sleep(0.01)
    assert what()


def _table(number: int, rows: Rows, scores: Mapping[int, Any], default: np.ndarray) -> RowBatch:
    ids = np.array(sorted(rows), np.uint64)
    dim = default.size
    return RowBatch.of(
        np.array([rows[int(i)] for i in ids], np.float32).reshape(-1, dim),
        keys=make_keys(number, ids),
        scores=np.array([scores[int(i)] for i in ids], np.float32),
        default=default,
    )


def _changed(
    number: int, dim: int, changed: Rows, gone: list[int], scores: Mapping[int, Any], version: int, default: Any
) -> RowBatch:
    ids = np.array(sorted([*changed, *gone]), np.uint64)
    dead = np.isin(ids, np.array(gone, np.uint64)).astype(np.uint8)
    rows = np.array([changed.get(int(i), np.zeros(dim)) for i in ids], np.float32).reshape(-1, dim)
    return delta_rows(
        make_keys(number, ids),
        rows,
        np.full(len(ids), version, np.uint64),
        np.array([scores.get(int(i), np.nan) for i in ids], np.float32),
        np.full(len(ids), np.inf),
        dead,
        default,
    )
