"""Many threads that miss the same ids: one question each, nobody waits for ever, no older row over a newer one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from children import well_in_a_child
from formula_store import until
from interrupting import within

from pepnet_infer import CacheConfig, EmbeddingCache, StoreError, UpdateWindow, _kernels
from pepnet_infer.cache.cached_rows import CachedRows, CachedTable
from pepnet_infer.cache.flights import positions
from pepnet_infer.cache.miss_workers import MissWorkers, Submitted
from pepnet_infer.store import Fetched

DIM = 4
THREADS = 8


def row_of(keys: np.ndarray, version: np.ndarray | int = 0) -> np.ndarray:
    # float32 rounds the lower part of large versions, always within the same multiple of 2^15
    base = keys.astype(np.float64)[:, None] * 4 + np.asarray(version, np.float64).reshape(-1, 1) * 2.0**15
    return (base + np.arange(DIM)).astype(np.float32)


class Versions:
    """A store whose rows have versions that others raise, slow where it is told to be."""

    def __init__(self, count: int, seconds: float = 0.0) -> None:
        self.versions = np.zeros(count, np.uint64)
        self.asked: Counter[int] = Counter()
        self.seconds = seconds
        self.in_call: Callable[[np.ndarray], None] = lambda keys: None
        self._lock = threading.Lock()

    def get_many(self, keys: np.ndarray, dim: int) -> Fetched:
        with self._lock:
            self.asked.update(keys.tolist())
            versions = self.versions[keys]  # read at the beginning: old by the time it is answered
        self.in_call(keys)
        if self.seconds:
            time.sleep(self.seconds)
        nan, inf = np.full(len(keys), np.nan, np.float32), np.full(len(keys), np.inf)
        return Fetched(row_of(keys, versions), np.ones(len(keys), np.bool_), versions, nan, inf)


def rows_over(store: object, capacity: int = 1 << 20, policy: str = "lru", **options: Any) -> CachedRows:
    cache = EmbeddingCache(DIM, capacity, policy)
    table = CachedTable("t", 0, DIM, 100, np.full(DIM, -1, np.float32))
    return CachedRows(store, [table], {DIM: cache}, CacheConfig(**options))  # type: ignore[arg-type]


def all_at_once(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    start = threading.Barrier(threads)

    def run(number: int) -> Any:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return [future.result(120) for future in [pool.submit(run, number) for number in range(threads)]]


@pytest.mark.parametrize("options", [{}, {"budget_ms": 20_000}])
def test_an_id_is_asked_for_once_by_all_threads(options: dict[str, Any]) -> None:
    store = Versions(400, seconds=0.05)
    rows = rows_over(store, **options)

    def work(number: int) -> None:
        keys = np.roll(np.arange(400, dtype=np.uint64), 37 * number)[:300]
        out = np.empty((300, DIM), np.float32)
        assert rows.lookup("t", keys, out) == 0
        np.testing.assert_array_equal(out, row_of(keys))

    all_at_once(work)
    assert set(store.asked) == set(range(400))
    assert set(store.asked.values()) == {1}
    until(lambda: rows.stats()["flights"] == 0)  # a worker ends its fetch after those who waited for it have gone on
    stats = rows.stats()
    assert stats["store"]["joined"] > 0
    assert stats["total"]["keys"] == 300 * THREADS
    rows.close()


def test_a_fault_wakes_all_who_wait_and_is_not_kept() -> None:
    store = Versions(10, seconds=0.05)

    def fail(keys: np.ndarray) -> None:
        time.sleep(0.05)
        raise ConnectionError("gone")

    store.in_call = fail
    keys, patient, strict = np.arange(10, dtype=np.uint64), rows_over(store), rows_over(store, on_fault="raise")

    def serve(number: int) -> int:
        return patient.lookup("t", keys, np.empty((10, DIM), np.float32))

    def raises(number: int) -> str:
        with pytest.raises(StoreError) as caught:
            strict.lookup("t", keys, np.empty((10, DIM), np.float32))
        return str(caught.value)

    assert all_at_once(serve) == [10] * THREADS
    assert all("gone" in message for message in all_at_once(raises))
    store.in_call = lambda keys: None
    assert all_at_once(serve) == [0] * THREADS
    assert patient.stats()["flights"] == strict.stats()["flights"] == 0


def test_who_waits_for_a_thread_that_is_killed_in_the_store_asks_itself() -> None:
    class Stop(BaseException):
        pass

    store, entered, go = Versions(4), threading.Event(), threading.Event()
    rows, keys = rows_over(store), np.arange(4, dtype=np.uint64)

    def stop(keys: np.ndarray) -> None:
        store.in_call = lambda keys: None
        entered.set()
        go.wait(60)
        raise Stop

    store.in_call = stop
    out = np.empty((4, DIM), np.float32)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(rows.lookup, "t", keys, np.empty((4, DIM), np.float32))
        entered.wait(60)
        second = pool.submit(rows.lookup, "t", keys, out)
        time.sleep(0.05)
        assert not second.done()
        go.set()
        with pytest.raises(Stop):
            first.result(60)
        assert second.result(60) == 0
    np.testing.assert_array_equal(out, row_of(keys))
    stats = rows.stats()
    assert (stats["flights"], stats["store"]["again"], stats["store"]["faults"]) == (0, 1, 0)


@pytest.mark.parametrize("options", [{}, {"budget_ms": 60_000}])
def test_a_call_inside_of_a_fetch_of_its_own_thread_asks_itself(options: dict[str, Any]) -> None:
    """As from a signal's handler while the store is asked, or in another greenlet: to wait would be for ever."""
    store, keys = Versions(8), np.arange(6, dtype=np.uint64)
    rows = rows_over(store, **options)
    inner, outer = np.empty((6, DIM), np.float32), np.empty((4, DIM), np.float32)

    def again(_: np.ndarray) -> None:
        store.in_call = lambda keys: None
        assert within(lambda: rows.lookup("t", keys[5:], np.empty((1, DIM), np.float32))) == 0
        assert rows.lookup("t", keys[1:], inner[1:]) == 0

    store.in_call = again
    assert within(lambda: rows.lookup("t", keys[:4], outer)) == 0
    np.testing.assert_array_equal(outer, row_of(keys[:4]))
    np.testing.assert_array_equal(inner[1:], row_of(keys[1:]))
    until(lambda: rows.stats()["flights"] == 0)
    assert rows.lookup("t", keys, inner) == 0
    assert store.asked == {0: 1, 1: 2, 2: 2, 3: 2, 4: 1, 5: 1}
    rows.close()


@pytest.mark.parametrize("raised", [asyncio.CancelledError(), GeneratorExit(), SystemExit(3), KeyboardInterrupt()])
def test_what_a_store_raises_in_a_workers_thread_is_a_fault_and_asked_for_once(raised: BaseException) -> None:
    """Although it is no Exception: nobody else is there to hear of it."""
    calls = []

    def fail(keys: np.ndarray) -> None:
        calls.append(keys)
        raise raised

    store, keys, out = Versions(4), np.arange(4, dtype=np.uint64), np.empty((4, DIM), np.float32)
    store.in_call = fail
    rows = rows_over(store, budget_ms=60_000)
    assert rows.lookup("t", keys, out) == 4
    stats = rows.stats()
    assert (len(calls), stats["store"]["faults"], stats["store"]["again"]) == (1, 1, 0)
    assert type(raised).__name__ in stats["store"]["last_fault"]
    end = time.monotonic() + 60
    while rows.stats()["flights"]:  # who comes before the worker is done with it joins the fetch that failed
        assert time.monotonic() < end
        time.sleep(0.001)
    store.in_call = lambda keys: None
    assert rows.lookup("t", keys, out) == 0
    np.testing.assert_array_equal(out, row_of(keys))
    rows.close()


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
    assert rows.lookup("t", key, out) == 0
    np.testing.assert_array_equal(out, row_of(key, 0))  # served: the batch began before the update
    assert cache.core.peek(key)["outcome"][0] == 0  # and not kept
    assert rows.stats()["store"]["touched"] == 1
    store.versions[3] = 1
    assert rows.lookup("t", key, out) == 0
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
        first = pool.submit(rows.lookup, "t", key, before)
        entered.wait(60)
        store.versions[3] = 5
        rows.apply("t", key, row_of(key, 5), np.array([5], np.uint64))
        rows.cache("t").clear()
        rows.lookup("t", key, after)
        np.testing.assert_array_equal(after, row_of(key, 5))
        go.set()
        first.result(60)
    np.testing.assert_array_equal(before, row_of(key, 0))
    rows.lookup("t", key, after)
    np.testing.assert_array_equal(after, row_of(key, 5))
    assert store.asked[3] == 2
    assert rows.stats()["flights"] == 0


def test_a_row_that_came_between_a_miss_and_its_flight_is_not_asked_for_again() -> None:
    store = Versions(10)
    rows = rows_over(store)
    cache, flights = rows.cache("t"), rows._flights[DIM]
    keys = np.arange(4, dtype=np.uint64)
    missed = flights.ended  # four misses, and before they are asked for:
    rows.lookup("t", keys[:2], np.empty((2, DIM), np.float32))
    cache.core.mark_absent(keys[2:3])
    store.versions[0] = 1  # an update that has reached the store, and not yet the cache

    def run(mine: _kernels.Fetch | None, at: object, others: list[Any]) -> _kernels.Fetch:
        assert mine is not None
        assert not others
        flights.run(mine)
        return mine

    mine = flights.ask(keys, missed, run)
    assert mine.fetched.found.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(mine.fetched.rows[[0, 1, 3]], row_of(keys[[0, 1, 3]]))
    assert store.asked == Counter({0: 1, 1: 1, 3: 1})
    again = flights.ask(keys[:2], flights.ended, lambda mine, at, others: mine)
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

    def late(keys: np.ndarray, dim: int) -> Fetched:
        store.get_many = read  # type: ignore[method-assign]
        store.versions[3] = 1
        rows.apply("t", key, row_of(key, 1), np.array([1], np.uint64))
        store.versions[3] = 2
        return read(keys, dim)

    store.get_many = late  # type: ignore[method-assign]
    for _ in range(3):
        assert rows.lookup("t", key, out) == 0
        np.testing.assert_array_equal(out, row_of(key, 2))
    assert store.asked[3] == 1
    rows.close()


def test_an_update_waits_while_a_row_of_its_id_is_being_written() -> None:
    table, keys = _kernels.FlightTable(), np.array([1, 2, 3], np.uint64)
    assert table.begin(keys, 7).tolist() == [7, 7, 7]
    assert table.begin(keys[:2], 8).tolist() == [7, 7]
    table.touch(keys[:1])
    kept = table.land(keys, 7)
    assert kept is not None
    assert kept.tolist() == [False, True, True]
    order: list[str] = []

    def touch() -> None:
        table.touch(keys[:2])
        order.append("touched")

    thread = threading.Thread(target=touch)
    thread.start()
    time.sleep(0.05)
    order.append("written")
    table.end(keys, 7)
    thread.join(60)
    assert order == ["written", "touched"]
    assert len(table) == 0
    table.touch(keys)
    assert table.begin(keys, 9).tolist() == [9, 9, 9]
    assert table.land(keys, 9) is None


def test_the_table_of_flights_against_a_dict() -> None:
    table, model, rng = _kernels.FlightTable(), {}, np.random.default_rng(0)
    for flight in range(1, 3000):
        keys = np.unique(rng.integers(0, 500, rng.integers(1, 60)).astype(np.uint64) << np.uint64(40))
        if rng.random() < 0.5:
            owners = table.begin(keys, flight)
            assert owners.tolist() == [model.setdefault(key, flight) for key in keys.tolist()]
        elif model:
            ended = int(rng.choice(list(model.values())))
            table.end(keys, ended)
            for key in keys.tolist():
                if model.get(key) == ended:
                    del model[key]
        assert len(table) == len(model)
    keys = rng.integers(0, 1 << 60, 5000).astype(np.uint64) % np.uint64(1000)
    found, which = _kernels.distinct(keys)
    np.testing.assert_array_equal(found[which], keys)
    assert len(found) == len(set(keys.tolist()))
    assert found[0] == keys[0]


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
            assert rows.lookup("t", keys, out) == 0
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


def test_a_hung_store_holds_up_nobody_for_longer_than_the_budget() -> None:
    store, never = Versions(100), threading.Event()
    store.in_call = lambda keys: never.wait(120) and None
    rows = rows_over(store, budget_ms=20)

    def work(number: int) -> float:
        begin = time.monotonic()
        for step in range(5):
            keys = np.arange(number * 5 + step, number * 5 + step + 20, dtype=np.uint64)
            assert rows.lookup("t", keys, np.empty((20, DIM), np.float32)) == 20
        return time.monotonic() - begin

    assert max(all_at_once(work)) < 60
    stats = rows.stats()
    assert stats["store"]["overruns"] == 5 * THREADS
    assert max(store.asked.values()) == 1
    never.set()
    end = time.monotonic() + 60
    while rows.stats()["flights"]:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert rows.lookup("t", np.arange(50, dtype=np.uint64), np.empty((50, DIM), np.float32)) == 0
    rows.close()


def test_a_forked_child_begins_with_what_was_cached_and_without_the_parents_flights() -> None:
    store, entered, go = Versions(20), threading.Event(), threading.Event()
    rows = rows_over(store, budget_ms=5000, update_window=UpdateWindow(interval=30.0))
    cached, out = np.arange(5, dtype=np.uint64), np.empty((5, DIM), np.float32)
    rows.lookup("t", cached, out)

    def hold(keys: np.ndarray) -> None:
        entered.set()
        go.wait(120)

    store.in_call = hold
    waiter = threading.Thread(target=lambda: rows.lookup("t", np.array([9], np.uint64), np.empty((1, DIM), np.float32)))
    waiter.start()
    entered.wait(60)

    def work() -> None:
        store.in_call = lambda keys: None
        assert rows.stats()["flights"] == 0
        assert rows.lookup("t", cached, out) == 0
        np.testing.assert_array_equal(out, row_of(cached))
        asked, got = np.array([9, 10], np.uint64), np.empty((2, DIM), np.float32)
        assert rows.lookup("t", asked, got) == 0
        np.testing.assert_array_equal(got, row_of(asked))
        assert rows.apply("t", [9], row_of(asked[:1], 2), np.array([2], np.uint64)) == 1
        assert any(thread.name == "pepnet-updates" for thread in threading.enumerate())
        rows.close()

    try:
        well_in_a_child(work)
    finally:
        go.set()
        waiter.join(60)
    rows.close()


def test_workers_take_what_fits_and_end() -> None:
    workers, go, done = MissWorkers(threads=2, queued=3), threading.Event(), []
    taken = [workers.submit(lambda: done.append(go.wait(60))) for _ in range(2)]
    end = time.monotonic() + 60
    while workers.waiting and time.monotonic() < end:
        time.sleep(0.002)
    taken += [workers.submit(lambda: done.append(True)) for _ in range(4)]
    assert taken == [Submitted.TAKEN] * 5 + [Submitted.FULL]
    assert workers.running == 2
    assert not workers.close()
    assert workers.submit(lambda: None) is Submitted.REFUSED
    go.set()
    assert workers.close(timeout=60)
    assert done == [True] * 5
    assert workers.running == 0


def test_a_fetch_finds_its_keys_and_ends_with_its_call() -> None:
    fetches, table, keys = _kernels.Fetches(), _kernels.FlightTable(), np.array([9, 3, 7], np.uint64)

    def look(mine: _kernels.Fetch | None, at: object, others: list[Any]) -> _kernels.Fetch:
        assert mine is not None
        assert positions(mine, np.array([7, 9], np.uint64)).tolist() == [2, 0]
        assert positions(mine, mine.keys).tolist() == [0, 1, 2]
        assert not mine.wait(0.0)
        assert len(fetches) == 1
        mine.settle("rows", None)
        return mine

    mine = fetches.ask(table, keys, 0, look)
    assert mine.settled
    assert not mine.given_up
    assert mine.fetched == "rows"
    assert (len(fetches), len(table), fetches.ended) == (0, 0, 1)
