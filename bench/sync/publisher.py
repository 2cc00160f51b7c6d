"""A trainer in a process of its own: appends a delta to a log every so often, as real ones are appended.

It stands for another machine. So deltas are made before they are due, while nothing is measured, and it takes what the
threads that score leave of this machine's CPUs. What is in deltas is drawn from a bundle's tables: changed rows are
other rows' values, dense weights are scaled a little.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.bundle import Bundle, read_tensors
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.delta_rows import delta_rows
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.delta import MANIFEST, DeltaHead, write_delta
from pepnet_infer.sync.logs.directory import DirectoryLog

#: What a publisher is told: to publish to the log that is followed, to one that nobody reads, to do nothing, to end.
Order = Literal["follow", "elsewhere", "idle", "end"]
_PROBE_ROWS = 20_000
_KEPT_ELSEWHERE = 8  # entries of the log that nobody reads


@dataclass(frozen=True)
class Publishing:
    """What a publisher process is started with. All values can be pickled."""

    bundle: Path
    folder: Path
    rows: int | None  # of a delta; None: as many as fit of the bundle's, up to 20,000
    delta_s: float
    dense_every: int  # deltas; 0: never
    seed: int
    ahead: int  # deltas of a log that are ready when an order begins


class Times(NamedTuple):
    """Unix seconds of one version."""

    produced: float  # when its delta begins to be appended
    published: float  # when it is in the log, and on the disk


@dataclass
class Published:
    """What a publisher did while it followed one order."""

    deltas: int = 0
    rows: int = 0
    bytes: int = 0
    late: int = 0  # deltas that were begun over a tenth of the interval after they were due
    seconds: float = 0.0
    cpu_s: float = 0.0
    times: dict[int, Times] = field(default_factory=dict)  # by model version


def log_path(folder: Path, order: Order) -> Path:
    """Where the log of an order is."""
    return folder / order


def shares(sizes: Mapping[str, int], rows: int) -> dict[str, int]:
    """Returns how many rows of each table a delta changes: in proportion to its size, `rows` together.

    Raises PepnetError when there are not so many rows.
    """
    total = sum(sizes.values())
    if rows > total:
        raise PepnetError(f"bundle: expected at least {rows} rows in its tables, a delta's, got {total}")
    counts = {name: rows * size // total for name, size in sizes.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])
    left = rows - sum(counts.values())
    for name in largest:
        more = min(left, sizes[name] - counts[name])
        counts[name] += more
        left -= more
    return {name: count for name, count in counts.items() if count}


class Trainer:
    """Makes deltas of a bundle and appends them to logs."""

    def __init__(self, given: Publishing) -> None:
        bundle = Bundle.open(given.bundle, "sizes")
        self._given, self._schema = given, bundle.schema
        self._random = np.random.default_rng(given.seed)
        self._tables = {name: read_tensors(path) for name, path in bundle.table_paths.items()}
        sizes = {name: len(table["keys"]) for name, table in self._tables.items()}
        self.all_rows = sum(sizes.values())
        self.rows = min(self.all_rows, _PROBE_ROWS) if given.rows is None else given.rows  # of a delta
        self._counts = shares(sizes, self.rows)
        self._dense = bundle.dense()
        self._version: dict[Order, int] = {"follow": bundle.model_version, "elsewhere": bundle.model_version}
        self._logs = {order: DirectoryLog(log_path(given.folder, order), create=True) for order in self._version}
        self._ready: dict[Order, deque[Path]] = {order: deque() for order in self._version}
        self._made = 0

    def prepare(self, order: Order) -> None:
        """Makes deltas of a log before they are due."""
        while order in self._ready and len(self._ready[order]) < self._given.ahead:
            self._ready[order].append(self._make(order))

    def publish(self, order: Order) -> tuple[int, Times, int, int]:
        """Appends the next delta of a log. Returns (model version, when, rows, bytes)."""
        ready = self._ready[order]
        staged = ready.popleft() if ready else self._make(order)
        produced = time.time()
        document = json.loads((staged / MANIFEST).read_text())
        (staged / MANIFEST).write_text(json.dumps({**document, "produced_at": produced}))
        size = sum(path.stat().st_size for path in staged.rglob("*") if path.is_file())
        self._logs[order].append(staged)
        published = time.time()
        shutil.rmtree(staged)
        if order == "elsewhere":
            for path in sorted((log_path(self._given.folder, order) / "deltas").iterdir())[:-_KEPT_ELSEWHERE]:
                shutil.rmtree(path)
        return int(document["model_version"]), Times(produced, published), self.rows, size

    def _make(self, order: Order) -> Path:
        base = self._version[order]
        version = self._version[order] = base + 1
        self._made += 1
        rows = {name: self._changed(name, count, version) for name, count in self._counts.items()}
        dense = None
        if self._given.dense_every and self._made % self._given.dense_every == 0:
            scale = np.float32(1 + 1e-3 * self._random.standard_normal())
            dense = {name: array * scale for name, array in self._dense.items()}
        head = DeltaHead(base, version, version, time.time(), self._schema.hash)
        return write_delta(self._given.folder / "staged" / f"{order}-{version}", head, rows, dense)

    def _changed(self, name: str, count: int, version: int) -> RowBatch:
        table = self._tables[name]
        size, first = len(table["keys"]), int(self._random.integers(len(table["keys"])))
        # Ids all over the table, each once, without the cost of a permutation: whoever trains has its own.
        step = max(1, size // count)
        at = np.sort((first + step * np.arange(count)) % size) if step * count <= size else np.arange(count)
        values: npt.NDArray[np.float32] = np.roll(table["rows"][at].astype(np.float32), 1, axis=0)
        return delta_rows(
            table["keys"][at],
            np.ascontiguousarray(values),
            np.full(count, version, np.uint64),
            table["scores"][at],
            np.full(count, np.inf),
            np.zeros(count, np.uint8),
        )


def publisher(given: Publishing, orders: Connection) -> None:
    """The process: follows orders and, at each new one, answers what it did by the last."""
    os.nice(19)
    try:
        trainer = Trainer(given)
        orders.send("ready")
        order: Order = "idle"
        done, began, cpu = Published(), time.monotonic(), time.process_time()
        due = began
        while order != "end":
            wait = None if order == "idle" else max(0.0, due - time.monotonic())
            if orders.poll(wait):
                new: Order = orders.recv()
                done.seconds, done.cpu_s = time.monotonic() - began, time.process_time() - cpu
                trainer.prepare(new)
                orders.send(done)
                order, done = new, Published()
                began, cpu = time.monotonic(), time.process_time()
                due = began
                continue
            done.late += time.monotonic() - due > given.delta_s / 10
            due += given.delta_s
            version, times, rows, size = trainer.publish(order)
            done.deltas, done.rows, done.bytes = done.deltas + 1, done.rows + rows, done.bytes + size
            if order == "follow":
                done.times[version] = times
    except Exception as error:  # the other end says it: this process has nobody to tell
        orders.send(PepnetError(f"publisher: {type(error).__name__}: {error}"))
        raise


class Publisher:
    """The other end of the process. Use it as a context manager."""

    def __init__(self, given: Publishing) -> None:
        import multiprocessing

        spawn = multiprocessing.get_context("spawn")  # a fork would have this process's threads' locks
        self._orders, theirs = spawn.Pipe()
        self._process = spawn.Process(target=publisher, args=(given, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Publisher:
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()
        self._orders.close()

    def order(self, order: Order) -> Published:
        """Gives an order. Returns what was done by the last, whose last delta is in its log."""
        try:
            self._orders.send(order)
        except OSError as error:
            raise PepnetError(f"publisher: expected a process to talk to, got: {error}") from error
        done = self._answer()
        if not isinstance(done, Published):
            raise PepnetError(f"publisher: expected what it did, got {done!r}")
        return done

    def _answer(self) -> Any:
        try:
            answer = self._orders.recv()
        except EOFError as error:
            raise PepnetError("publisher: expected an answer, got the end of the process") from error
        if isinstance(answer, PepnetError):
            raise answer
        return answer
