"""What a cache begins with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pepnet_infer import _kernels
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.cache import warm as warming
from pepnet_infer.rows.cache.counters import MissCounters
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
from pepnet_infer.rows.cache.misses import Fetcher
from pepnet_infer.rows.cache.warm import choose, warm
from pepnet_infer.rows.stores.memory import MemoryStore
from pepnet_infer.schema.ids import Keys, make_keys
from pepnet_infer.schema.row_batch import RowBatch

Scored = tuple[Keys, np.ndarray]


def table(number: int, scores: list[float] | np.ndarray) -> Scored:
    return make_keys(number, np.arange(len(scores), dtype=np.uint64)), np.array(scores, np.float32)


@pytest.mark.parametrize("kind", ["distinct", "ties", "negative", "alike", "subnormal"])
@pytest.mark.parametrize("count", [1, 2, 99, 1000, 2999])
def test_the_highest_scores_are_chosen(kind: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "_CHUNK", 700)
    rng = np.random.default_rng(count)
    values = {
        "distinct": rng.permutation(3000).astype(np.float32),
        "ties": rng.integers(0, 40, 3000).astype(np.float32),
        "negative": rng.normal(0, 1e3, 3000).astype(np.float32),
        "alike": np.full(3000, 0.25, np.float32),
        "subnormal": (rng.integers(-50, 50, 3000) * 1e-45).astype(np.float32),
    }[kind]
    tables = [table(0, values[:1200]), table(1, values[1200:1200]), table(7, values[1200:])]
    keys, scores = choose(tables, count)
    assert len(np.unique(keys)) == len(keys) == len(scores) == count
    np.testing.assert_array_equal(np.sort(scores), np.sort(values)[-count:])
    score_of = dict(zip(*(np.concatenate(parts).tolist() for parts in zip(*tables, strict=True)), strict=True))
    assert [score_of[key] for key in keys.tolist()] == scores.tolist()


@pytest.mark.parametrize("count", [5, 89, 90, 95])
def test_keys_without_a_score_are_chosen_last(count: int) -> None:
    scores = np.arange(100, dtype=np.float32)
    scores[::10] = np.nan
    keys, chosen = choose([table(1, scores)], count)
    assert len(keys) == len(chosen) == count
    ids = (keys & np.uint64((1 << 48) - 1)).astype(int)
    assert np.count_nonzero(ids % 10 == 0) == max(0, count - 90)
    assert ids[ids % 10 != 0].tolist() == [i for i in range(100) if i % 10][-min(count, 90) :]


def filled(tables: list[Scored], dim: int) -> MemoryStore:
    store = MemoryStore()
    for keys, scores in tables:
        rows = np.repeat((keys % np.uint64(1 << 20)).astype(np.float32)[:, None], dim, axis=1)
        if len(keys):
            store.put_many(keys, rows, np.ones(len(keys), np.uint64), scores)
    return store


def fetcher_over(store: object, policy: str, capacity: int = 100 << 10, dim: int = 30) -> Fetcher:
    cache = EmbeddingCache(dim, capacity, policy)
    return Fetcher(cache, store, MissCounters(), _kernels.Fetches())  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["lru", "gset", "sieve"])
def test_a_small_cache_begins_with_the_rows_of_the_highest_scores(policy: str) -> None:
    rng = np.random.default_rng(0)
    tables = [table(2, rng.random(2000)), table(3, rng.random(3000) * 2)]
    flights = fetcher_over(filled(tables, 30), policy)
    room = flights.cache.capacity_rows
    assert room < 600
    assert warm(flights, tables) == room
    keys, scores = (np.concatenate(parts) for parts in zip(*tables, strict=True))
    there = flights.cache.core.peek(keys)["outcome"] == 1
    best = np.argsort(-scores)[:room]
    assert there.sum() > 0.8 * room  # sets fill unevenly
    assert not there[np.setdiff1d(np.arange(len(keys)), best)].any()
    assert there[best[: room // 2]].mean() > 0.97
    out = np.zeros((len(keys), 30), np.float32)
    found = flights.cache.lookup(keys, out)
    np.testing.assert_array_equal(out[found, 5], (keys[found] % np.uint64(1 << 20)).astype(np.float32))


def test_a_large_cache_begins_with_everything() -> None:
    tables = [table(2, np.arange(200)), table(3, np.arange(0)), table(4, -np.arange(100))]
    flights = fetcher_over(filled(tables, 8), "gset", 1 << 20, 8)
    assert warm(flights, tables) == 300
    assert flights.cache.stats()["rows"] == 300
    assert flights.cache.core.peek(tables[0][0][7:8])["score"][0] == pytest.approx(7.0, rel=0.01)


def test_a_store_that_fails_ends_it_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        calls = 0

        def get_many(self, keys: Keys, dim: int) -> RowBatch:
            self.calls += 1
            if self.calls == 2:
                raise StoreError("down")
            return replace(RowBatch.nothing(len(keys), dim), found=np.ones(len(keys), np.bool_))

    monkeypatch.setattr(warming, "_CHUNK", 50)
    store = Failing()
    flights = fetcher_over(store, "gset", 1 << 20)
    assert warm(flights, [table(1, np.zeros(300))]) == 50
    assert store.calls == 2
    assert len(flights.cache.flights) == 0
