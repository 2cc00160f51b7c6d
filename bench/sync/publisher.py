"""A trainer in a process of its own: appends a delta to a log every so often, as real ones are appended.

It stands for another machine. So deltas are made before they are due, while nothing is measured, and it takes what the
threads that score leave of this machine's CPUs. What is in deltas is drawn from a bundle's tables: changed rows are
other rows' values, dense weights are scaled a little.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from pepnet_infer.bench.harness.interleave import paced
from pepnet_infer.bundle.bundle import Bundle, read_tensors
from pepnet_infer.errors import PepnetError
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.delta import DeltaHead, write_delta
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.validation import Count, Options, Positive, Several

#: Seconds that a slice takes, and so how many deltas are made before.
SLICE_S = 1.0
#: Deltas that the rate is measured with where nobody asks for one, and the most rows that these have.
PROBES, PROBE_ROWS = 4, 20_000
#: The log that nobody reads, and how many deltas of it stay: nobody's progress lets a log be trimmed.
UNREAD, _KEPT = "elsewhere", 4

_Part = Annotated[float, Meta(gt=0, le=1)]


class SyncOptions(Options, frozen=True):
    """What the command was asked for."""

    rows_per_s: Several | None = None  # None: what the bundle and its follower can bear, measured first
    delta_s: Positive = 0.25
    dense_every: Count = 20
    threads: Several = 2
    seconds: Positive = 30.0
    batch: Several = 256
    load: _Part = 1.0  # of the time that each thread scores
    share: _Part = FollowConfig().share


class Trainer:
    """Makes deltas of a bundle and appends them to logs, which are folders in `folder` by name.

    rows: of a delta; None: as many as the bundle has, up to PROBE_ROWS. Raises PepnetError when it has fewer.
    """

    def __init__(self, bundle_path: Path, folder: Path, options: SyncOptions, rows: int | None = None) -> None:
        bundle = Bundle.open(bundle_path, "sizes")
        self._folder, self._schema, self._first = folder, bundle.schema, bundle.model_version
        self.delta_s, self._dense_every = options.delta_s, options.dense_every
        self._ahead = max(PROBES, math.ceil(SLICE_S / self.delta_s) + 2)
        self._random = np.random.default_rng(0)
        self._tables = {name: read_tensors(path) for name, path in bundle.table_paths.items()}
        self._ends = np.cumsum([len(table["keys"]) for table in self._tables.values()])
        self.all_rows = int(self._ends[-1])
        self.rows = min(self.all_rows, PROBE_ROWS) if rows is None else rows
        if self.rows > self.all_rows:
            raise PepnetError(
                f"bundle: expected at least {self.rows} rows in its tables, a delta's, got {self.all_rows}"
            )
        self._dense = bundle.dense()
        self._ready: dict[str, deque[Path]] = defaultdict(deque)
        self._made: dict[str, int] = defaultdict(int)

    def prepare(self, log: str) -> None:
        """Makes deltas of a log before they are due."""
        while len(self._ready[log]) < self._ahead:
            self._ready[log].append(self._make(log))

    def publish(self, log: str) -> tuple[int, float]:
        """Appends the next delta to a log. Returns its model version, and when it was in the log.

        By `perf_counter`, in seconds: that clock is the same in all processes of a machine, and nobody sets it.
        """
        staged = self._ready[log].popleft() if self._ready[log] else self._make(log)
        DirectoryLog(self._folder / log, create=True).append(staged)
        published = time.perf_counter()
        if log == UNREAD:
            for path in sorted((self._folder / log / "deltas").iterdir())[:-_KEPT]:
                shutil.rmtree(path)
        version = int(staged.name)
        shutil.rmtree(staged)
        return version, published

    def _make(self, log: str) -> Path:
        self._made[log] += 1
        version = self._first + self._made[log]
        dense = None
        if self._dense_every and self._made[log] % self._dense_every == 0:
            scale = np.float32(1 + 1e-3 * self._random.standard_normal())
            dense = {name: array * scale for name, array in self._dense.items()}
        head = DeltaHead(version - 1, version, version, time.time(), self._schema.hash)
        return write_delta(self._folder / f"staged-{log}" / str(version), head, self._changed(version), dense)

    def _changed(self, version: int) -> dict[str, RowBatch]:
        """Returns rows all over all tables, each once."""
        at = np.sort(self._random.choice(self.all_rows, self.rows, replace=False, shuffle=False))
        parts = np.split(at, np.searchsorted(at, self._ends[:-1]))
        begins = [0, *self._ends[:-1].tolist()]
        return {
            name: RowBatch.of(
                np.ascontiguousarray(np.roll(table["rows"][at - begin].astype(np.float32), 1, axis=0)),
                keys=table["keys"][at - begin],
                versions=version,
                scores=table["scores"][at - begin],
            )
            for (name, table), at, begin in zip(self._tables.items(), parts, begins, strict=True)
        }


_trainers: list[Trainer] = []  # of a publisher's process: one


@contextmanager
def publisher(bundle: Path, folder: Path, options: SyncOptions, rows: int) -> Iterator[ProcessPoolExecutor]:
    """A process with a trainer, which does `prepare` and `publish` when they are submitted to it.

    Raises PepnetError when the process is killed.
    """
    spawn = get_context("spawn")  # a fork would have this process's threads' locks
    try:
        with ProcessPoolExecutor(1, spawn) as process:
            process.submit(_start, bundle, folder, options, rows).result()
            yield process
    except BrokenProcessPool as error:
        raise PepnetError("publisher: expected its process to run to the end, it was killed") from error


def _start(bundle: Path, folder: Path, options: SyncOptions, rows: int) -> None:
    os.nice(19)
    _trainers.append(Trainer(bundle, folder, options, rows))


def prepare(log: str) -> None:
    """Makes deltas of a log before they are due."""
    _trainers[0].prepare(log)


def publish(log: str, seconds: float) -> dict[int, float]:
    """Appends a delta to a log every so often. Returns when each model version was in the log, by `perf_counter`."""
    return dict(_trainers[0].publish(log) for _ in paced(_trainers[0].delta_s, seconds))
