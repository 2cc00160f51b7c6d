"""What misses cost: batches of which a tenth is fetched from a store in memory, beside batches of hits only."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bench.cache_peers import Workload, ours
from pepnet_infer.bench.cache_peers.contender import Floats, Keys, Positions
from pepnet_infer.bench.cache_speed_claims import spread
from pepnet_infer.bench.latency import Plan, settle
from pepnet_infer.bench.machine import BusyMeter
from pepnet_infer.bench.summary import describe_times
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.cache.cached_table import CachedTable
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.stores.memory import MemoryStore

MISSED = 0.1
#: Of the table's rows, what the cache has room for; the store has all.
HELD = 0.8
TABLE = "ids"
_CHUNK = 1 << 16


class Missing:
    """A cache before a store in memory. Batches are made for the moment: they hit, or miss, as they say."""

    def __init__(self, workload: Workload, rows: int, seed: int = 0) -> None:
        count, dim = workload.table.shape
        store = MemoryStore()
        for begin in range(0, count, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            keys = workload.keys[part]
            store.put_many(keys, workload.table[part], np.ones(keys.size, np.uint64))
        held = int(count * HELD)
        filled = ours.fill(Workload(workload.table[:held], workload.keys[:held], ()), "lru", seed)
        table = CachedTable(TABLE, 1, dim, count, np.zeros(dim, np.float32))
        self._cache = filled.cache
        self._cached = CachedRows(store, [table], {dim: filled.cache}, CacheConfig(policy="lru", warm=False))
        self._workload, self._rows = workload, rows
        self._out = np.zeros((rows, dim), np.float32)
        self._rng = np.random.default_rng(seed)

    def turn(self, missed: int, plan: Plan) -> int:
        """Looks up a batch with `missed` distinct ids that are not there, after others that are. Returns ns.

        Raises PepnetError when the batch did not miss as often as it should, or its rows are not the table's.
        """
        there, absent = self._now()
        warm = [self._workload.keys[self._rng.choice(there, self._rows)] for _ in range(20)]
        positions = np.concatenate(
            [self._rng.choice(there, self._rows - missed), self._rng.choice(absent, missed, replace=False)]
        )
        self._rng.shuffle(positions)
        keys = self._workload.keys[positions]
        settle(plan.settle_s)
        began, at = time.perf_counter(), 0
        while at < plan.warm_calls or time.perf_counter() - began < plan.warm_s:
            self._cached.lookup(TABLE, warm[at % len(warm)], self._out)
            at += 1
        before = self._cache.core.stats()["misses"]
        took = self._timed(keys, self._out)
        if (got := self._cache.core.stats()["misses"] - before) != missed:
            raise PepnetError(f"a batch with {missed} misses: expected so many, got {got}")
        if not np.array_equal(self._out, self._workload.table[positions]):
            raise PepnetError("a batch with misses: expected the table's rows, got others")
        return took

    def _timed(self, keys: Keys, out: Floats) -> int:
        start = time.perf_counter_ns()
        self._cached.lookup(TABLE, keys, out)
        return time.perf_counter_ns() - start

    def _now(self) -> tuple[Positions, Positions]:
        """Positions of the ids that are in the cache, and of those that are not."""
        there: npt.NDArray[np.bool_] = self._cache.core.peek(self._workload.keys)["outcome"] == 1
        return np.flatnonzero(there), np.flatnonzero(~there)


def measure_misses(
    workload: Workload, rows: int, plan: Plan, seed: int = 0, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Returns what batches of `rows` ids took with and without misses, and the quotient by round."""
    say("filling a store in memory")
    missing = Missing(workload, rows, seed)
    meter = BusyMeter()
    took: dict[int, list[int]] = {0: [], int(rows * MISSED): []}
    for number in range(plan.runs):
        say(f"measuring misses; round {number + 1} of {plan.runs}")
        for missed in sorted(took, reverse=bool(number % 2)):
            took[missed].append(missing.turn(missed, plan))
    hits, misses = (np.asarray(ns, np.float64) / 1e6 for ns in took.values())
    low, high = spread(misses / hits)
    return {
        "missed": int(rows * MISSED),
        "hits": describe_times(hits),
        "misses": describe_times(misses),
        "ratio": {"ratio": float(np.median(misses) / np.median(hits)), "low": low, "high": high},
        "others_busy": meter.others(),
    }
