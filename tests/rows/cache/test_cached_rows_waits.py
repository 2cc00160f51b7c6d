"""How long `CachedRows` waits for its store, and which thread asks it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from formula_store import DIM, A, Formula, expected, fail, keys_of, rows_of, rows_over, until
from row_questions import look_up

from pepnet_infer import StoreError
from pepnet_infer.rows.cache.counters import MissCounters
from pepnet_infer.rows.protocols import RowRequest


@pytest.fixture
def store() -> Formula:
    return Formula()


@pytest.fixture
def gate(store: Formula) -> Iterator[threading.Event]:
    """The store answers only when this is set."""
    opened = threading.Event()
    store.before = lambda keys: opened.wait(10) and None
    yield opened
    opened.set()


def test_a_batch_waits_no_longer_than_its_budget_and_the_answer_is_kept(store: Formula, gate: threading.Event) -> None:
    rows, out = rows_over(store, budget_ms=30), np.empty((2, DIM), np.float32)
    begin = time.monotonic()
    assert look_up(rows, "a", keys_of(A, 1, 2), out) == 2
    assert 0.02 < time.monotonic() - begin < 60
    assert (out == -1).all()
    assert look_up(rows, "a", keys_of(A, 2), out[:1]) == 1  # joins the flight, and asks for nothing
    stats = rows.stats()
    assert (stats["store"]["overruns"], stats["store"]["joined"], stats["defaults"]["late"]) == (2, 1, 3)
    assert stats["flights"] == 2
    gate.set()
    until(lambda: rows.stats()["flights"] == 0)
    assert look_up(rows, "a", keys_of(A, 1, 2), out) == 0
    np.testing.assert_array_equal(out, rows_of(keys_of(A, 1, 2)))
    assert len(store.asked) == 1
    rows.close()


def test_an_answer_within_the_budget_is_served(store: Formula) -> None:
    rows, out = rows_over(store, budget_ms=10_000), np.empty((2, DIM), np.float32)
    assert look_up(rows, "a", keys_of(A, 1, 5000), out) == 1
    np.testing.assert_array_equal(out, expected("a", keys_of(A, 1, 5000)))
    store.before = fail(StoreError("down"))
    assert look_up(rows, "a", keys_of(A, 3), out[:1]) == 1
    assert rows.stats()["defaults"] == {"absent": 1, "late": 0, "fault": 1, "deferred": 0, "dropped": 0, "damaged": 0}
    rows.close()


def test_a_process_that_can_have_no_more_threads_asks_itself(store: Formula, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    rows, out = rows_over(store, budget_ms=10_000), np.empty((2, DIM), np.float32)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert rows.answer([RowRequest("", "a", keys_of(A, 1, 5000), out)]) == [(1, 0)]
    np.testing.assert_array_equal(out, expected("a", keys_of(A, 1, 5000)))
    assert rows.stats()["store"]["dropped"] == 0
    rows.close()


def test_above_a_hit_rate_a_batch_does_not_wait(store: Formula, gate: threading.Event) -> None:
    rows, out = rows_over(store, async_above=0.75), np.empty((4, DIM), np.float32)
    gate.set()
    assert look_up(rows, "a", keys_of(A, 1, 2, 3, 4), out) == 0  # cold: waits
    gate.clear()
    deferred = RowRequest("", "a", keys_of(A, 1, 2, 3, 9), out)
    assert rows.answer([deferred]) == [(0, 1)]
    np.testing.assert_array_equal(out[:3], rows_of(keys_of(A, 1, 2, 3)))
    assert (out[3] == -1).all()
    assert look_up(rows, "a", keys_of(A, 1, 2, 3, 9), out) == 1  # under way: not asked again
    gate.set()
    until(lambda: rows.stats()["flights"] == 0)
    assert look_up(rows, "a", keys_of(A, 1, 2, 3, 9), out) == 0
    assert [len(asked) for asked in store.asked] == [4, 1]
    assert rows.stats()["defaults"]["deferred"] == 2
    assert rows.stats()["store"]["overruns"] == 0
    rows.close()


def test_a_full_queue_drops_and_says_so(store: Formula, gate: threading.Event) -> None:
    rows, out = rows_over(store, budget_ms=0), np.empty((1, DIM), np.float32)
    for id in range(100):
        assert look_up(rows, "a", keys_of(A, id), out) == 1
    stats = rows.stats()
    assert 0 < stats["store"]["dropped"] <= 100 - 64
    assert stats["defaults"]["dropped"] == stats["store"]["dropped"]
    assert stats["defaults"]["late"] == 100 - stats["store"]["dropped"] == stats["flights"]
    gate.set()
    until(lambda: rows.stats()["flights"] == 0)
    assert look_up(rows, "a", keys_of(A, 0), out) == 0
    rows.close()


def test_after_closing_calls_ask_for_themselves_and_no_thread_is_left(store: Formula) -> None:
    rows, out = rows_over(store, budget_ms=10_000, async_above=0.0), np.empty((1, DIM), np.float32)
    look_up(rows, "a", keys_of(A, 1), out)
    until(lambda: rows.stats()["flights"] == 0)
    assert any(thread.name == "pepnet-misses" for thread in threading.enumerate())
    rows.close()
    rows.close()
    until(lambda: not any(thread.name == "pepnet-misses" for thread in threading.enumerate()))
    assert look_up(rows, "a", keys_of(A, 2), out) == 0
    np.testing.assert_array_equal(out, rows_of(keys_of(A, 2)))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which warnings are said."""
    times = [1000.0]
    monkeypatch.setattr("pepnet_infer.throttled_warnings.monotonic", lambda: times[0])
    return times


def test_a_budget_that_is_too_short_is_said_at_once_then_seldom(
    store: Formula, gate: threading.Event, caplog: pytest.LogCaptureFixture, now: list[float]
) -> None:
    rows, out = rows_over(store, budget_ms=1.5), np.empty((1, DIM), np.float32)
    for _ in range(3):
        look_up(rows, "a", keys_of(A, 1), out)
    now[0] += 61
    look_up(rows, "a", keys_of(A, 1), out)
    warning = "no answer from the store within budget_ms=1.5{}: ids that a batch waited for got default rows"
    said = [warning.format(""), warning.format(" (3 since the last warning)")]
    assert [record.getMessage() for record in caplog.records] == said
    assert {(record.name, record.levelname) for record in caplog.records} == {("pepnet_infer.stores", "WARNING")}
    gate.set()
    until(lambda: rows.stats()["flights"] == 0)
    store.before = lambda keys: time.sleep(0.05)
    now[0] += 61
    look_up(rows, "a", keys_of(A, 2), out)
    assert "default rows; a call to it has taken " in caplog.messages[-1]
    rows.close()


def test_a_full_queue_is_said_and_a_budget_of_nothing_is_not(
    store: Formula, gate: threading.Event, caplog: pytest.LogCaptureFixture, now: list[float]
) -> None:
    rows, out = rows_over(store, budget_ms=0), np.empty((1, DIM), np.float32)
    for id in range(100):
        look_up(rows, "a", keys_of(A, id), out)
    (said,) = caplog.messages
    assert said.startswith("the queue of fetches from the store is full: the ids of a fetch that was not made got ")
    assert rows.stats()["store"]["overruns"] == 100 - rows.stats()["store"]["dropped"]
    gate.set()
    until(lambda: rows.stats()["flights"] == 0)
    rows.close()


def test_a_warning_that_is_not_due_is_not_put_into_words(now: list[float]) -> None:
    class Budget(float):
        worded = 0

        def __format__(self, form: str) -> str:
            Budget.worded += 1
            return super().__format__(form)

    counters = MissCounters()
    for _ in range(5):
        counters.overrun(Budget(1.5))
    assert Budget.worded == 1
    now[0] += 61
    counters.overrun(Budget(1.5))
    assert Budget.worded == 2
