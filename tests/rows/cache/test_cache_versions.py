"""Updates amid fetches: no older row over a newer one, and of each id only newer rows for one reader."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from row_questions import look_up
from versioned_store import DIM, Versions, row_of, rows_over

from pepnet_infer import _kernels
from pepnet_infer.schema.row_batch import RowBatch

pytestmark = pytest.mark.concurrency


@pytest.mark.parametrize("change", ["apply", "delete"])
def test_an_update_while_a_row_is_fetched_is_not_overwritten(change: str) -> None:
    """The update is in the cache, thrown out again, and only then the store's older answer comes."""
    store, key, out = Versions(10), np.array([3], np.uint64), np.empty((1, DIM), np.float32)
    rows = rows_over(store)
    cache = rows.cache("t")
    one = np.array([1], np.uint64)

    def update(keys: np.ndarray) -> None:
        store.in_call = lambda keys: None
        if change == "apply":
            assert rows.apply("t", [3], row_of(key, 1), one) == 1
        else:
            assert rows.delete("t", [3], one) == 1
        cache.clear()  # what an eviction does, at its worst: not even a trace of the version is left

    store.in_call = update
    assert look_up(rows, "t", key, out) == 0
    np.testing.assert_array_equal(out, row_of(key, 0))  # served: the batch began before the update
    assert cache.core.peek(key)["outcome"][0] == 0  # and not kept
    assert rows.stats()["store"]["touched"] == 1
    store.versions[3] = 1
    assert look_up(rows, "t", key, out) == 0
    np.testing.assert_array_equal(out, row_of(key, 1))


def test_who_comes_after_an_update_does_not_join_the_flight_from_before_it() -> None:
    store, entered, go = Versions(10), threading.Event(), threading.Event()
    rows, key = rows_over(store), np.array([3], np.uint64)

    def hold(keys: np.ndarray) -> None:
        if not entered.is_set():
            entered.set()
            go.wait(60)

    store.in_call = hold
    before, after = np.empty((1, DIM), np.float32), np.empty((1, DIM), np.float32)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(look_up, rows, "t", key, before)
        entered.wait(60)
        store.versions[3] = 5
        rows.apply("t", key, row_of(key, 5), np.array([5], np.uint64))
        rows.cache("t").clear()
        look_up(rows, "t", key, after)
        np.testing.assert_array_equal(after, row_of(key, 5))
        go.set()
        first.result(60)
    np.testing.assert_array_equal(before, row_of(key, 0))
    look_up(rows, "t", key, after)
    np.testing.assert_array_equal(after, row_of(key, 5))
    assert store.asked[3] == 2
    assert rows.stats()["flights"] == 0


def test_a_row_that_came_between_a_miss_and_its_flight_is_not_asked_for_again() -> None:
    store = Versions(10)
    rows = rows_over(store)
    cache, fetcher = rows.cache("t"), rows.fetchers[DIM]
    keys = np.arange(4, dtype=np.uint64)
    missed = fetcher.fetches.ended  # four misses, and before they are asked for:
    look_up(rows, "t", keys[:2], np.empty((2, DIM), np.float32))
    cache.core.mark_absent(keys[2:3])
    store.versions[0] = 1  # an update that has reached the store, and not yet the cache

    mine, others = fetcher.fetch(keys, missed)
    assert mine is not None
    assert not others
    assert mine.fetched.found.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(mine.fetched.rows[[0, 1, 3]], row_of(keys[[0, 1, 3]]))
    assert store.asked == Counter({0: 1, 1: 1, 3: 1})
    begun: list[_kernels.Fetch | None] = []
    fetcher.fetches.ask(cache.flights, keys[:2], fetcher.fetches.ended, lambda mine, at, others: begun.append(mine))
    (again,) = begun
    assert again is not None
    assert not again.looks_again
    assert again.given_up
    assert len(cache.flights) == 0


@pytest.mark.parametrize("options", [{}, {"budget_ms": 60_000}])
def test_a_row_that_is_newer_than_an_update_amid_its_fetch_is_not_gone_back_from(options: dict[str, Any]) -> None:
    """The update of version 1 comes while the store is asked, which answers with version 2, not yet applied."""
    store, key, out = Versions(4), np.array([3], np.uint64), np.empty((1, DIM), np.float32)
    rows = rows_over(store, **options)
    read = store.get_many

    def late(keys: np.ndarray, dim: int) -> RowBatch:
        store.get_many = read  # type: ignore[method-assign]
        store.versions[3] = 1
        rows.apply("t", key, row_of(key, 1), np.array([1], np.uint64))
        store.versions[3] = 2
        return read(keys, dim)

    store.get_many = late  # type: ignore[method-assign]
    for _ in range(3):
        assert look_up(rows, "t", key, out) == 0
        np.testing.assert_array_equal(out, row_of(key, 2))
    assert store.asked[3] == 1
    rows.close()


def test_an_update_waits_while_a_row_of_its_id_is_being_written() -> None:
    table, fetches, keys = _kernels.FlightTable(), _kernels.Fetches(), np.array([1, 2, 3], np.uint64)
    order: list[str] = []

    def touch() -> None:
        table.touch(keys[:2])
        order.append("touched")

    thread = threading.Thread(target=touch)

    def write(mine: _kernels.Fetch | None, at: object, others: object) -> None:
        assert mine is not None
        table.touch(keys[:1])
        kept = table.land(keys, mine.number)
        assert kept is not None
        assert kept.tolist() == [False, True, True]
        thread.start()
        time.sleep(0.05)
        order.append("written")

    fetches.ask(table, keys, fetches.ended, write)
    thread.join(60)
    assert order == ["written", "touched"]
    assert len(table) == 0
    table.touch(keys)

    def land(mine: _kernels.Fetch | None, at: object, others: object) -> None:
        assert mine is not None
        assert table.land(keys, mine.number) is None

    fetches.ask(table, keys, fetches.ended, land)


@pytest.mark.parametrize(("policy", "capacity"), [("lru", 70 << 10), ("gset", 1 << 20)])
def test_versions_never_go_back_under_updates_evictions_and_misses(policy: str, capacity: int) -> None:
    """Rows are a function of (id, version): a reader sees whole ones, and of each id only newer ones."""
    count, stop = 3000, threading.Event()
    store = Versions(count)
    rows = rows_over(store, capacity, policy)

    def write(seed: int) -> int:
        rng, updates = np.random.default_rng(seed), 0
        while not stop.is_set():
            keys = np.unique(rng.integers(0, count, 20).astype(np.uint64))
            keys = keys[keys % np.uint64(2) == seed]  # one writer an id
            versions = store.versions[keys] + np.uint64(1)
            store.versions[keys] = versions  # the store first
            rows.apply("t", keys, row_of(keys, versions), versions)
            updates += len(keys)
        return updates

    def read(seed: int) -> int:
        rng, seen, batches = np.random.default_rng(seed), np.zeros(count, np.int64), 0
        out = np.empty((200, DIM), np.float32)
        while not stop.is_set():
            keys = rng.integers(0, count, 200).astype(np.uint64)
            assert look_up(rows, "t", keys, out) == 0
            versions = np.floor(out[:, 0].astype(np.float64) / 2.0**15).astype(np.int64)
            np.testing.assert_array_equal(out, row_of(keys, versions))
            assert (versions >= seen[keys]).all()
            np.maximum.at(seen, keys.astype(np.int64), versions)
            batches += 1
        return batches

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(write, seed) for seed in (0, 1)] + [pool.submit(read, seed) for seed in range(2, 6)]
        time.sleep(1.5)
        stop.set()
        done = [future.result(120) for future in futures]
    assert min(done) > 0
    assert rows.stats()["flights"] == 0
