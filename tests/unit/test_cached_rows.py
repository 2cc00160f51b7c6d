"""What `CachedRows` serves, asks, keeps and counts, against a store that is a formula."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pepnet_infer import CacheConfig, EmbeddingCache, StoreError, UpdateWindow, _kernels
from pepnet_infer.cache.cached_rows import CachedRows, CachedTable
from pepnet_infer.cache.window_ticks import WindowTicks
from pepnet_infer.ids import MISSING_KEY, make_keys
from pepnet_infer.row_requests import RowRequest
from pepnet_infer.store import Fetched

DIM = 6
KNOWN = 1000  # ids below it exist
A, B, WIDE = 3, 9, 5  # table numbers
DEFAULT = {"a": -1.0, "b": -2.0, "wide": -3.0}


def keys_of(number: int, *ids: int) -> np.ndarray:
    return make_keys(number, np.array(ids, np.uint64))


def rows_of(keys: np.ndarray, dim: int = DIM) -> np.ndarray:
    """Rows that no two keys share, with all 24 bits in use."""
    seed = (keys & np.uint64(0xFFFF)).astype(np.float64) + (keys >> np.uint64(48)).astype(np.float64) * 7919
    return np.sin(seed[:, None] * 1.7 + np.arange(dim)).astype(np.float32)


class Formula:
    """A store of ids below `KNOWN`; notes what it is asked, and does before it answers what `before` says."""

    def __init__(self) -> None:
        self.asked: list[np.ndarray] = []
        self.before: Callable[[np.ndarray], None] = lambda keys: None
        self.change: Callable[[Fetched], Any] = lambda fetched: fetched
        self.version = 0

    def get_many(self, keys: np.ndarray, dim: int) -> Any:
        self.asked.append(keys.copy())
        self.before(keys)
        found = (keys & np.uint64((1 << 48) - 1)) < KNOWN
        rows = np.where(found[:, None], rows_of(keys, dim), 0).astype(np.float32)
        versions = np.full(len(keys), self.version, np.uint64)
        scores, expires = np.full(len(keys), np.nan, np.float32), np.full(len(keys), np.inf)
        return self.change(Fetched(rows, found, versions, scores, expires))


def rows_over(store: object, capacity: int = 1 << 20, **options: Any) -> CachedRows:
    config = CacheConfig(**options)
    tables = [
        CachedTable(name, number, dim, KNOWN, np.full(dim, DEFAULT[name], np.float32))
        for name, number, dim in (("a", A, DIM), ("b", B, DIM), ("wide", WIDE, 11))
    ]
    extra = {"negative_ttl": config.negative_ttl, "admission": config.admission}
    caches = {dim: EmbeddingCache(dim, capacity, config.policy, **extra) for dim in (DIM, 11)}  # type: ignore[arg-type]
    return CachedRows(store, tables, caches, config)  # type: ignore[arg-type]


def expected(table: str, keys: np.ndarray, dim: int = DIM) -> np.ndarray:
    known = (keys & np.uint64((1 << 48) - 1)) < KNOWN
    return np.where(known[:, None], rows_of(keys, dim), np.float32(DEFAULT[table]))


@pytest.fixture
def store() -> Formula:
    return Formula()


def test_misses_are_asked_once_and_kept(store: Formula) -> None:
    rows = rows_over(store)
    keys = keys_of(A, 5, 7, 5, 5000, 7, 5000, 8)
    out = np.full((7, DIM + 2), 9.0, np.float32)
    for _ in range(3):
        assert rows.lookup("a", keys, out[:, 1:-1]) == 2
        np.testing.assert_array_equal(out[:, 1:-1], expected("a", keys))
        assert (out[:, [0, -1]] == 9).all()
        out[:, 1:-1] = 0
    assert [sorted(asked.tolist()) for asked in store.asked] == [sorted(np.unique(keys).tolist())]
    stats = rows.stats()
    assert stats["tables"]["a"] == {
        "keys": 21,
        "hits": 10,
        "misses": 7,
        "negative_hits": 4,
        "defaults": 6,
        "unavailable": 0,
    }
    assert stats["total"] == stats["tables"]["a"]
    assert stats["defaults"] == {"absent": 6, "late": 0, "fault": 0, "deferred": 0, "dropped": 0, "damaged": 0}
    assert (stats["store"]["calls"], stats["store"]["keys"], stats["flights"]) == (1, 4, 0)
    assert stats["widths"][str(DIM)]["inserted"] == 3
    assert stats["widths"][str(DIM)]["negatives"] == 1


def test_a_batch_asks_once_a_width_whatever_the_fields(store: Formula) -> None:
    rows = rows_over(store)
    out, wide, bags = np.empty((3, DIM), np.float32), np.empty((2, 11), np.float32), np.empty((2, DIM), np.float32)
    requests = [
        RowRequest("item", "a", keys_of(A, 1, 2, 1), out),
        RowRequest("shop", "wide", keys_of(WIDE, 1, 2), wide),
        RowRequest("history", "a", keys_of(A, 2, 3, 9999), bags, np.array([0, 2, 3]), "mean"),
        RowRequest("other", "b", keys_of(B, 1), out[:1].copy()),
    ]
    assert rows.answer(requests) == [(0, 0), (0, 0), (1, 0), (0, 0)]
    assert [len(asked) for asked in store.asked] == [5, 2]
    np.testing.assert_array_equal(out, rows_of(requests[0].keys))
    np.testing.assert_array_equal(wide, rows_of(requests[1].keys, 11))
    np.testing.assert_array_equal(requests[3].out, rows_of(keys_of(B, 1)))
    a = rows_of(keys_of(A, 2, 3))
    np.testing.assert_array_equal(bags, [(a[0] + a[1]) / np.float32(2), np.full(DIM, -1)])
    assert rows.answer(requests) == [(0, 0), (0, 0), (1, 0), (0, 0)]
    fields = rows.stats()["fields"]
    assert fields["item"] == {"keys": 6, "hits": 3, "misses": 3, "negative_hits": 0, "defaults": 0, "unavailable": 0}
    assert fields["history"] == {"keys": 6, "hits": 2, "misses": 3, "negative_hits": 1, "defaults": 2, "unavailable": 0}
    assert rows.stats()["tables"]["a"]["keys"] == 12
    assert rows.lookup("a", np.empty(0, np.uint64), np.empty((0, DIM), np.float32)) == 0


@pytest.mark.parametrize("pooling", ["mean", "sum"])
@pytest.mark.parametrize("warm", [0, 300, KNOWN])
def test_bags_have_the_bits_of_one_by_one(store: Formula, pooling: Any, warm: int) -> None:
    rows = rows_over(store, capacity=200 << 10)
    rows.prefetch("a", np.arange(warm))
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 30, 200)
    offsets = np.concatenate([[2], 2 + lengths.cumsum()]).astype(np.int64)  # two keys before, three after all bags
    keys = make_keys(A, rng.integers(0, KNOWN + 50, int(offsets[-1]) + 3).astype(np.uint64))
    out = np.empty((200, DIM), np.float32)
    unknown = rows.pool("a", keys, offsets, pooling, out)
    assert unknown == int((expected("a", keys[2:-3]) == -1).all(axis=1).sum())
    single = expected("a", keys)
    for bag in range(200):
        total = np.zeros(DIM, np.float32)
        for at in range(offsets[bag], offsets[bag + 1]):
            total += single[at]
        if pooling == "mean" and lengths[bag] > 1:
            total /= np.float32(lengths[bag])
        np.testing.assert_array_equal(out[bag], total)


def test_the_key_of_no_id_is_never_asked_for(store: Formula) -> None:
    rows, out = rows_over(store), np.empty((3, DIM), np.float32)
    keys = np.array([MISSING_KEY, keys_of(A, 4)[0], MISSING_KEY], np.uint64)
    for _ in range(2):
        assert rows.lookup("a", keys, out) == 2
        np.testing.assert_array_equal(out, [[-1] * DIM, rows_of(keys[1:2])[0], [-1] * DIM])
    assert rows.lookup("b", keys[:1], out[:1]) == 1
    assert (out[0] == -2).all()  # each table's own default row
    assert [asked.tolist() for asked in store.asked] == [[int(keys[1])]]


def test_a_negative_entry_ends_with_its_time_or_an_update(store: Formula) -> None:
    rows, out = rows_over(store, negative_ttl=60.0), np.empty((1, DIM), np.float32)
    rows.cache("a").core.set_time(1000.0)
    key = keys_of(A, KNOWN + 1)
    assert [rows.lookup("a", key, out) for _ in range(3)] == [1, 1, 1]
    assert len(store.asked) == 1
    rows.cache("a").core.set_time(1062.0)
    assert rows.lookup("a", key, out) == 1
    assert len(store.asked) == 2
    assert rows.apply("a", [KNOWN + 1], np.ones((1, DIM), np.float32), np.array([1], np.uint64)) == 1
    assert rows.lookup("a", key, out) == 0
    assert (out == 1).all()
    assert rows.delete("a", key, np.array([2], np.uint64)) == 1
    assert rows.lookup("a", key, out) == 1
    assert (out == -1).all()
    assert len(store.asked) == 2


@pytest.mark.parametrize("admission", [0.0, 1.0])
def test_rows_that_are_not_kept_are_served_all_the_same(store: Formula, admission: float) -> None:
    rows = rows_over(store, capacity=80 << 10, admission=admission)
    out, rng = np.empty((500, 11), np.float32), np.random.default_rng(1)
    for _ in range(20):
        keys = make_keys(WIDE, rng.integers(0, KNOWN + 10, 500).astype(np.uint64))
        assert rows.lookup("wide", keys, out) == int((keys >= keys_of(WIDE, KNOWN)).sum())
        np.testing.assert_array_equal(out, expected("wide", keys, 11))
    width = rows.stats()["widths"]["11"]
    assert width["rows"] <= width["capacity_rows"] < 900
    assert (width["rows"] == 0) == (admission == 0.0)
    assert width["rejected_admission" if admission == 0.0 else "evicted_policy"] > 0


def fail(error: Exception) -> Callable[[np.ndarray], None]:
    def before(keys: np.ndarray) -> None:
        raise error

    return before


def faulty(before: Exception | None = None, change: Callable[[Fetched], Any] | None = None) -> Formula:
    store = Formula()
    if before is not None:
        store.before = fail(before)
    if change is not None:
        store.change = change
    return store


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: faulty(StoreError("redis: down")), "redis: down"),
        (lambda: faulty(TimeoutError("too slow")), "expected an answer, got TimeoutError: too slow"),
        (lambda: faulty(KeyError("x")), "expected an answer, got KeyError"),
        (lambda: faulty(change=lambda f: None), "expected Fetched, got NoneType"),
        (lambda: faulty(change=lambda f: f._replace(rows=f.rows[:, :-1])), r"rows: expected float32 \[2, 6\], got "),
        (
            lambda: faulty(change=lambda f: f.part(0, len(f.rows) - 1)),
            r"rows: expected float32 \[2, 6\], got ",
        ),
        (lambda: faulty(change=lambda f: f._replace(rows=f.rows.astype(np.float64))), "rows: expected float32 "),
        (lambda: faulty(change=lambda f: f._replace(found=f.found.astype(np.uint8))), "found: expected bool "),
    ],
)
def test_a_fault_costs_default_rows_and_a_count_unless_it_is_asked_for(
    make: Callable[[], Formula], message: str
) -> None:
    store = make()
    rows, out = rows_over(store), np.empty((3, DIM), np.float32)
    known = keys_of(A, 1)
    rows.cache("a").insert(known, rows_of(known))
    keys = keys_of(A, 1, 2, 3)
    for _ in range(2):  # nothing of it is kept: it is asked again
        assert rows.lookup("a", keys, out) == 2
        np.testing.assert_array_equal(out, [rows_of(known)[0], [-1] * DIM, [-1] * DIM])
    stats = rows.stats()
    assert stats["store"]["faults"] == 2
    assert len(store.asked) in (2, 6)  # for the keys one by one too, where something is wrong with the answer
    assert stats["defaults"]["fault"] == stats["tables"]["a"]["defaults"] == stats["total"]["unavailable"] == 4
    assert stats["widths"][str(DIM)]["negatives"] == stats["flights"] == 0
    with pytest.raises(StoreError, match=message):
        rows_over(store, on_fault="raise").lookup("a", keys[1:], out[1:])
    store.before, store.change = (lambda keys: None), (lambda fetched: fetched)
    assert rows.lookup("a", keys, out) == 0
    np.testing.assert_array_equal(out, rows_of(keys))


def test_unavailable_keys_are_told_from_unknown_ones(store: Formula) -> None:
    """In one batch: known not to exist, of a field whose fetch failed, and of a bag; every repeat counts."""
    rows, out, bags = rows_over(store), np.empty((4, DIM), np.float32), np.empty((2, DIM), np.float32)
    assert rows.lookup("a", keys_of(A, 5000), out[:1]) == 1
    store.before = fail(StoreError("down"))
    requests = [
        RowRequest("item", "a", np.concatenate([keys_of(A, 5000, 1, 1), [MISSING_KEY]]), out),
        RowRequest("history", "a", keys_of(A, 5000, 5000, 2), bags, np.array([0, 1, 3]), "mean"),
    ]
    assert rows.answer(requests) == [(2, 2), (2, 1)]
    assert rows.stats()["fields"]["item"]["unavailable"] == 2
    store.before = lambda keys: None
    assert rows.answer(requests) == [(2, 0), (2, 0)]


@pytest.mark.parametrize("policy", ["lru", "gset", "lfu"])
def test_what_is_asked_for_by_name_is_admitted_for_certain(store: Formula, policy: Any) -> None:
    rows = rows_over(store, policy=policy, admission=0.0)
    assert rows.prefetch("a", np.arange(50)) == 50
    keys = keys_of(A, *range(50, 80))
    assert rows.warm({"a": (keys, np.ones(len(keys), np.float32))}) == 30
    assert rows.stats()["rows"] == 80
    out = np.empty((1, DIM), np.float32)
    rows.lookup("a", keys_of(A, 99), out)
    assert rows.stats()["rows"] == 80
    np.testing.assert_array_equal(out, rows_of(keys_of(A, 99)))


def test_prefetch_brings_what_is_lacking(store: Formula) -> None:
    rows = rows_over(store)
    assert rows.prefetch("a", [1, 2, 3, 5000]) == 3
    assert rows.prefetch("a", keys_of(A, 3, 4, 4)) == 3
    assert [asked.tolist() for asked in store.asked] == [keys_of(A, 1, 2, 3, 5000).tolist(), keys_of(A, 4).tolist()]
    assert rows.stats()["total"]["keys"] == 0
    assert rows.prefetch("b", np.empty(0, np.int32)) == 0
    out = np.empty((4, DIM), np.float32)
    assert rows.lookup("a", keys_of(A, 1, 2, 3, 4), out) == 0
    assert len(store.asked) == 2
    assert rows.feedback("a", [1, 9], np.array([True, True])) == 1
    store.before = fail(StoreError("down"))
    with pytest.raises(StoreError, match="down"):
        rows.prefetch("a", [77])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.5], r"a: expected a vector of integer ids, got float64 \[1\]"),
        (["x"], "a: expected a vector of integer ids, got <U1"),
        ([[1]], r"a: expected a vector of integer ids, got int64 \[1, 1\]"),
        ([3, -1], r"a: expected ids below 2\^48 or keys of table number 3, got -1"),
        ([int(keys_of(B, 1)[0])], r"a: expected ids below 2\^48 or keys of table number 3, got 2533274790395905"),
        ([1 << 63], r"a: expected ids below 2\^48"),
    ],
)
def test_ids_of_another_kind_are_refused(store: Formula, ids: list[object], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        rows_over(store).prefetch("a", ids)


def test_a_table_that_is_not_there_is_an_error(store: Formula) -> None:
    rows = rows_over(store)
    for call in (
        lambda: rows.lookup("c", keys_of(A, 1), np.empty((1, DIM), np.float32)),
        lambda: rows.prefetch("c", [1]),
        lambda: rows.feedback("c", [1], np.array([True])),
    ):
        with pytest.raises(StoreError, match="table: expected one of a, b, wide, got 'c'"):
            call()
    with pytest.raises(ValueError, match=r"out: expected \[1, 6\], got float32 \[1, 5\]"):
        rows.lookup("a", keys_of(A, 1), np.empty((1, 5), np.float32))
    assert store.asked == []


@pytest.fixture
def gate(store: Formula) -> Iterator[threading.Event]:
    """The store answers only when this is set."""
    opened = threading.Event()
    store.before = lambda keys: opened.wait(10) and None
    yield opened
    opened.set()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "did not come about within 60 s"
        time.sleep(0.002)


def test_a_batch_waits_no_longer_than_its_budget_and_the_answer_is_kept(store: Formula, gate: threading.Event) -> None:
    rows, out = rows_over(store, budget_ms=30), np.empty((2, DIM), np.float32)
    begin = time.monotonic()
    assert rows.lookup("a", keys_of(A, 1, 2), out) == 2
    assert 0.02 < time.monotonic() - begin < 60
    assert (out == -1).all()
    assert rows.lookup("a", keys_of(A, 2), out[:1]) == 1  # joins the flight, and asks for nothing
    stats = rows.stats()
    assert (stats["store"]["overruns"], stats["store"]["joined"], stats["defaults"]["late"]) == (2, 1, 3)
    assert stats["flights"] == 2
    gate.set()
    until(lambda: rows.stats()["flights"] == 0)
    assert rows.lookup("a", keys_of(A, 1, 2), out) == 0
    np.testing.assert_array_equal(out, rows_of(keys_of(A, 1, 2)))
    assert len(store.asked) == 1
    rows.close()


def test_an_answer_within_the_budget_is_served(store: Formula) -> None:
    rows, out = rows_over(store, budget_ms=10_000), np.empty((2, DIM), np.float32)
    assert rows.lookup("a", keys_of(A, 1, 5000), out) == 1
    np.testing.assert_array_equal(out, expected("a", keys_of(A, 1, 5000)))
    store.before = fail(StoreError("down"))
    assert rows.lookup("a", keys_of(A, 3), out[:1]) == 1
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


def test_faults_are_said_at_once_then_seldom_and_their_end_once(
    store: Formula, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("pepnet_infer.seldom.monotonic", lambda: now[0])
    rows, out = rows_over(store), np.empty((1, DIM), np.float32)
    store.before = fail(StoreError("redis: no such host"))
    for _ in range(5):
        rows.lookup("a", keys_of(A, 1), out)
    now[0] += 61
    rows.lookup("a", keys_of(A, 1), out)
    store.before = lambda keys: None
    for id in (1, 2, 3):
        rows.lookup("a", keys_of(A, id), out)
    said = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    warning = "no answer from the store, {} since the last warning: StoreError: redis: no such host"
    assert said == [
        ("pepnet_infer.store", "WARNING", text)
        for text in (
            warning.format(1),
            warning.format(5),
            "the store answers again, after 6 questions without an answer",
        )
    ]


def test_a_damaged_row_costs_its_own_id_and_is_asked_for_again(store: Formula) -> None:
    rows, out = rows_over(store, on_fault="raise"), np.empty((4, DIM), np.float32)
    bad = keys_of(A, 2)

    def damage(fetched: Fetched) -> Fetched:
        wrong = store.asked[-1] == bad
        return fetched._replace(found=fetched.found & ~wrong, damaged=wrong)

    store.change = damage
    for _ in range(2):
        assert rows.answer([RowRequest("", "a", keys_of(A, 1, 2, 3, 5000), out)]) == [(1, 1)]
        np.testing.assert_array_equal(out[[0, 2]], rows_of(keys_of(A, 1, 3)))
        np.testing.assert_array_equal(out[[1, 3]], np.full((2, DIM), -1))
    assert store.asked[-1].tolist() == bad.tolist()
    stats = rows.stats()
    assert (stats["defaults"]["damaged"], stats["store"]["damaged"], stats["store"]["faults"]) == (2, 2, 0)
    assert "id 2 of table 3" in stats["store"]["last_fault"]
    store.change = lambda fetched: fetched
    assert rows.answer([RowRequest("", "a", bad, out[:1])]) == [(0, 0)]


def test_above_a_hit_rate_a_batch_does_not_wait(store: Formula, gate: threading.Event) -> None:
    rows, out = rows_over(store, async_above=0.75), np.empty((4, DIM), np.float32)
    gate.set()
    assert rows.lookup("a", keys_of(A, 1, 2, 3, 4), out) == 0  # cold: waits
    gate.clear()
    deferred = RowRequest("", "a", keys_of(A, 1, 2, 3, 9), out)
    assert rows.answer([deferred]) == [(0, 1)]
    np.testing.assert_array_equal(out[:3], rows_of(keys_of(A, 1, 2, 3)))
    assert (out[3] == -1).all()
    assert rows.lookup("a", keys_of(A, 1, 2, 3, 9), out) == 1  # under way: not asked again
    gate.set()
    until(lambda: rows.stats()["flights"] == 0)
    assert rows.lookup("a", keys_of(A, 1, 2, 3, 9), out) == 0
    assert [len(asked) for asked in store.asked] == [4, 1]
    assert rows.stats()["defaults"]["deferred"] == 2
    assert rows.stats()["store"]["overruns"] == 0
    rows.close()


def test_a_full_queue_drops_and_says_so(store: Formula, gate: threading.Event) -> None:
    rows, out = rows_over(store, budget_ms=0), np.empty((1, DIM), np.float32)
    for id in range(100):
        assert rows.lookup("a", keys_of(A, id), out) == 1
    stats = rows.stats()
    assert 0 < stats["store"]["dropped"] <= 100 - 64
    assert stats["defaults"]["dropped"] == stats["store"]["dropped"]
    assert stats["defaults"]["late"] == 100 - stats["store"]["dropped"] == stats["flights"]
    gate.set()
    until(lambda: rows.stats()["flights"] == 0)
    assert rows.lookup("a", keys_of(A, 0), out) == 0
    rows.close()


def test_after_closing_calls_ask_for_themselves_and_no_thread_is_left(store: Formula) -> None:
    rows, out = rows_over(store, budget_ms=10_000, async_above=0.0), np.empty((1, DIM), np.float32)
    rows.lookup("a", keys_of(A, 1), out)
    until(lambda: rows.stats()["flights"] == 0)
    assert any(thread.name == "pepnet-misses" for thread in threading.enumerate())
    rows.close()
    rows.close()
    until(lambda: not any(thread.name == "pepnet-misses" for thread in threading.enumerate()))
    assert rows.lookup("a", keys_of(A, 2), out) == 0
    np.testing.assert_array_equal(out, rows_of(keys_of(A, 2)))


def test_held_updates_are_applied_when_their_interval_is_over() -> None:
    out = np.empty((1, DIM), np.float32)
    cache = EmbeddingCache(DIM, 1 << 20, update_window=UpdateWindow(interval=0.05))
    ticks = WindowTicks([cache], 0.05)
    key = keys_of(A, 1)
    for version in range(1, 40):
        cache.apply(key, np.full((1, DIM), version, np.float32), np.array([version], np.uint64))

    def last() -> bool:
        cache.lookup(key, out)
        return bool((out == 39).all())

    until(last)
    ticks.close()
    until(lambda: not any(thread.name == "pepnet-updates" for thread in threading.enumerate()))


def test_what_serves_rows_is_strict_with_arrays() -> None:
    rows, out, default = np.ones((2, 3), np.float32), np.zeros((4, 3), np.float32), np.full(3, 7, np.float32)
    at = np.array([0, 3, 9], np.int64)
    assert _kernels.serve(rows, np.array([1, -1, 0], np.int64), at, default, out) == 1
    np.testing.assert_array_equal(out[:, 0], [1, 0, 0, 7])  # row 9 is not there, and not written
    with pytest.raises(ValueError, match=r"sources: expected 3, one a position, got int64 \[2\]"):
        _kernels.serve(rows, at[:2], at, default, out)
    with pytest.raises(TypeError, match="positions: expected int64, got uint64"):
        _kernels.serve(rows, at, at.astype(np.uint64), default, out)
    with pytest.raises(TypeError, match="rows: expected float32, got float16"):
        _kernels.serve(rows.astype(np.float16), at, at, default, out)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"default_row: expected \[3\], got float32 \[2\]"):
        _kernels.serve(rows, at, at, default[:2], out)
    with pytest.raises(ValueError, match=r"out: expected \[4, 3\], got float32 \[4, 2\]"):
        _kernels.serve(rows, at, at, default, out[:, :2])
    table = _kernels.FlightTable()
    with pytest.raises(ValueError, match="flight: expected 1 or more, got 0"):
        table.begin(at.astype(np.uint64), 0)
    for call in (
        lambda: table.begin(at, 1),
        lambda: table.land(at, 1),
        lambda: table.end(at, 1),
        lambda: table.touch(at),
    ):
        with pytest.raises(TypeError, match=r"keys: expected uint64, got int64 \[3\]"):
            call()
    with pytest.raises(TypeError, match="keys: expected uint64"):
        _kernels.distinct(at)  # type: ignore[arg-type]
    assert len(_kernels.distinct(np.empty(0, np.uint64))[0]) == 0
