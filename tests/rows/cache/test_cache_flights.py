"""Many threads that miss the same ids: one question each, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from children import well_in_a_child
from formula_store import until
from interrupting import within
from row_questions import look_up
from versioned_store import DIM, THREADS, Versions, all_at_once, row_of, rows_over

from pepnet_infer import StoreError, _kernels
from pepnet_infer.rows.cache.misses import positions
from pepnet_infer.rows.cache.workers import MissWorkers, Submitted

pytestmark = pytest.mark.concurrency


@pytest.mark.parametrize("options", [{}, {"budget_ms": 20_000}])
def test_an_id_is_asked_for_once_by_all_threads(options: dict[str, Any]) -> None:
    store = Versions(400, seconds=0.05)
    rows = rows_over(store, **options)

    def work(number: int) -> None:
        keys = np.roll(np.arange(400, dtype=np.uint64), 37 * number)[:300]
        out = np.empty((300, DIM), np.float32)
        assert look_up(rows, "t", keys, out) == 0
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
        return look_up(patient, "t", keys, np.empty((10, DIM), np.float32))

    def raises(number: int) -> str:
        with pytest.raises(StoreError) as caught:
            look_up(strict, "t", keys, np.empty((10, DIM), np.float32))
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
        first = pool.submit(look_up, rows, "t", keys, np.empty((4, DIM), np.float32))
        entered.wait(60)
        second = pool.submit(look_up, rows, "t", keys, out)
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
        assert within(lambda: look_up(rows, "t", keys[5:], np.empty((1, DIM), np.float32))) == 0
        assert look_up(rows, "t", keys[1:], inner[1:]) == 0

    store.in_call = again
    assert within(lambda: look_up(rows, "t", keys[:4], outer)) == 0
    np.testing.assert_array_equal(outer, row_of(keys[:4]))
    np.testing.assert_array_equal(inner[1:], row_of(keys[1:]))
    until(lambda: rows.stats()["flights"] == 0)
    assert look_up(rows, "t", keys, inner) == 0
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
    assert look_up(rows, "t", keys, out) == 4
    stats = rows.stats()
    assert (len(calls), stats["store"]["faults"], stats["store"]["again"]) == (1, 1, 0)
    assert type(raised).__name__ in stats["store"]["last_fault"]
    end = time.monotonic() + 60
    while rows.stats()["flights"]:  # who comes before the worker is done with it joins the fetch that failed
        assert time.monotonic() < end
        time.sleep(0.001)
    store.in_call = lambda keys: None
    assert look_up(rows, "t", keys, out) == 0
    np.testing.assert_array_equal(out, row_of(keys))
    rows.close()


def test_keys_are_made_distinct_in_the_order_they_came() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 1 << 60, 5000).astype(np.uint64) % np.uint64(1000)
    found, which = _kernels.distinct(keys)
    np.testing.assert_array_equal(found[which], keys)
    assert len(found) == len(set(keys.tolist()))
    assert found[0] == keys[0]


def test_a_hung_store_holds_up_nobody_for_longer_than_the_budget() -> None:
    store, never = Versions(100), threading.Event()
    store.in_call = lambda keys: never.wait(120) and None
    rows = rows_over(store, budget_ms=20)

    def work(number: int) -> float:
        begin = time.monotonic()
        for step in range(5):
            keys = np.arange(number * 5 + step, number * 5 + step + 20, dtype=np.uint64)
            assert look_up(rows, "t", keys, np.empty((20, DIM), np.float32)) == 20
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
    assert look_up(rows, "t", np.arange(50, dtype=np.uint64), np.empty((50, DIM), np.float32)) == 0
    rows.close()


def test_a_forked_child_begins_with_what_was_cached_and_without_the_parents_flights() -> None:
    store, entered, go = Versions(20), threading.Event(), threading.Event()
    rows = rows_over(store, budget_ms=5000)
    cached, out = np.arange(5, dtype=np.uint64), np.empty((5, DIM), np.float32)
    look_up(rows, "t", cached, out)

    def hold(keys: np.ndarray) -> None:
        entered.set()
        go.wait(120)

    store.in_call = hold
    waiter = threading.Thread(
        target=lambda: look_up(rows, "t", np.array([9], np.uint64), np.empty((1, DIM), np.float32))
    )
    waiter.start()
    entered.wait(60)

    def work() -> None:
        store.in_call = lambda keys: None
        assert rows.stats()["flights"] == 0
        assert look_up(rows, "t", cached, out) == 0
        np.testing.assert_array_equal(out, row_of(cached))
        asked, got = np.array([9, 10], np.uint64), np.empty((2, DIM), np.float32)
        assert look_up(rows, "t", asked, got) == 0
        np.testing.assert_array_equal(got, row_of(asked))
        assert rows.apply("t", [9], row_of(asked[:1], 2), np.array([2], np.uint64)) == 1
        rows.close()

    try:
        well_in_a_child(work)
    finally:
        go.set()
        waiter.join(60)
    rows.close()


def test_workers_take_what_fits_and_end() -> None:
    workers, begun, go, done = MissWorkers(threads=2, queued=3), threading.Semaphore(0), threading.Event(), []

    def work() -> None:
        begun.release()
        done.append(go.wait(60))

    others = set(threading.enumerate())
    taken = [workers.submit(work) for _ in range(2)]
    assert all(begun.acquire(timeout=60) for _ in range(2))
    taken += [workers.submit(lambda: done.append(True)) for _ in range(4)]
    assert taken == [Submitted.TAKEN] * 5 + [Submitted.FULL]
    threads = set(threading.enumerate()) - others
    assert len(threads) == 2
    workers.close()
    assert workers.submit(lambda: None) is Submitted.REFUSED
    go.set()
    for thread in threads:
        thread.join(60)
    assert done == [True] * 5
    assert not any(thread.is_alive() for thread in threads)


def test_many_who_submit_at_once_start_as_many_threads_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    workers, others, go = MissWorkers(threads=4, queued=1000), set(threading.enumerate()), threading.Event()
    together, start = threading.Barrier(41), threading.Thread.start
    begun: list[threading.Thread] = []
    done: list[bool] = []

    def slow(thread: threading.Thread) -> None:  # all who submit come here before one thread is alive
        begun.append(thread)
        time.sleep(0.02)
        start(thread)

    def submit() -> None:
        together.wait(60)
        workers.submit(lambda: done.append(go.wait(60)))

    submitters = [threading.Thread(target=submit) for _ in range(40)]
    for thread in submitters:
        thread.start()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", slow)
        together.wait(60)
        for thread in submitters:
            thread.join(60)
    assert len(begun) == len(set(threading.enumerate()) - others) == 4
    go.set()
    workers.close()
    for thread in begun:
        thread.join(60)
    assert not any(thread.is_alive() for thread in begun)
    assert done == [True] * 40


def test_workers_start_as_there_is_work_for_them() -> None:
    workers, others, done = MissWorkers(), set(threading.enumerate()), threading.Semaphore(0)
    for number in range(1, 6):
        assert workers.submit(done.release) is Submitted.TAKEN
        assert done.acquire(timeout=60)
        (thread,) = set(threading.enumerate()) - others
        until(lambda thread=thread, number=number: thread.done == number)
    workers.close()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_a_thread_that_does_not_start_counts_for_nothing(error: type, monkeypatch: pytest.MonkeyPatch) -> None:
    workers, done = MissWorkers(threads=1), threading.Event()

    def fail(thread: threading.Thread) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with contextlib.nullcontext() if error is RuntimeError else pytest.raises(error):
            assert workers.submit(done.set) is Submitted.REFUSED
    assert not done.is_set()
    assert workers.submit(done.set) is Submitted.TAKEN
    assert done.wait(60)
    workers.close()


def test_workers_end_with_who_has_them() -> None:
    workers, others = MissWorkers(), set(threading.enumerate())
    assert workers.submit(lambda: None) is Submitted.TAKEN
    (thread,) = set(threading.enumerate()) - others
    del workers
    thread.join(60)
    assert not thread.is_alive()


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
