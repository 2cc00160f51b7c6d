"""Threads that read one cache beside each other and beside a writer, and how soon a reader sees an update."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, repeat
from threading import Event

import numpy as np
import numpy.typing as npt
from msgspec import structs

from pepnet_infer.bench.cache.peers import Batch, Call, FilledCache, Floats
from pepnet_infer.bench.harness.interleave import Plan, paced
from pepnet_infer.bench.harness.measure import Row, Say, measure
from pepnet_infer.bench.harness.statistics import describe_times, p99_ratio
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.config import Policy
from pepnet_infer.schema.ids import Keys

#: How long the threads of a turn work, and how many rows a second the writer among them writes.
SLICE_S, UPDATES_PER_S = 0.1, 100_000
_BESIDE = f"beside {UPDATES_PER_S:,} updates/s"
#: Who is at work in a turn: so many readers and writers.
_LOADS = {"1 reader": (1, 0), "2 readers": (2, 0), f"1 reader {_BESIDE}": (1, 1), f"2 readers {_BESIDE}": (2, 1)}
_PATIENCE_S = 60.0
_NEWER = 1 << 40  # above every version that was written before


def measure_readers(
    filled: FilledCache, batches: Sequence[Batch], update: Callable[[object], None], rows: int, plan: Plan, say: Say
) -> list[Row]:
    """Returns a row for each of `_LOADS`. `update` writes so many `rows`."""
    size = len(batches[0].keys)
    readers = [filled.reader(size) for _ in range(2)]
    calls: defaultdict[str, list[npt.NDArray[np.int64]]] = defaultdict(list)  # nanoseconds, by turn
    updates: defaultdict[str, int] = defaultdict(int)

    def read(call: Call, first: int, ends: int) -> tuple[npt.NDArray[np.int64], Batch, Floats]:
        took: list[int] = []
        while not took or time.perf_counter_ns() < ends:
            batch, began = batches[(first + len(took)) % len(batches)], time.perf_counter_ns()
            found = call(batch)
            took.append(time.perf_counter_ns() - began)
        return np.array(took), batch, found

    def write(name: str) -> None:
        for _ in paced(rows / UPDATES_PER_S, SLICE_S):
            update(None)
            updates[name] += rows

    def turn(name: str, first: int) -> float:
        """Returns the nanoseconds that a batch took, by all readers together."""
        reading, writing = _LOADS[name]
        ends = time.perf_counter_ns() + int(SLICE_S * 1e9)
        with ThreadPoolExecutor(reading + writing) as pool:
            written = pool.map(write, [name] * writing)
            done = list(pool.map(read, readers[:reading], (first, first + 29), repeat(ends)))
            list(written)  # raises what a writer raised
        for _, batch, found in done:
            batch.check(found, filled.table)
        calls[name].append(np.concatenate([took for took, _, _ in done]))
        return float(1 / sum(1 / took.mean() for took, _, _ in done))

    loads = {name: partial(turn, name) for name in _LOADS}
    cold = structs.replace(plan, warm_calls=0, warm_s=0.0)
    turns = measure("readers", loads, range(len(batches)), cold, say, clock=lambda call, item: (call(item), None)).rows
    for name, row in turns.items():
        row["million_rows_per_s"] = size / row["p50_ms"] / 1e3
        row["updates_per_s"] = updates[name] / (row["runs"] * SLICE_S)
        row["call_ms"] = describe_times(np.concatenate(calls[name]) / 1e6)
        row["p99_over"] = p99_ratio(calls[name], calls["1 reader"])
    return list(turns.values())


def measure_seen(filled: Mapping[Policy, FilledCache], keys: Keys, rows: int, plan: Plan, say: Say) -> list[Row]:
    """Returns a row for each cache: from the call of an update until a reader finds the last of its `rows` rows.

    What these hold afterwards is not the table's.
    """
    numbers = count(2)  # that fill the rows: those of a table are below 1

    def seen(one: FilledCache, pool: ThreadPoolExecutor, _: object) -> int:
        number, looks, core = next(numbers), Event(), one.cache.core
        written, out = keys[one.resident[:rows]], np.zeros((1, one.cache.dim), np.float32)

        def find() -> int:
            ends = time.perf_counter() + _PATIENCE_S
            while out[0, 0] != number:
                looks.set()
                core.lookup(written[-1:], out)
                if time.perf_counter() > ends:
                    raise PepnetError(f"an update: expected a reader to see it within {_PATIENCE_S:g} s, it did not")
            return time.perf_counter_ns()

        values, versions = np.full((rows, one.cache.dim), number, np.float32), np.full(rows, _NEWER + number, np.uint64)
        reader = pool.submit(find)
        looks.wait()
        began = time.perf_counter_ns()
        core.write(written, values, None, versions, None, True)
        return reader.result() - began

    with ThreadPoolExecutor(1) as pool:
        calls = {f"update-{name} seen": partial(seen, one, pool) for name, one in filled.items()}
        found = measure("updates seen", calls, [None], plan, say, clock=lambda call, item: (call(item), None)).rows
        return list(found.values())
