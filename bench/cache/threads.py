"""Readers beside each other and beside a writer, in slices that take turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any

import numpy as np

from pepnet_infer.bench.cache.peers import Batch, Call, Filled, Floats
from pepnet_infer.bench.harness.interleave import williams_square
from pepnet_infer.bench.harness.measure import Row, Say
from pepnet_infer.bench.harness.statistics import speedups
from pepnet_infer.errors import PepnetError
from pepnet_infer.schema.ids import Keys

_UPDATE_ROWS = 1024
_UPDATE_BATCHES = 64


@dataclass
class Load:
    """Who works during a slice, and what they did in all slices.

    seconds_a_row, of all readers together, and updates_per_s: a figure a slice. call_ns: of all calls.
    """

    name: str
    readers: Sequence[Call]
    write: Callable[[], int] | None = None  # writes rows again and again, and returns how many each time
    seconds_a_row: list[float] = field(default_factory=list)
    updates_per_s: list[float] = field(default_factory=list)
    call_ns: list[int] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """Returns medians over slices, and quantiles of all calls, as JSON values."""
        row: dict[str, Any] = {"load": self.name, "calls": len(self.call_ns)}
        if self.write is not None:
            row["million_updates_per_s"] = float(np.median(self.updates_per_s)) / 1e6
        if self.readers:
            p50, p99 = (np.percentile(self.call_ns, (50, 99)) / 1e6).tolist()
            row |= {"million_rows_per_s": 1e-6 / float(np.median(self.seconds_a_row)), "p50_ms": p50, "p99_ms": p99}
        return row


def newer_versions(filled: Filled, keys: Keys, table: Floats) -> Callable[[], int]:
    """Returns what writes newer versions of rows that are in the cache, whose content stays the table's.

    A call writes a batch and returns its rows. It raises PepnetError when not all of them were taken.
    """
    resident = np.random.default_rng(0).permutation(filled.resident)
    rows = min(_UPDATE_ROWS, resident.size)
    batches = np.split(resident, range(rows, resident.size, rows))[: min(_UPDATE_BATCHES, resident.size // rows)]
    turns, versions = cycle([(keys[at], table[at]) for at in batches]), count(2)

    def write() -> int:
        batch, values = next(turns)
        version = np.full(rows, next(versions), np.uint64)
        if (applied := filled.cache.core.write(batch, values, None, version, None, True)) != rows:
            raise PepnetError(f"updates: expected {rows} applied, got {applied}")
        return rows

    return write


def run_loads(loads: Sequence[Load], batches: Sequence[Batch], rounds: int, seconds: float, say: Say) -> list[Row]:
    """Runs each load for `seconds` a round, in balanced order. Raises what a reader or the writer raised.

    Returns a row a load; `over`: the rows a second of the others with readers over those of the first load.
    """
    square = williams_square(len(loads))
    for number in range(rounds):
        say(f"measuring threads; round {number + 1} of {rounds}")
        for place in square[number % len(square)]:
            _slice(loads[place], batches, number, seconds)
    ratios = speedups({load.name: np.asarray(load.seconds_a_row) for load in loads if load.readers})
    over = {name: {"over": ratio[loads[0].name]} for name, ratio in ratios.items() if name != loads[0].name}
    return [load.describe() | over.get(load.name, {}) for load in loads]


def _slice(load: Load, batches: Sequence[Batch], number: int, seconds: float) -> None:
    start = threading.Barrier(len(load.readers) + (load.write is not None))

    def repeat(work: Callable[[int], int]) -> tuple[float, list[int]]:
        """Returns how many rows a second `work` did, and the nanoseconds of each call."""
        took: list[int] = []
        start.wait()
        done, began = 0, time.perf_counter_ns()
        now = began
        while now < began + seconds * 1e9:
            done += work(len(took))
            before, now = now, time.perf_counter_ns()
            took.append(now - before)
        return done / ((now - began) / 1e9), took

    def reading(call: Call, first: int) -> Callable[[int], int]:
        return lambda at: len(call(batches[(first + at) % len(batches)]))

    with ThreadPoolExecutor(start.parties) as pool:
        # Readers begin at different batches, and at others in each round.
        readers = [pool.submit(repeat, reading(call, 17 * number + 29 * i)) for i, call in enumerate(load.readers)]
        writer = None if (write := load.write) is None else pool.submit(repeat, lambda _: write())
        done = [reader.result() for reader in readers]
        if writer is not None:
            load.updates_per_s.append(writer.result()[0])
    if done:
        load.seconds_a_row.append(1 / sum(rate for rate, _ in done))
        load.call_ns += [ns for _, took in done for ns in took]
