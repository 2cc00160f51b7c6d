"""What misses cost: batches of which a tenth is fetched from a store in memory, beside batches of hits only."""

from __future__ import annotations

import numpy as np
from msgspec import structs

from pepnet_infer.bench.cache.peers import Batch, Floats, fill, is_cached
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Figures, Say, measure
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.protocols import CachedTable, RowRequest
from pepnet_infer.rows.stores.memory import MemoryStore
from pepnet_infer.schema.ids import Keys

MISSED = 0.1
#: Of the table's rows, what the cache has room for; the store has all.
HELD = 0.8
_TABLE = "ids"
_WARM_CALLS = 3  # of hits only, before a timed call: they leave what is to miss as it is


def measure_misses(keys: Keys, table: Floats, rows: int, plan: Plan, seed: int, say: Say) -> Figures:
    """Returns what batches of `rows` ids took, "all hits" and "10 % misses".

    Raises RuntimeError when the rows of a batch are not the table's, or more or fewer were missing.
    """
    say("filling a store in memory")
    count, dim = table.shape
    store = MemoryStore()
    store.put_many(keys, table, np.ones(count, np.uint64))
    held = int(count * HELD)
    cache = fill(keys[:held], table[:held], "lru", seed).cache
    cached_table = CachedTable(_TABLE, 1, dim, count, np.zeros(dim, np.float32))
    cached = CachedRows(store, [cached_table], {dim: cache}, CacheConfig(policy="lru", warm=False))
    out, rng = np.zeros((rows, dim), np.float32), np.random.default_rng(seed)
    missed = {"all hits": 0, "10 % misses": int(rows * MISSED)}
    counted = 0

    def lookup(batch: Batch) -> Batch:
        cached.answer([RowRequest("", _TABLE, batch.keys, out)])
        return batch

    def prepare(name: str, _: Batch) -> Batch:
        """Returns a batch that misses, for the moment, as often as its name says."""
        nonlocal counted
        in_cache = is_cached(cache, keys)
        hits, others = np.flatnonzero(in_cache), np.flatnonzero(~in_cache)
        positions = np.concatenate(
            [rng.choice(hits, rows - missed[name]), rng.choice(others, missed[name], replace=False)]
        )
        rng.shuffle(positions)
        for _call in range(_WARM_CALLS):
            cached.answer([RowRequest("", _TABLE, keys[rng.choice(hits, rows)], out)])
        counted = cached.stats()["total"]["misses"]
        return Batch(positions, keys[positions])

    def check(name: str, _: int, batch: Batch) -> None:
        if (got := cached.stats()["total"]["misses"] - counted) != missed[name]:
            raise PepnetError(f"a batch of {name}: expected {missed[name]} misses, got {got}")
        batch.check(out, table)

    cold = structs.replace(plan, warm_calls=0, warm_s=0.0)
    calls = dict.fromkeys(missed, lookup)
    return measure("misses", calls, [Batch(np.empty(0, np.int64), keys[:0])], cold, say, prepare=prepare, check=check)
