"""Readers beside each other and beside a writer, in short slices that take turns."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bench.cache_peers import Batch, Contender, Workload
from pepnet_infer.bench.cache_peers.contender import Keys, Positions
from pepnet_infer.bench.cache_peers.ours import Filled
from pepnet_infer.bench.cache_speed_claims import spread
from pepnet_infer.bench.latency import williams_square
from pepnet_infer.errors import PepnetError

UPDATE_ROWS = 1024
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
    say: Callable[[str], None] = lambda _: None,
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


def ratio_by_round(above: Counted, below: Counted) -> dict[str, float]:
    """Returns the median over rounds of the quotient of rows a second, and its middle 95 %."""
    quotients = np.asarray(above.rows_per_s) / np.asarray(below.rows_per_s)
    low, high = spread(quotients)
    return {"ratio": float(np.median(quotients)), "low": low, "high": high}


def p99_ratio(above: Counted, below: Counted, seed: int = 0) -> dict[str, float]:
    """Returns the quotient of the p99 of all calls, and its middle 95 % when rounds are drawn with replacement."""

    def p99(counted: Counted, rounds: Sequence[int] | npt.NDArray[np.int64]) -> float:
        return float(np.percentile(np.concatenate([counted.call_ns[r] for r in rounds]), 99))

    rounds = len(above.call_ns)
    drawn = np.random.default_rng(seed).integers(0, rounds, (200, rounds))
    low, high = np.percentile([p99(above, row) / p99(below, row) for row in drawn], (2.5, 97.5))
    return {"ratio": p99(above, range(rounds)) / p99(below, range(rounds)), "low": float(low), "high": float(high)}


def _slice(
    load: Load, updates: Updates, batches: Sequence[Batch], number: int, seconds: float, counted: Counted
) -> None:
    parties = len(load.readers) + (load.updates > 0)
    start = threading.Barrier(parties)
    failures: list[BaseException] = []
    rates: list[float] = []
    times: list[npt.NDArray[np.int64]] = []
    written: list[float] = [0.0]

    def read(contender: Contender, first: int) -> None:
        took: list[int] = []
        rows, at = batches[0].rows, first
        start.wait()
        began = now = time.perf_counter_ns()
        end = began + int(seconds * 1e9)
        while now < end:
            contender.call(batches[at % len(batches)])
            at += 1
            before, now = now, time.perf_counter_ns()
            took.append(now - before)
        rates.append(len(took) * rows / ((now - began) / 1e9))
        times.append(np.asarray(took, np.int64))

    def write() -> None:
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
        written[0] = done / (now - began)

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)
                start.abort()

        return run

    works: list[Callable[[], None]] = [
        partial(read, contender, (number * 17 + i * 29) % len(batches)) for i, contender in enumerate(load.readers)
    ]
    if load.updates > 0:
        works.append(write)
    threads = [threading.Thread(target=guarded(work)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    counted.rows_per_s.append(sum(rates))
    counted.updates_per_s.append(written[0])
    counted.call_ns.append(np.concatenate(times) if times else np.empty(0, np.int64))
