"""What the set-associative cache evicts, admits, expires and remembers; and what once went wrong."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from pepnet_infer import _kernels

POLICIES = ("lru", "gset", "lfu", "sieve", "s3fifo")
DIM = 4
START = 1000.0
Keys = npt.NDArray[np.uint64]
STALE, INSERTED, REPLACED, REJECTED = range(4)


def make(policy: _kernels.CachePolicy = "lru", rows: int = 0, **options: object) -> _kernels.RowCache:
    cache = _kernels.RowCache(DIM, 1 << 20, policy, max_rows=rows, **options)  # type: ignore[arg-type]
    cache.set_time(START)
    return cache


def keys_of(*keys: int) -> Keys:
    return np.array(keys, np.uint64)


def table(number: int, count: int, first: int = 0) -> Keys:
    return np.arange(first, first + count, dtype=np.uint64) + np.uint64(number << 48)


def write(
    cache: _kernels.RowCache, keys: Keys, version: int = 0, *, update: bool = False, score: float | None = None,
    expires: float = math.inf,
) -> list[int]:  # fmt: skip
    """Writes rows of their key's low byte and returns what became of each."""
    count = len(keys)
    results = np.zeros(count, np.uint8)
    rows = np.repeat((keys % np.uint64(256)).astype(np.float32)[:, None], DIM, axis=1)
    scores = None if score is None else np.full(count, score, np.float32)
    written = cache.write(
        keys, rows, scores, np.full(count, version, np.uint64), np.full(count, expires), update, results
    )
    assert written == np.isin(results, (INSERTED, REPLACED)).sum()
    return results.tolist()


def outcomes(cache: _kernels.RowCache, keys: Keys, counted: bool = False) -> list[int]:
    out, result = np.full((len(keys), DIM), -1, np.float32), np.zeros(len(keys), np.uint8)
    found = cache.lookup(keys, out, result, counted)
    there = result == 1
    assert found == there.sum()
    assert (out[there] == (keys[there] % np.uint64(256)).astype(np.float32)[:, None]).all()
    assert (out[~there] == -1).all()
    return result.tolist()


def resident(cache: _kernels.RowCache) -> dict[int, int]:
    """Key → rank of all entries."""
    parts = [cache.part(i) for i in range(cache.parts)]
    return {int(k): int(o) for p in parts for k, o in zip(p["keys"], p["order"], strict=True)}


def room(cache: _kernels.RowCache) -> int:
    """How many entries a set of 8 ways alone holds: two slots are spare."""
    assert cache.capacity_rows == 8
    return 6


# One set: what the policy orders is ordered over all rows.


def test_lru_evicts_the_least_recent() -> None:
    cache = make("lru", 8)
    for key in range(6):
        write(cache, keys_of(key))
    for key in (0, 3):
        assert outcomes(cache, keys_of(key), counted=True) == [1]
    outcomes(cache, keys_of(1), counted=False)
    gone = []
    for new in range(100, 106):
        before = resident(cache)
        write(cache, keys_of(new))
        gone += before.keys() - resident(cache).keys()
    assert gone == [1, 2, 4, 5, 0, 3]
    assert len(resident(cache)) == room(cache)


@pytest.mark.parametrize("policy", ["gset", "lfu"])
def test_the_lowest_score_goes_and_expired_rows_before_it(policy: _kernels.CachePolicy) -> None:
    cache = make(policy, 8)
    write(cache, keys_of(0), expires=START + 10)
    for key in range(1, 6):
        write(cache, keys_of(key))
        cache.feedback(np.full(10 - key, key, np.uint64), np.zeros(10 - key, np.bool_))
    cache.feedback(np.full(500, 0, np.uint64), np.ones(500, np.bool_))  # the highest by far
    cache.set_time(START + 11)
    gone = []
    for new in (100, 101, 102):
        before = set(resident(cache)) | ({0} if new == 100 else set())
        write(cache, keys_of(new))
        cache.feedback(np.full(50, new, np.uint64), np.ones(50, np.bool_))
        gone += before - set(resident(cache))
    assert gone == [0, 5, 4]
    stats = cache.stats()
    assert (stats["evicted_expired"], stats["evicted_policy"]) == (1, 2)


def test_gset_evicts_in_the_order_of_scores_that_came() -> None:
    cache = make("gset", 8)
    scores = [3.0, 0.5, 2.0, 9.0, 0.25, 1.0]
    for key, score in enumerate(scores):
        write(cache, keys_of(key), score=score)
    order = resident(cache)
    assert sorted(order, key=order.__getitem__) == list(np.argsort(scores))
    gone = []
    for new in range(100, 105):
        before = resident(cache)
        write(cache, keys_of(new), score=50.0)
        gone += before.keys() - resident(cache).keys()
    assert gone == list(np.argsort(scores)[:5])


@pytest.mark.parametrize("what", ["peek", "part", "forget"])
def test_scores_outlive_a_look_at_another_time(what: str) -> None:
    cache = make("gset", 512, interval=1.0)
    cache.set_time(0.0)
    keys, scores = np.arange(1, 11, dtype=np.uint64), np.arange(1, 11, dtype=np.float32) / 10
    cache.write(keys, np.zeros((10, DIM), np.float32), scores)
    there = cache.peek(keys)["score"].copy()
    np.testing.assert_allclose(there, scores, rtol=0.01)
    cache.set_time(1e6)
    if what == "part":
        for part in range(cache.parts):
            cache.part(part)
    elif what == "peek":
        cache.peek(keys)
    else:
        assert cache.forget(keys_of(100)) == 0
    cache.set_time(0.0)
    np.testing.assert_array_equal(cache.peek(keys)["score"], there)


@pytest.mark.parametrize("policy", POLICIES)
def test_high_priority_never_goes_by_score(policy: _kernels.CachePolicy) -> None:
    cache = make(policy, 512, fields=[{"table": 1, "high_priority": True}])
    high = table(1, 300)
    write(cache, high, score=1e-9)
    held = [k for k in high.tolist() if k in resident(cache)]
    assert len(held) > 280
    for first in range(0, 20_000, 1000):
        results = write(cache, table(0, 1000, first), score=1e9)
        assert set(results) <= {INSERTED, REJECTED}
    assert set(held) <= resident(cache).keys()
    assert cache.peek(keys_of(*held))["high_priority"].all()
    # With nothing else left, what comes is rejected and counted.
    results = write(cache, table(1, 2000, 1000))
    stats = cache.stats()
    assert results.count(REJECTED) > 1000
    assert stats["rejected_priority"] >= results.count(REJECTED)
    assert set(held) <= resident(cache).keys()
    # Expired ones go like any other.
    cache = make(policy, 8, fields=[{"table": 1, "high_priority": True, "ttl": 5.0}])
    write(cache, table(1, 6))
    assert write(cache, keys_of(7)) == [REJECTED]
    cache.set_time(START + 6)
    assert write(cache, keys_of(7)) == [INSERTED]
    assert cache.stats()["evicted_expired"] == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_a_field_stays_within_its_share(policy: _kernels.CachePolicy) -> None:
    cache = make(policy, 4000, fields=[{"table": 1, "share": 0.1}])
    limit = int(0.1 * cache.capacity_rows)
    others = table(0, 2000)
    write(cache, others)
    kept = 0
    for first in range(0, 5000, 500):
        write(cache, table(1, 500, first))
        kept = kept or sum(k >> 48 == 0 for k in resident(cache))  # below its share it took what it needed
        assert sum(k >> 48 == 1 for k in resident(cache)) <= limit
    stats = cache.stats()
    assert sum(k >> 48 == 1 for k in resident(cache)) == limit
    assert stats["evicted_share"] + stats["rejected_share"] == 5000 - limit
    assert stats["evicted_share"] > 1000
    assert sum(k >> 48 == 0 for k in resident(cache)) == kept  # others gave nothing up for it


def test_a_field_stays_within_its_share_where_ids_were_absent() -> None:
    cache = make("lru", 800, fields=[{"table": 1, "share": 0.1}])
    cache.mark_absent(table(1, 400))
    write(cache, table(1, 400), 5, update=True)
    assert cache.stats()["rows"] <= 0.1 * cache.capacity_rows


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.9, 1.0])
def test_admission_is_by_probability(probability: float) -> None:
    fields: list[_kernels.FieldRule] = [{"table": 2, "admission": probability}, {"table": 3, "admission": 1.0}]
    cache = make(fields=fields, admission=0.5)
    count = 3000
    for number, expected in ((0, 0.5), (2, probability), (3, 1.0)):
        admitted = write(cache, table(number, count)).count(INSERTED)
        # Binomial: 6 standard deviations.
        assert abs(admitted - expected * count) <= 6 * math.sqrt(count * expected * (1 - expected))
        # Those that are there need no admission.
        assert write(cache, table(number, count), 1, update=True).count(REPLACED) == admitted
    assert cache.stats()["rejected_admission"] > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_slot_used_again_starts_fresh(policy: _kernels.CachePolicy) -> None:
    """Nothing of the row that was there is seen in the next: score, expiry, priority, version, accesses."""
    cache = make(policy, 8, fields=[{"table": 1, "high_priority": True}])
    write(cache, table(1, 6), 90, score=50.0, expires=START + 5)
    cache.feedback(table(1, 6), np.ones(6, np.bool_))
    cache.set_time(START + 6)
    write(cache, table(0, 6), 1)
    info = cache.peek(table(0, 6))
    assert (info["outcome"] == 1).all()
    assert not info["high_priority"].any()
    assert not info["scored"].any()
    assert (info["version"] == 1).all()
    assert (info["expires"] == math.inf).all()
    if policy in ("gset", "lfu"):
        np.testing.assert_allclose(info["score"], 0.1, rtol=1e-5)
    cache.clear()
    assert cache.stats()["rows"] == 0
    assert outcomes(cache, table(0, 6)) == [0] * 6
    assert write(cache, table(0, 6), 0, update=True) == [INSERTED] * 6  # a clear forgets versions too


@pytest.mark.parametrize("policy", POLICIES)
def test_repeats_count_fully(policy: _kernels.CachePolicy) -> None:
    cache = make(policy)
    write(cache, keys_of(1))
    outcomes(cache, np.array([1] * 600 + [2] * 300 + [1] * 100, np.uint64), counted=True)
    stats = cache.stats()
    assert (stats["hits"], stats["misses"]) == (700, 300)
    if policy in ("gset", "lfu"):
        np.testing.assert_allclose(cache.peek(keys_of(1))["score"], 0.1 * 701, rtol=1e-4)


# What once went wrong.


def test_an_old_update_does_not_pass_a_negative_entry() -> None:
    cache = make("lru", 8)
    write(cache, keys_of(1), 10, update=True)
    for key in range(2, 40):
        write(cache, keys_of(key), 1)
    assert outcomes(cache, keys_of(1)) == [0]
    assert write(cache, keys_of(1), 5, update=True) == [STALE]
    cache.mark_absent(keys_of(1))
    assert outcomes(cache, keys_of(1)) == [2]
    assert write(cache, keys_of(1), 5, update=True) == [STALE]
    assert outcomes(cache, keys_of(1)) == [0]  # there is such an id after all: the store is asked
    cache.mark_absent(keys_of(1))
    assert cache.erase(keys_of(1), keys_of(5)) == 0
    assert outcomes(cache, keys_of(1)) == [2]
    assert write(cache, keys_of(1), 11, update=True) == [REPLACED]


@pytest.mark.parametrize("idle", [10.0, 300.0, 700.0, 900.0, 1100.0, 1e4, 1e6, 1e9])
@pytest.mark.parametrize("first", ["lookup", "peek", "part", "insert"])
def test_an_expired_row_does_not_come_back(first: str, idle: float) -> None:
    """However long nobody called: deadlines are kept modulo 1024 quarters of a second and more."""
    cache = make()
    write(cache, keys_of(1), 7, expires=START + 9)
    cache.set_time(START + idle)
    if first == "lookup":
        assert outcomes(cache, keys_of(1)) == [0]
    elif first == "peek":
        info = cache.peek(keys_of(1))
        assert (info["outcome"][0], info["version"][0], info["expires"][0]) == (0, 0, math.inf)
    elif first == "part":
        assert not resident(cache)
    else:
        assert write(cache, keys_of(1), 3) == [INSERTED]
        return
    assert outcomes(cache, keys_of(1)) == [0]
    assert not resident(cache)


def test_an_expired_row_gets_no_feedback() -> None:
    cache = make()
    write(cache, keys_of(1), expires=START + 9)
    cache.set_time(START + 700)
    assert cache.feedback(keys_of(1), np.array([True])) == 0


def test_a_row_does_not_expire_before_its_time() -> None:
    cache = make("lru", 800)  # one region
    cache.set_time(1000.2)
    write(cache, keys_of(1), expires=1250.0)
    cache.set_time(1256.1)
    write(cache, keys_of(2), expires=1512.0)
    cache.set_time(1256.3)
    assert outcomes(cache, keys_of(2)) == [1]


def test_a_tombstone_refuses_until_it_expires() -> None:
    cache = make(tombstone_ttl=100.0)
    assert cache.erase(keys_of(1), keys_of(5)) == 1
    assert outcomes(cache, keys_of(1)) == [2]
    assert write(cache, keys_of(1), 5) == [STALE]
    cache.set_time(START + 99)
    assert write(cache, keys_of(1), 5) == [STALE]
    cache.set_time(START + 101)
    assert outcomes(cache, keys_of(1)) == [0]
    assert write(cache, keys_of(1), 5) == [INSERTED]
    assert outcomes(cache, keys_of(1)) == [1]


@pytest.mark.parametrize("dim", [29, 61, 125, 253])
def test_ghosts_stay_within_the_buffer(dim: int) -> None:
    """Row counts about those whose ghosts once lay beyond the last page."""
    for rows in (104 * 8, 103 * 8, 208 * 8, 56 * 8):
        cache = _kernels.RowCache(dim, 64 << 20, "s3fifo", max_rows=rows)
        keys = np.arange(rows * 8, dtype=np.uint64)
        ones = np.ones((len(keys), dim), np.float32)
        cache.write(keys, ones)
        cache.write(keys, ones)
        out = np.zeros_like(ones)
        assert cache.lookup(keys, out) == cache.stats()["rows"] == (out[:, 0] == 1).sum()
