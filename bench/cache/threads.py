"""Readers beside each other and beside a writer, in slices that take turns; how soon a reader sees an update."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bench.cache.contender import Batch, Contender, Keys, Positions, Workload
from pepnet_infer.bench.cache.peers import Filled
from pepnet_infer.bench.harness.interleave import williams_square
from pepnet_infer.bench.harness.measure import Say
from pepnet_infer.errors import PepnetError

UPDATE_ROWS = 1024
UPDATES = 200
_LIMIT_S = 10.0
#: Versions above all others, so that these updates apply after whatever was measured before.
_FROM = 1 << 40
_UPDATE_BATCHES = 64


class Updates:
    """Newer and newer versions of rows that are in the cache. Their content stays the table's."""

    def __init__(self, filled: Filled, workload: Workload, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        resident = rng.permutation(filled.resident)
        rows = min(UPDATE_ROWS, resident.size)
        number = min(_UPDATE_BATCHES, resident.size // rows)
        self._core, self._version, self._next = filled.cache.core, 1, 0
        self._versions = np.empty(rows, np.uint64)
        self._batches: list[tuple[Keys, npt.NDArray[np.float32]]] = []
        for i in range(number):
            positions: Positions = resident[i * rows : (i + 1) * rows]
            self._batches.append((workload.keys[positions], workload.table[positions]))

    def apply(self) -> int:
        """Applies the next batch. Returns its rows. Raises PepnetError when not all of them were taken."""
        keys, rows = self._batches[self._next % len(self._batches)]
        self._version += self._next % len(self._batches) == 0
        self._next += 1
        self._versions[:] = self._version
        applied = self._core.write(keys, rows, None, self._versions, None, True)
        if applied != keys.size:
            raise PepnetError(f"updates: expected {keys.size} applied, got {applied}")
        return applied


@dataclass(frozen=True)
class Load:
    """Who works during a slice. `updates` a second by one writer: 0 none, inf as many as it can."""

    name: str
    readers: Sequence[Contender]
    updates: float = 0.0


@dataclass
class Counted:
    """What one load did over all its slices; entry r of a list belongs to round r."""

    rows_per_s: list[float] = field(default_factory=list)
    updates_per_s: list[float] = field(default_factory=list)
    call_ns: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """Returns medians over slices, and quantiles of all calls, as JSON values."""
        calls = np.concatenate(self.call_ns) if self.call_ns else np.empty(0, np.int64)
        return {
            "rows_per_s": float(np.median(self.rows_per_s)),
            "updates_per_s": float(np.median(self.updates_per_s)),
            "calls": int(calls.size),
            "p50_ms": float(np.percentile(calls, 50)) / 1e6 if calls.size else None,
            "p99_ms": float(np.percentile(calls, 99)) / 1e6 if calls.size else None,
        }


def run_loads(
    loads: Sequence[Load],
    updates: Updates,
    batches: Sequence[Batch],
    rounds: int,
    seconds: float,
    say: Say = lambda _: None,
) -> dict[str, Counted]:
    """Runs each load for `seconds` a round, in balanced order. Raises what a reader or the writer raised."""
    counted = {load.name: Counted() for load in loads}
    square = williams_square(len(loads))
    for number in range(rounds):
        say(f"measuring threads; round {number + 1} of {rounds}")
        for place in square[number % len(square)]:
            load = loads[place]
            _slice(load, updates, batches, number, seconds, counted[load.name])
    return counted


def _slice(
    load: Load, updates: Updates, batches: Sequence[Batch], number: int, seconds: float, counted: Counted
) -> None:
    start = threading.Barrier(len(load.readers) + (load.updates > 0))

    def read(contender: Contender, at: int) -> tuple[float, npt.NDArray[np.int64]]:
        took: list[int] = []
        start.wait()
        began = now = time.perf_counter_ns()
        end = began + int(seconds * 1e9)
        while now < end:
            contender.call(batches[at % len(batches)])
            at += 1
            before, now = now, time.perf_counter_ns()
            took.append(now - before)
        return len(took) * batches[0].rows / ((now - began) / 1e9), np.asarray(took, np.int64)

    def write() -> float:
        start.wait()
        began = now = time.perf_counter()
        done = 0
        while now - began < seconds:
            done += updates.apply()
            due = 0.0 if math.isinf(load.updates) else began + done / load.updates
            now = time.perf_counter()
            if due > now:
                time.sleep(due - now)
                now = time.perf_counter()
        return done / (now - began)

    with ThreadPoolExecutor(start.parties) as pool:
        firsts = [(number * 17 + i * 29) % len(batches) for i in range(len(load.readers))]
        readers = [pool.submit(read, contender, first) for contender, first in zip(load.readers, firsts, strict=True)]
        writer = pool.submit(write) if load.updates > 0 else None
        done = [reader.result() for reader in readers]
        counted.updates_per_s.append(0.0 if writer is None else writer.result())
    counted.rows_per_s.append(sum(rate for rate, _ in done))
    counted.call_ns.append(np.concatenate([times for _, times in done]) if done else np.empty(0, np.int64))


def visibility(filled: Filled, workload: Workload, updates: int = UPDATES, seed: int = 0) -> dict[str, Any]:
    """Returns p50, p99 and the longest time in ms from the call of an update to a reader's first sight of its row.

    A batch of UPDATE_ROWS rows is written again and again, its last row saying how often; a reader looks that row up
    all the time. The rows are put back at the end.
    """
    core, dim = filled.cache.core, workload.table.shape[1]
    size = min(UPDATE_ROWS, filled.resident.size)
    positions = np.random.default_rng(seed).permutation(filled.resident)[:size]
    keys, original = workload.keys[positions], workload.table[positions]
    rows, versions = original.copy(), np.empty(size, np.uint64)
    seen_at = np.zeros(updates, np.int64)
    sent_at = np.zeros(updates, np.int64)
    seen, stop = threading.Event(), threading.Event()

    def read() -> None:
        out, last = np.full((1, dim), -1.0, np.float32), keys[-1:]
        for number in range(updates):
            while core.lookup(last, out) != 1 or out[0, 0] != number + 2:
                if stop.is_set():
                    return
            seen_at[number] = time.perf_counter_ns()
            seen.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(updates):
            rows[-1] = number + 2  # no random row: those are below 1
            versions[:] = _FROM + number
            sent_at[number] = time.perf_counter_ns()
            core.write(keys, rows, None, versions, None, True)
            if not seen.wait(_LIMIT_S):
                raise PepnetError(f"update {number}: expected a reader to see it, it did not within {_LIMIT_S:g} s")
            seen.clear()
    finally:
        stop.set()
        reader.join()
        versions[:] = _FROM + updates
        core.write(keys, original, None, versions, None, True)
    millis = (seen_at - sent_at) / 1e6
    p50, p99 = np.percentile(millis, (50, 99))
    return {"updates": updates, "p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(millis.max())}
