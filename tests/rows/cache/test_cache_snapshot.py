"""A snapshot brings back what the cache had: rows to the bit, versions, expiry, scores, and the order of eviction."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from snapshots import DIM, NOW, content, ids, make, rows_of

from pepnet_infer import _kernels
from pepnet_infer.rows.cache import snapshot, snapshot_file
from pepnet_infer.rows.gset import Gset

POLICIES = ("lru", "gset", "lfu", "sieve", "s3fifo")
DTYPES = ("float32", "float16", "bfloat16", "int8")


def in_order(cache: Any) -> list[list[int]]:
    """Keys of each part, the next victim first."""
    parts = (cache.part(index) for index in range(cache.parts))
    return [[int(key) for key in part["keys"][np.argsort(part["order"], kind="stable")]] for part in parts]


def fill(cache: Any, count: int, seed: int = 3) -> npt.NDArray[np.uint64]:
    """Rows with scores, versions and some expiries, then lookups; also tombstones and negative entries."""
    rng = np.random.default_rng(seed)
    keys = np.unique(rng.integers(0, 2**64, count, np.uint64))
    rng.shuffle(keys)
    rows = rng.normal(size=(len(keys), DIM)).astype(np.float32)
    expires = np.where(rng.random(len(keys)) < 0.3, NOW + 1 + rng.integers(1, 5000, len(keys)), math.inf)
    scores = np.exp2(rng.uniform(-3, 6, len(keys))).astype(np.float32)
    cache.write(keys, rows, scores, rng.integers(0, 2**64, len(keys), np.uint64), expires)
    out = np.empty((1, DIM), np.float32)
    for key in rng.choice(keys, count // 2):
        cache.lookup(ids(int(key)), out)
    cache.erase(keys[:5], np.full(5, 2**64 - 1, np.uint64))
    cache.mark_absent(ids(1, 2, 3))
    return keys


@pytest.mark.parametrize(("policy", "dtype"), list(itertools.product(POLICIES, DTYPES)))
def test_everything_comes_back(policy: str, dtype: str, tmp_path: Path) -> None:
    cache = make(policy, dtype)
    fill(cache, int(0.3 * cache.capacity_rows))
    before = content(cache)
    saved = snapshot.save(cache, tmp_path / "s")
    assert saved.rows + saved.negatives + saved.tombstones == len(before) > 500
    assert (saved.negatives, saved.tombstones) == (3, 5)
    assert saved.bytes == (tmp_path / "s").stat().st_size

    other = make(policy, dtype)
    loaded = snapshot.load(other, tmp_path / "s")
    assert loaded == (saved.rows, 3, 5, 0, 0, 0)
    after = content(other)
    assert after.keys() == before.keys()
    if dtype == "int8":  # the scale may differ in its last bit, the codes not
        for key, entry in before.items():
            assert after[key][:-1] == entry[:-1]
            old, new = (np.frombuffer(e[-1], np.float32) for e in (entry, after[key]))
            np.testing.assert_allclose(new, old, rtol=2.0**-23, atol=0)
    else:
        assert after == before


@pytest.mark.parametrize("policy", ["lru", "gset", "sieve", "s3fifo"])
def test_the_order_of_eviction_comes_back(policy: str, tmp_path: Path) -> None:
    cache = make(policy)
    keys = np.random.default_rng(5).permutation(np.arange(1500, dtype=np.uint64))
    cache.write(keys, rows_of(keys), (keys % 700 + 1).astype(np.float32) if policy == "gset" else None)
    snapshot.save(cache, tmp_path / "s")
    other = make(policy)
    snapshot.load(other, tmp_path / "s")
    if policy == "gset":  # equal scores in any order
        for old, new in zip(in_order(cache), in_order(other), strict=True):
            assert [key % 700 for key in new] == [key % 700 for key in old]
            assert sorted(new) == sorted(old)
    else:
        assert in_order(other) == in_order(cache)


def test_lookups_count_in_the_order(tmp_path: Path) -> None:
    cache = make("lru", max_rows=8)  # one set, two ways of which are kept for replacing rows
    keys = np.arange(6, dtype=np.uint64)
    cache.write(keys, rows_of(keys))
    for key in (5, 0, 3):
        cache.lookup(ids(key), np.empty((1, DIM), np.float32))
    snapshot.save(cache, tmp_path / "s")
    other = make("lru", max_rows=8)
    assert snapshot.load(other, tmp_path / "s").rows == 6
    assert in_order(other) == in_order(cache) == [[1, 2, 4, 5, 0, 3]]


def test_scores_come_back_and_decay(tmp_path: Path) -> None:
    cache = make("gset", beta=0.2, interval=100.0)
    keys = np.arange(100, dtype=np.uint64)
    scores = np.linspace(0.5, 50, 100).astype(np.float32)
    cache.write(keys, rows_of(keys), scores)
    snapshot.save(cache, tmp_path / "s")
    for gset, factor in ((None, 1.0), (Gset(beta=0.2, interval=100.0), 0.8**7)):
        other = make("gset", beta=0.2, interval=100.0)
        other.set_time(NOW + 700)
        snapshot.load(other, tmp_path / "s", gset)
        np.testing.assert_allclose(other.peek(keys)["score"], scores.astype(np.float64) * factor, rtol=2e-6)
    cache.set_time(NOW + 700)
    np.testing.assert_allclose(cache.peek(keys)["score"], scores.astype(np.float64) * 0.8**7, rtol=2e-6)


@pytest.mark.parametrize("policy", ["lru", "gset"])
def test_a_smaller_cache_keeps_the_best(policy: str, tmp_path: Path) -> None:
    cache = make(policy, capacity=1 << 20)
    keys = np.random.default_rng(7).permutation(np.arange(cache.capacity_rows // 2, dtype=np.uint64))
    scores = np.arange(1, len(keys) + 1, dtype=np.float32)  # like recency, the later the better
    cache.write(keys, rows_of(keys), scores)
    snapshot.save(cache, tmp_path / "s")
    other = make(policy)
    loaded = snapshot.load(other, tmp_path / "s")
    assert loaded.rows + loaded.rejected == snapshot_entries(tmp_path / "s")
    kept = np.array(sorted(content(other)), np.uint64)
    assert len(kept) > 0.9 * other.capacity_rows
    best = keys[-other.capacity_rows :]
    assert np.isin(kept, best).mean() > 0.93


def snapshot_entries(path: Path) -> int:
    with open(path, "rb") as file:
        return snapshot_file.Reader(path, file).entries


def test_another_policy(tmp_path: Path) -> None:
    cache = make("lru")
    keys = np.arange(1000, dtype=np.uint64)
    cache.write(keys, rows_of(keys, 3), versions=np.full(1000, 3, np.uint64))
    snapshot.save(cache, tmp_path / "s")
    for policy in POLICIES:
        other = make(policy, capacity=1 << 19)
        assert snapshot.load(other, tmp_path / "s").rows == 1000
        out = np.zeros((1000, DIM), np.float32)
        assert other.lookup(keys, out) == 1000
        np.testing.assert_array_equal(out, rows_of(keys, 3))


def test_what_is_newer_in_the_cache_stays(tmp_path: Path) -> None:
    cache = make()
    keys = ids(1, 2, 3, 4, 5)
    cache.write(keys, rows_of(keys, 5), versions=np.full(5, 5, np.uint64))
    snapshot.save(cache, tmp_path / "s")
    other = make()
    resident = ids(1, 2, 3)
    other.write(resident, rows_of(resident, 1), versions=ids(4, 5, 6))
    other.erase(ids(4), ids(9))
    other.mark_absent(ids(5))
    loaded = snapshot.load(other, tmp_path / "s")
    assert (loaded.rows, loaded.older) == (1, 4)
    seen = other.peek(keys)
    np.testing.assert_array_equal(seen["version"], [5, 5, 6, 9, 0])
    np.testing.assert_array_equal(seen["outcome"], [1, 1, 1, 2, 2])
    out = np.zeros((3, DIM), np.float32)
    other.lookup(resident, out)
    np.testing.assert_array_equal(out, np.concatenate([rows_of(ids(1), 5), rows_of(ids(2, 3), 1)]))


def test_versions_still_decide_after_loading(tmp_path: Path) -> None:
    cache = make()
    cache.write(ids(1, 2), rows_of(ids(1, 2), 7), versions=ids(7, 7))
    cache.erase(ids(2), ids(8))
    snapshot.save(cache, tmp_path / "s")
    other = make()
    snapshot.load(other, tmp_path / "s")
    old, new = ids(6, 8), ids(8, 9)
    assert other.write(ids(1, 2), rows_of(ids(1, 2)), versions=old, update=True) == 0
    assert other.write(ids(1, 2), rows_of(ids(1, 2)), versions=new, update=True) == 2


def test_what_has_expired_is_left_out(tmp_path: Path) -> None:
    cache = make(negative_ttl=60.0)
    keys = ids(1, 2, 3)
    cache.write(keys, rows_of(keys), expires=np.array([NOW + 50, NOW + 500, math.inf]))
    cache.erase(ids(7, 8), ids(1, 1), np.array([NOW + 50, NOW + 500]))
    cache.mark_absent(ids(9))
    snapshot.save(cache, tmp_path / "s")
    other = make()
    other.set_time(NOW + 100)
    assert snapshot.load(other, tmp_path / "s") == (2, 0, 1, 3, 0, 0)
    np.testing.assert_array_equal(other.peek(ids(1, 2, 3, 7, 8, 9))["outcome"], [0, 1, 1, 0, 2, 0])
    other.set_time(NOW + 600)
    np.testing.assert_array_equal(other.peek(ids(1, 2, 3, 7, 8, 9))["outcome"], [0, 0, 1, 0, 0, 0])


def test_rows_that_are_not_finite(tmp_path: Path) -> None:
    rows = np.array([[np.inf, 1, 0, 0, 0, 0], [np.nan] * 6, [1, -np.inf, np.nan, 0, 2, 70000]], np.float32)
    keys = ids(1, 2, 3)
    for dtype in DTYPES:
        cache, other = make(dtype=dtype), make(dtype=dtype)
        cache.write(keys, rows)
        snapshot.save(cache, tmp_path / "s")
        snapshot.load(other, tmp_path / "s")
        served = np.zeros((2, 3, DIM), np.float32)
        cache.lookup(keys, served[0])
        other.lookup(keys, served[1])
        np.testing.assert_array_equal(served[1], served[0], err_msg=dtype)


def test_an_empty_cache(tmp_path: Path) -> None:
    assert snapshot.save(make(), tmp_path / "s")[:3] == (0, 0, 0)
    assert snapshot.load(make(), tmp_path / "s") == (0, 0, 0, 0, 0, 0)


def test_a_part_of_many_blocks(tmp_path: Path) -> None:
    """The parts of a cache written as one: a part of ours is never so large, the format has room for it."""
    cache = make("lru", capacity=1 << 21)
    keys = np.arange(3 * snapshot_file.BLOCK_RECORDS + 17, dtype=np.uint64)
    cache.write(keys, rows_of(keys))
    parts = [snapshot_file.pack(cache.part(index), "float32", DIM) for index in range(cache.parts)]
    with snapshot_file.new_snapshot(tmp_path / "s") as file:
        writer = snapshot_file.Writer(file, snapshot_file.Header(DIM, "float32", "lru", NOW))
        writer.part(0, np.concatenate(parts))
        writer.end(0)
    other = make("lru", capacity=1 << 21)
    assert snapshot.load(other, tmp_path / "s").rows == len(keys)
    assert content(other).keys() == content(cache).keys()


@pytest.mark.parametrize("policy", ["gset", "lfu"])
def test_admission_is_not_drawn_again_and_scores_by_access_go_on(tmp_path: Path, policy: str) -> None:
    """Rows of a cache that admits few come back whole, each with the score it had, and accesses go on counting."""
    keys, own = np.arange(400, dtype=np.uint64), np.arange(400) % 2 == 0
    scores = np.where(own, 3.0, np.nan).astype(np.float32)
    out = np.empty((400, 4), np.float32)

    def cache(admission: float) -> _kernels.RowCache:
        made = _kernels.RowCache(4, 1 << 20, policy, admission=admission)
        made.set_time(1e9)
        return made

    saved, loaded = cache(1.0), cache(0.1)
    saved.write(keys, np.ones((400, 4), np.float32), scores)
    for turn in range(8):
        saved.lookup(keys[turn * 50 :], out[turn * 50 :])
    snapshot.save(saved, tmp_path / "s")
    assert snapshot.load(loaded, tmp_path / "s").rows == 400
    for again in range(2):
        before, after = saved.peek(keys), loaded.peek(keys)
        np.testing.assert_allclose(after["score"], before["score"], rtol=1e-3)
        np.testing.assert_array_equal(after["scored"], before["scored"])
        assert again or len(np.unique(np.round(before["score"], 3))) > 4  # not all alike: there is something to keep
        saved.lookup(keys, out)
        loaded.lookup(keys, out)


def test_updates_older_than_what_was_evicted_stay_out(tmp_path: Path) -> None:
    cache = make(capacity=80_000)
    keys = ids(*range(1, 4000))
    cache.write(keys, rows_of(keys), None, np.arange(1, 4000, dtype=np.uint64))
    gone = keys[cache.peek(keys)["outcome"] == 0][-1:]
    assert cache.floor >= gone[0] > 0
    snapshot.save(cache, tmp_path / "saved")
    other = make(capacity=80_000)
    snapshot.load(other, tmp_path / "saved")
    assert other.floor >= cache.floor
    assert other.write(gone, rows_of(gone), None, gone - np.uint64(1), update=True) == 0
    assert other.write(gone, rows_of(gone), None, ids(other.floor + 1), update=True) == 1


def test_a_smaller_cache_remembers_what_it_had_no_room_for(tmp_path: Path) -> None:
    cache, smaller = make(capacity=1 << 18), make(capacity=80_000)
    keys = ids(*range(1, 1500))
    cache.write(keys, rows_of(keys), None, np.full(len(keys), 7, np.uint64))
    snapshot.save(cache, tmp_path / "saved")
    snapshot.load(smaller, tmp_path / "saved")
    out = keys[smaller.peek(keys)["outcome"] == 0][:1]
    assert smaller.write(out, rows_of(out), None, ids(6), update=True) == 0
