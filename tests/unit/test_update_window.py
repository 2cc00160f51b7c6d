"""The update window: what is applied at once, what is held, what is dropped, and that every update is accounted for."""

from __future__ import annotations

import gc
import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from children import well_in_a_child

from pepnet_infer import _kernels
from pepnet_infer.errors import ConfigError
from pepnet_infer.rows.cache.update_window import UpdateWindow, WindowedUpdates

DIM = 4
START = 1_700_000_000.0


def make(window: UpdateWindow, full: bool = False, **more: Any) -> tuple[Any, WindowedUpdates]:
    cache = _kernels.RowCache(DIM, 1 << 18, "gset", "float32", full, **more)
    cache.set_time(START)
    return cache, WindowedUpdates(cache, window)


def ids(*values: int) -> npt.NDArray[np.uint64]:
    return np.array(values, np.uint64)


def apply(updates: WindowedUpdates, key: int, version: int, score: float = math.nan, expires: float = math.inf) -> int:
    """Applies one update whose row says the version."""
    row = np.full((1, DIM), version, np.float32)
    return updates.apply(ids(key), row, ids(version), np.array([score], np.float32), np.array([expires]))


def version(cache: Any, key: int) -> int | None:
    """The version of the row that is there; None for a deletion or nothing. Row and version must agree."""
    seen = cache.peek(ids(key))
    if seen["outcome"][0] != 1:
        return None
    row = np.zeros((1, DIM), np.float32)
    cache.lookup(ids(key), row, counted=False)
    assert (row == seen["version"][0]).all()
    return int(seen["version"][0])


def accounted(stats: dict[str, int]) -> int:
    """Every update ends in exactly one of these."""
    return sum(stats[name] for name in ("applied", "stale", "rejected", "coalesced", "dropped", "pending"))


@pytest.mark.parametrize("limit", [1, 3])
def test_the_first_are_applied_at_once_and_the_newest_of_the_rest_when_the_interval_ends(limit: int) -> None:
    cache, updates = make(UpdateWindow(10.0, limit))
    for at in range(1, limit + 1):
        assert apply(updates, 7, at) == 1
        assert version(cache, 7) == at
    for at in (50, 90, 60, 90, 70):
        assert apply(updates, 7, at) == 0
    assert apply(updates, 8, 1) == 1  # another id has a count of its own
    assert version(cache, 7) == limit
    assert updates.stats()["pending"] == 1
    cache.set_time(START + 9.9)
    assert updates.flush(cache.time) == 0
    cache.set_time(START + 10)
    assert updates.flush(cache.time) == 1
    assert version(cache, 7) == 90
    stats = updates.stats()
    assert (stats["applied"], stats["held"], stats["coalesced"], stats["pending"]) == (limit + 2, 1, 4, 0)
    assert accounted(stats) == limit + 6


def test_a_held_update_is_applied_by_the_next_call_and_counts_in_its_interval() -> None:
    cache, updates = make(UpdateWindow(10.0, 2))
    for at in (1, 2, 3):
        apply(updates, 7, at)
    cache.set_time(START + 25)
    assert apply(updates, 7, 4) == 1  # the second of this interval: 3 was the first
    assert version(cache, 7) == 4
    assert apply(updates, 7, 5) == 0
    assert updates.stats()["applied"] == 4
    cache.set_time(START + 35)
    assert apply(updates, 1, 1) == 1
    assert version(cache, 7) == 5


def test_flush_applies_everything_at_once() -> None:
    cache, updates = make(UpdateWindow(1000.0))
    keys = np.arange(2000, dtype=np.uint64)
    for at in (1, 2, 3):
        rows = np.full((2000, DIM), at, np.float32)
        assert updates.apply(keys, rows, np.full(2000, at, np.uint64)) == (2000 if at == 1 else 0)
    assert updates.flush() == 2000
    assert all(version(cache, int(key)) == 3 for key in keys[::97])
    assert updates.flush() == 0
    assert apply(updates, 5, 4) == 0  # it is still the same interval
    assert accounted(updates.stats()) == 6001


def test_deletions_take_part_with_their_version() -> None:
    cache, updates = make(UpdateWindow(10.0))
    apply(updates, 7, 5)
    apply(updates, 7, 6)
    assert updates.delete(ids(7), ids(8)) == 0
    apply(updates, 7, 7)
    assert version(cache, 7) == 5
    assert updates.flush() == 1
    assert version(cache, 7) is None
    seen = cache.peek(ids(7))
    assert (seen["tombstone"][0], seen["version"][0]) == (True, 8)
    assert updates.delete(ids(9), ids(4)) == 1
    assert apply(updates, 9, 4) == 0
    updates.flush()
    assert version(cache, 9) is None


@pytest.mark.parametrize("deleted_first", [False, True])
def test_a_deletion_wins_over_a_row_of_its_version(deleted_first: bool) -> None:
    cache, updates = make(UpdateWindow(10.0))
    apply(updates, 7, 1)
    if deleted_first:
        updates.delete(ids(7), ids(3))
        apply(updates, 7, 3)
    else:
        apply(updates, 7, 3)
        updates.delete(ids(7), ids(3))
    updates.flush()
    assert cache.peek(ids(7))["tombstone"][0]


def test_what_the_cache_refuses_does_not_count_against_the_limit() -> None:
    cache, updates = make(UpdateWindow(10.0))
    row = np.full((1, DIM), 50, np.float32)
    cache.write(ids(7), row, versions=ids(50))
    for at in (10, 20, 50):
        assert apply(updates, 7, at) == 0
    assert apply(updates, 7, 60) == 1
    assert apply(updates, 7, 60) == 0  # a replay takes no place
    assert apply(updates, 7, 55) == 0
    stats = updates.stats()
    assert (stats["applied"], stats["stale"], stats["held"]) == (1, 5, 0)


def test_an_update_that_is_not_admitted_is_counted() -> None:
    cache, updates = make(UpdateWindow(10.0), admission=0.0)
    assert [apply(updates, 7, at) for at in (1, 2)] == [0, 0]
    assert (updates.stats()["rejected"], updates.stats()["held"]) == (2, 0)
    assert cache.stats()["rows"] == 0


def test_without_place_the_one_held_longest_is_applied_early() -> None:
    cache, updates = make(UpdateWindow(10.0, max_pending=3))
    for key in range(5):
        apply(updates, key, 1)
    for key in range(5):
        assert apply(updates, key, 2) == 0
    assert [version(cache, key) for key in range(5)] == [2, 2, 1, 1, 1]
    stats = updates.stats()
    assert (stats["early"], stats["pending"], stats["held"]) == (2, 3, 5)
    apply(updates, 0, 3)  # it is held anew
    assert [version(cache, key) for key in range(5)] == [2, 2, 2, 1, 1]
    updates.delete(ids(1), ids(9))
    updates.delete(ids(3), ids(9))
    cache.set_time(START + 10)
    updates.flush(cache.time)
    assert [version(cache, key) for key in range(5)] == [3, None, 2, None, 2]
    assert accounted(updates.stats()) == 13


def test_ids_beyond_those_that_can_be_counted_are_not_limited() -> None:
    cache, updates = make(UpdateWindow(10.0, max_pending=2))
    for at in (1, 2):
        for key in range(20):
            apply(updates, key, at)
    stats = updates.stats()
    assert stats["untracked"] == 2 * (20 - 8)
    assert [version(cache, key) for key in range(8, 20)] == [2] * 12
    assert accounted(stats) == 40
    cache.set_time(START + 10)
    assert [apply(updates, key, 3) for key in range(12, 18)] == [1] * 6
    assert [apply(updates, key, 4) for key in range(12, 18)] == [0] * 6  # counted in this interval


def test_a_held_row_keeps_its_score_and_expiry() -> None:
    cache, updates = make(UpdateWindow(10.0))
    for key in (7, 8):
        apply(updates, key, 1)
        apply(updates, key, 2, score=24.0, expires=START + 100)
    apply(updates, 8, 3)  # without a score it keeps that of the row it replaces, as in the cache
    updates.flush()
    seen = cache.peek(ids(7, 8))
    np.testing.assert_allclose(seen["score"], [24.0, 24.0], rtol=1e-6)
    np.testing.assert_array_equal(seen["expires"], [START + 100, math.inf])


def test_a_field_s_time_to_live_begins_when_the_update_is_applied() -> None:
    cache, updates = make(UpdateWindow(10.0), fields=[{"table": 0, "ttl": 60.0}])
    rows = np.zeros((1, DIM), np.float32)
    for at in (1, 2):
        updates.apply(ids(7), rows, ids(at))
    cache.set_time(START + 20)
    updates.flush(cache.time)
    assert cache.peek(ids(7))["expires"][0] == START + 80


def test_deletions_keep_their_expiry() -> None:
    cache, updates = make(UpdateWindow(10.0), tombstone_ttl=50.0)
    for key in (7, 8):
        apply(updates, key, 1)
    updates.delete(ids(7), ids(2), np.array([START + 30]))
    updates.delete(ids(8), ids(2))
    updates.flush()
    np.testing.assert_array_equal(cache.peek(ids(7, 8))["expires"], [START + 30, START + 50])


@pytest.mark.parametrize("full", [False, True])
def test_a_batch_with_repeats(full: bool) -> None:
    rng = np.random.default_rng(2)
    cache, updates = make(UpdateWindow(10.0, 2), full)
    keys = rng.integers(0, 300, 5000, np.uint64)
    versions = rng.permutation(np.arange(1, 5001, dtype=np.uint64))
    rows = np.repeat(versions[:, None], DIM, 1).astype(np.float32)
    now = updates.apply(keys, rows, versions)
    assert now == cache.stats()["updates_applied"]
    assert now <= 2 * 300
    updates.flush()
    for key in range(300):
        assert version(cache, key) == versions[keys == key].max()
    assert accounted(updates.stats()) == 5000


def test_after_expiry_only() -> None:
    cache, updates = make(UpdateWindow(10.0, mode="after_expiry"))
    assert apply(updates, 7, 1, expires=START + 50) == 1
    assert apply(updates, 8, 1) == 1
    for at in (2, 3):
        assert apply(updates, 7, at) == 0
    cache.set_time(START + 51)
    assert apply(updates, 7, 4, expires=START + 90) == 1
    assert apply(updates, 7, 5) == 0
    assert version(cache, 7) == 4
    assert apply(updates, 8, 2) == 0  # never expires
    assert updates.delete(ids(7, 8), ids(6, 6)) == 2
    assert updates.flush() == 0
    stats = updates.stats()
    assert (stats["applied"], stats["dropped"], stats["held"]) == (5, 4, 0)
    assert cache.peek(ids(7, 8))["tombstone"].all()


def test_after_expiry_repeats_in_a_batch_see_each_other() -> None:
    cache, updates = make(UpdateWindow(10.0, mode="after_expiry"))
    keys, versions = np.zeros(700, np.uint64), np.arange(1, 701, dtype=np.uint64)
    keys[::2] = np.arange(1, 351, dtype=np.uint64)
    rows = np.repeat(versions[:, None], DIM, 1).astype(np.float32)
    assert updates.apply(keys, rows, versions) == 351
    assert version(cache, 0) == 2
    assert updates.stats()["dropped"] == 349


def test_the_cache_outlives_its_name() -> None:
    cache, updates = make(UpdateWindow(10.0))
    del cache
    gc.collect()
    assert apply(updates, 7, 1) == 1
    assert apply(updates, 7, 2) == 0
    assert updates.flush() == 1


def test_threads_lose_nothing() -> None:
    cache, updates = make(UpdateWindow(0.01, max_pending=64))
    cache.set_time(math.nan)
    each, threads = 40, 4
    versions = [np.arange(1, each * 500 + 1, dtype=np.uint64) * threads + thread for thread in range(threads)]

    def work(thread: int) -> None:
        rng = np.random.default_rng(thread)
        for step in range(each):
            mine = versions[thread][step * 500 : (step + 1) * 500]
            keys = rng.integers(0, 200, 500, np.uint64)
            keys[-1] = 999  # an id that everybody writes, and the last thread last
            updates.apply(keys, np.repeat(mine[:, None], DIM, 1).astype(np.float32), mine)

    running = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    assert accounted(updates.stats()) == each * threads * 500
    updates.flush()
    stats = updates.stats()
    assert accounted(stats) == each * threads * 500
    assert stats["pending"] == 0
    assert version(cache, 999) == max(int(v[-1]) for v in versions)


def test_a_child_process_goes_on() -> None:
    """Forked while other threads update: whatever they had locked, the child can update, flush and look up."""
    cache, updates = make(UpdateWindow(0.005))
    cache.set_time(math.nan)
    stop = threading.Event()

    def work() -> None:
        keys = np.arange(3000, dtype=np.uint64)
        at = 1
        while not stop.is_set():
            updates.apply(keys, np.full((3000, DIM), at, np.float32), np.full(3000, at, np.uint64))
            at += 1

    def goes_on() -> None:
        now = 2**23
        assert apply(updates, 9999, now) + updates.flush() >= 1
        assert version(cache, 9999) == now
        assert updates.stats()["pending"] == 0

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            well_in_a_child(goes_on)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"interval": 0.0}, r"interval: expected a number above 0, got 0.0"),
        ({"interval": math.inf}, r"interval: expected a number above 0, got inf"),
        ({"interval": math.nan}, r"interval: .* got nan"),
        ({"interval": "1s"}, r"interval: .* got '1s'"),
        ({"interval": 1.0, "limit": 0}, r"limit: expected an integer from 1 to 4294967295, got 0"),
        ({"interval": 1.0, "limit": 1.5}, r"limit: .* got 1.5"),
        ({"interval": 1.0, "mode": "never"}, r"mode: expected one of after_expiry, limit, got 'never'"),
        ({"interval": 1.0, "max_pending": 0}, r"max_pending: expected an integer from 1 to \d+, got 0"),
    ],
)
def test_what_a_window_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        UpdateWindow(**given)


def test_arrays_that_do_not_fit() -> None:
    _, updates = make(UpdateWindow(1.0))
    rows = np.zeros((2, DIM), np.float32)
    with pytest.raises(ValueError, match=r"rows: expected \[1, 4\], got float32 \[2, 4\]"):
        updates.apply(ids(1), rows, ids(1))
    with pytest.raises(TypeError, match="versions: expected uint64"):
        updates.apply(ids(1, 2), rows, np.array([1, 2]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"versions: expected aligned \[2\]"):
        updates.apply(ids(1, 2), rows, ids(1))
    with pytest.raises(ValueError, match=r"expires: expected aligned \[2\] without gaps"):
        updates.apply(ids(1, 2), rows, ids(1, 1), expires=np.zeros(4)[::2][:1])
    with pytest.raises(TypeError, match="expires: expected float64"):
        updates.delete(ids(1, 2), ids(1, 1), np.zeros(2, np.float32))  # type: ignore[arg-type]
    assert accounted(updates.stats()) == 0
