"""What misses cost: batches of which a tenth is fetched from a store in memory, beside batches of hits only."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from pepnet_infer.bench.cache.contender import Keys, Positions, Workload
from pepnet_infer.bench.cache.peers import fill
from pepnet_infer.bench.harness.interleave import Plan, wall_clock
from pepnet_infer.bench.harness.measure import Say, measure
from pepnet_infer.bench.harness.statistics import Ratio
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.requests import CachedTable
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
        filled = fill(Workload(workload.table[:held], workload.keys[:held], ()), "lru", seed)
        table = CachedTable(TABLE, 1, dim, count, np.zeros(dim, np.float32))
        self._cache = filled.cache
        self._cached = CachedRows(store, [table], {dim: filled.cache}, CacheConfig(policy="lru", warm=False))
        self._workload, self._rows = workload, rows
        self.out = np.zeros((rows, dim), np.float32)
        self._rng = np.random.default_rng(seed)
        self.warm: list[Keys] = []  # batches that hit, as long as nothing is looked up that misses

    def keys(self, missed: int) -> tuple[Keys, Positions]:
        """Returns a batch with `missed` distinct ids that are not there, and where its rows are in the table."""
        there = self._there()
        hits = self._rng.choice(np.flatnonzero(there), self._rows - missed)
        positions = np.concatenate([hits, self._rng.choice(np.flatnonzero(~there), missed, replace=False)])
        self._rng.shuffle(positions)
        self.warm = [self._workload.keys[self._rng.choice(np.flatnonzero(there), self._rows)] for _ in range(20)]
        return self._workload.keys[positions], positions

    def lookup(self, keys: Keys) -> None:
        """Looks a batch up: its rows are in `out`."""
        self._cached.lookup(TABLE, keys, self.out)

    @property
    def missed(self) -> int:
        """How many ids missed so far."""
        return int(self._cache.core.stats()["misses"])

    def _there(self) -> npt.NDArray[np.bool_]:
        there: npt.NDArray[np.bool_] = self._cache.core.peek(self._workload.keys)["outcome"] == 1
        return there


def measure_misses(
    workload: Workload, rows: int, plan: Plan, seed: int = 0, say: Say = lambda _: None
) -> dict[str, Any]:
    """Returns what batches of `rows` ids took with and without misses, and the quotient of the medians.

    Raises RuntimeError when a batch did not miss as often as it should, or its rows are not the table's.
    """
    say("filling a store in memory")
    missing = Missing(workload, rows, seed)
    share = {"hits": 0, "misses": int(rows * MISSED)}
    given: Positions = np.empty(0, np.int64)
    before = 0

    def prepare(name: str, _: Keys) -> Keys:
        nonlocal given, before
        keys, given = missing.keys(share[name])
        before = missing.missed
        return keys

    def check(name: str, _: int, __: None) -> None:
        if (got := missing.missed - before) != share[name]:
            raise PepnetError(f"a batch with {share[name]} misses: expected so many, got {got}")
        if not np.array_equal(missing.out, workload.table[given]):
            raise PepnetError("a batch with misses: expected the table's rows, got others")

    def warm_clock(call: Callable[[Keys], None], keys: Keys) -> tuple[float, None]:
        """Times a call after others of hits only, which leave what is to miss as it is."""
        began, at = time.perf_counter(), 0
        while at < plan.warm_calls or time.perf_counter() - began < plan.warm_s:
            missing.lookup(missing.warm[at % len(missing.warm)])
            at += 1
        return wall_clock(call, keys)

    calls = dict.fromkeys(share, missing.lookup)
    cold = structs.replace(plan, warm_calls=0, warm_s=0.0)
    figures = measure("misses", calls, [workload.keys[:0]], cold, say, prepare=prepare, check=check, clock=warm_clock)
    ratio: Ratio = figures.rows["hits"]["speedups"]["misses"]
    return {"missed": share["misses"], **figures.rows, "ratio": ratio, "others_busy": figures.others_busy}
