"""Rows that came later: the layered store, overlays and going back, each against a plain dict."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from children import well_in_a_child
from hypothesis import given, settings
from hypothesis import strategies as st
from row_questions import look_up, pool
from sync_deltas import delta_rows

from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
from pepnet_infer.rows.protocols import CachedTable
from pepnet_infer.rows.stores import arena
from pepnet_infer.rows.stores.arena import RowArena
from pepnet_infer.rows.stores.memory import MemoryStore
from pepnet_infer.rows.version_rows import Overlay, VersionRows, over
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.layered_store import LayeredStore, earliest
from pepnet_infer.versions.model_version import Versions

DIM, TABLE, NOW = 3, 5, 1000.0
DEFAULT = np.full(DIM, -1, np.float32)
IDS = 24

# id → (value, expires); value None: deleted
Changes = dict[int, tuple[float | None, float]]
changes = st.dictionaries(
    st.integers(0, IDS - 1),
    st.tuples(st.none() | st.integers(1, 999).map(float), st.sampled_from([np.inf, NOW - 1.0, NOW + 1.0])),
)


@contextmanager
def pinned(versions: Any) -> Iterator[Any]:
    """Yields what new calls get; it is in use until the block ends, by a thread of its own."""
    given, done = queue.SimpleQueue[Any](), threading.Event()

    def call(held: Any) -> None:
        given.put(held)
        assert done.wait(60)

    thread = threading.Thread(target=versions.use, args=(call,))
    thread.start()
    try:
        yield given.get(timeout=60)
    finally:
        done.set()
        thread.join()


def rows_of(changed: Changes, version: int = 1) -> RowBatch:
    ids = np.array(sorted(changed), np.uint64)
    values = [changed[int(i)] for i in ids]
    rows = np.array([[v or 0.0] * DIM for v, _ in values], np.float32).reshape(-1, DIM)
    return delta_rows(
        make_keys(TABLE, ids),
        rows,
        np.full(len(ids), version, np.uint64),
        np.full(len(ids), np.nan, np.float32),
        np.array([e if v is not None else np.inf for v, e in values], np.float64),
        np.array([v is None for v, _ in values], np.uint8),
    )


def apply(truth: Changes, changed: Changes) -> Changes:
    return {**truth, **changed}


def served(truth: Changes, i: int) -> np.ndarray:
    value, expires = truth.get(i, (None, np.inf))
    return DEFAULT if value is None or expires <= NOW else np.full(DIM, value, np.float32)


def bottom() -> tuple[MemoryStore, Changes]:
    store, truth = MemoryStore(clock=lambda: NOW), {i: (2000.0 + i, np.inf) for i in range(0, IDS, 2)}
    below = rows_of(truth)
    store.put_many(below.keys, below.rows, below.versions)
    return store, truth


def look(rows: Any, truth: Changes, random: np.random.Generator) -> None:
    """Ids and bags, in any order and more than once."""
    ids = random.integers(0, IDS, 40)
    keys = make_keys(TABLE, ids.astype(np.uint64))
    out = np.zeros((40, DIM + 1), np.float32)
    missing = look_up(rows, "t", keys, out[:, :DIM])
    expected = np.array([served(truth, int(i)) for i in ids])
    np.testing.assert_array_equal(out[:, :DIM], expected)
    assert (out[:, DIM] == 0).all()
    assert missing == int((expected == DEFAULT).all(axis=1).sum())
    offsets = np.array([2, 2, 9, 30, 38])
    pooled = np.empty((4, DIM), np.float32)
    assert pool(rows, "t", keys, offsets, "sum", pooled) == int((expected[2:38] == DEFAULT).all(axis=1).sum())
    sums = [expected[a:b].astype(np.float64).sum(axis=0) for a, b in pairwise(offsets)]
    np.testing.assert_array_equal(pooled, np.array(sums, np.float32))


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, min_size=1, max_size=5), st.integers(0, 3))
def test_a_layered_store_has_the_last_word_and_can_go_back(steps: list[Changes], seed: int) -> None:
    below, truth = bottom()
    store = LayeredStore(below, clock=lambda: NOW)
    every = make_keys(TABLE, np.arange(IDS, dtype=np.uint64))
    history, undos = [truth], []
    for number, changed in enumerate(steps):
        delta = rows_of(changed, number + 2)
        undos.append({"user": store.before_image(delta.keys, DIM)})
        store.put(delta)
        history.append(apply(history[-1], changed))
        _compare(store, every, history[-1])
    back = seed % len(steps)
    together = earliest(undos[: back - 1 if back else None : -1])["user"]
    np.testing.assert_array_equal(together.rows.keys, np.unique(together.rows.keys))
    shown = Overlay({"t": together.seen(below)})
    for i, key in enumerate(every):
        at = int(shown.find("t", every[i : i + 1])[0]) if "t" in shown.rows else -1
        if at >= 0:
            gone = not shown.rows["t"].found[at] or shown.rows["t"].expires[at] <= NOW
            np.testing.assert_array_equal(
                DEFAULT if gone else shown.rows["t"].rows[at], served(history[back], i), str(key)
            )
    store.restore(together)
    _compare(store, every, history[back])


def _compare(store: LayeredStore, keys: np.ndarray, truth: Changes) -> None:
    got = store.get_many(keys, DIM)
    for i in range(len(keys)):
        expected = served(truth, i)
        assert got.found[i] == (expected is not DEFAULT)
        np.testing.assert_array_equal(got.rows[i], expected if got.found[i] else np.zeros(DIM))


@settings(max_examples=40, deadline=None)
@given(st.lists(changes, min_size=1, max_size=4), st.integers(0, 1000))
def test_rows_of_a_version_are_those_of_its_overlays_over_the_cache(steps: list[Changes], seed: int) -> None:
    below, truth = bottom()
    cache = EmbeddingCache(DIM, 1 << 17)
    cache.core.set_time(NOW)
    table = CachedTable("t", TABLE, DIM, IDS, DEFAULT)
    cached = CachedRows(below, [table], {DIM: cache}, CacheConfig(policy="lru", warm=False))
    random = np.random.default_rng(seed)
    seen: Overlay | None = None
    old = VersionRows(cached, None, {})
    first = truth
    for changed in steps:
        newer = Overlay({"t": rows_of(changed)})
        seen = newer if seen is None else over(newer, seen)
        truth = apply(truth, changed)
        look(VersionRows(cached, seen, {}), truth, random)
        look(old, first, random)


def test_default_rows_are_a_version_s_own() -> None:
    below, truth = bottom()
    table = CachedTable("t", TABLE, DIM, IDS, DEFAULT)
    config = CacheConfig(policy="lru", warm=False)
    cached = CachedRows(below, [table], {DIM: EmbeddingCache(DIM, 1 << 17)}, config)
    other = np.array([7, 8, 9], np.float32)
    out = np.empty((2, DIM), np.float32)
    keys = make_keys(TABLE, np.array([0, 1], np.uint64))
    for defaults, expected in (({"t": other}, other), ({}, DEFAULT)):
        assert look_up(VersionRows(cached, Overlay({}), defaults), "t", keys, out) == 1
        np.testing.assert_array_equal(out, [served(truth, 0), expected])


def test_versions_are_held_until_the_last_call_of_theirs() -> None:
    marks = [object() for _ in range(4)]
    versions = Versions(marks[0])  # type: ignore[arg-type]
    with pinned(versions) as a:
        assert a is marks[0]
        assert versions.put(marks[1]) == 1  # type: ignore[arg-type]
        with pinned(versions) as b, pinned(versions) as c:
            assert b is c is marks[1]
            assert versions.put(marks[2]) == 2  # type: ignore[arg-type]
            assert versions.oldest() == 0
            assert not versions.wait_until(1, 0.01)
        assert versions.put(marks[3], same=True) == 2  # type: ignore[arg-type]
        assert versions.oldest() == 0
    assert versions.oldest() == 2
    assert versions.wait_until(2, 0.0)
    assert versions.now is marks[3]


def test_who_waits_is_woken_by_the_last_call() -> None:
    versions = Versions(object())  # type: ignore[arg-type]
    entered, leave = threading.Event(), threading.Event()

    def call() -> None:
        with pinned(versions):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=call)
    thread.start()
    entered.wait(60)
    number = versions.put(object())  # type: ignore[arg-type]
    threading.Timer(0.05, leave.set).start()
    assert versions.wait_until(number, 60)
    thread.join()

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        versions.use(fail)
    assert versions.oldest() == number


def test_a_child_process_does_not_wait_for_locks_of_its_parent() -> None:
    below, _ = bottom()
    store = LayeredStore(below, clock=lambda: NOW)
    store.put(rows_of({1: (5.0, np.inf)}))

    def work() -> None:
        store.put(rows_of({2: (6.0, np.inf)}))
        found = store.get_many(make_keys(TABLE, np.arange(3, dtype=np.uint64)), DIM)
        assert found.rows[1:, 0].tolist() == [5.0, 6.0]

    with store.lock:
        well_in_a_child(work)


def test_rows_of_another_width_are_not_found_as_zeros() -> None:
    store = LayeredStore(bottom()[0], clock=lambda: NOW)
    changed = rows_of({1: (5.0, np.inf), 2: (None, np.inf)})
    store.put(changed)
    with pytest.raises(ValueError, match=f"rows: expected 1 of width {2 * DIM}, got 0"):
        store.before_image(changed.keys, 2 * DIM)


def test_keys_that_there_was_no_memory_for_can_be_added_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slots, keys = RowArena(), np.arange(5000, dtype=np.uint64) * 3

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(arena, "KeyIndex", fail)
        with pytest.raises(MemoryError):
            slots.add(keys)
    assert (len(slots), slots.find(keys).max()) == (0, -1)
    added, known = slots.add(keys)
    assert not known.any()
    np.testing.assert_array_equal(slots.find(keys), added)
