"""GSET's score in the set-associative cache against its closed form in float64.

S(n) = β · Σ c_i · (1-β)^(n - n_i), with c = r for a positive and 1 for a negative sample (Kraken, SC '20).

Tolerances, from gset.h. A score is kept as log2 S in steps of 2^-20, of ln 2 / 2^20 = 6.6e-7 relative in S.
Rounding is at random in proportion, so each addition brings an error without bias, uniform over at most a step: of
variance step² / 6 at most where the fraction is uniform, step² / 4 at worst. An error made when the score was S' weighs
S'/S in the end, if the score decayed in between it stays relative: N additions to a score that stays of one size move
log2 S by a random walk damped by each addition's share of S. Where N additions bring a score from 0 to S evenly, the
error in S is Σ S_k · ε_k with S_k = S · k/N: a standard deviation of step · sqrt(N/3) / 2, relative. For N = 10^6 and
6.6e-7 that is 1.9e-4; six of them are asked for. What float64 itself rounds is 1e-9 of that.

Accesses are added by a table of log2(1 + 2^-d) with straight lines between points 1/32 apart. A chord is off by at most
h²/8 · f'', which against f is ln² 2 / 8 / 32² = 5.9e-5 of what is added, always upwards.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from pepnet_infer import _kernels

pytestmark = pytest.mark.parity

STEP = math.log(2) / 2**20
CHORD = 1.4 * 6e-5  # 2 · ln 2 where the first access doubles the score


def tolerance(additions: int) -> float:
    """Six standard deviations of the rounding of so many additions, and the last word's own step."""
    return 6 * STEP * math.sqrt(additions / 3) / 2 + STEP


def keys_of(*keys: int) -> np.ndarray:
    return np.array(keys, np.uint64)


def make(policy: _kernels.CachePolicy = "gset", **options: float) -> _kernels.RowCache:
    cache = _kernels.RowCache(2, 1 << 20, policy, max_rows=2048, **options)  # type: ignore[arg-type]
    cache.set_time(0.0)
    return cache


def insert(cache: _kernels.RowCache, keys: np.ndarray, scores: np.ndarray | None = None) -> None:
    given = None if scores is None else scores.astype(np.float32)
    assert cache.write(keys, np.ones((len(keys), 2), np.float32), given) == len(keys)


def score(cache: _kernels.RowCache, keys: np.ndarray) -> np.ndarray:
    return cache.peek(keys)["score"].astype(np.float64)


@pytest.mark.parametrize(("beta", "r"), [(0.1, 3.0), (0.01, 5.0), (0.5, 1.0)])
@pytest.mark.parametrize("start", [0, 20_000])
def test_a_million_labels_over_many_intervals(beta: float, r: float, start: int) -> None:
    """With β = 0.5 the scale moves by 1490 in log2: words are rebased on the way; with a late start, before it."""
    ids, intervals, a_call = 20, 500, 100
    interval = 100.0
    cache = make(beta=beta, r=r, interval=interval)
    rng = np.random.default_rng(int(r) + start)
    keys = rng.integers(0, 2**63, ids).astype(np.uint64)
    cache.set_time(start * interval)
    given = rng.uniform(0.5, 2.0, ids)
    insert(cache, keys, given)
    expected = given.astype(np.float32).astype(np.float64)
    total = 0
    # Labels come in every interval, then after ever longer gaps.
    gaps = np.where(np.arange(intervals) % 50 == 49, 100, 1)
    now = start
    for gap in gaps:
        now += int(gap)
        cache.set_time(now * interval + rng.uniform(0, 0.99 * interval))
        expected *= (1 - beta) ** int(gap)
        for _ in range(20):
            chosen = rng.integers(0, ids, a_call)
            positive = rng.random(a_call) < 0.3
            assert cache.feedback(keys[chosen], positive) == a_call
            np.add.at(expected, chosen, beta * np.where(positive, r, 1.0))
            total += a_call
    assert total == 10**6
    # Labels that still weigh anything came in the last intervals; what all of them could add is allowed for.
    np.testing.assert_allclose(score(cache, keys), expected, rtol=tolerance(total // ids))
    # One more interval without labels takes β off.
    cache.set_time((now + 1) * interval)
    np.testing.assert_allclose(score(cache, keys), expected * (1 - beta), rtol=tolerance(total // ids))


def test_a_million_labels_in_one_interval() -> None:
    """Nothing decays: the millionth addition is a millionth of the score, less than two steps of its word."""
    cache = make()
    insert(cache, keys_of(1), np.zeros(1))
    assert score(cache, keys_of(1))[0] == 0.0
    positive = np.zeros(10_000, bool)
    positive[::3] = True
    for _ in range(100):
        cache.feedback(np.full(10_000, 1, np.uint64), positive)
    expected = 100 * 0.1 * (3.0 * positive.sum() + (~positive).sum())
    np.testing.assert_allclose(score(cache, keys_of(1)), expected, rtol=tolerance(10**6))


@pytest.mark.parametrize("policy", ["gset", "lfu"])
def test_two_million_accesses(policy: _kernels.CachePolicy) -> None:
    """A row without a score is scored by its accesses, each β, from the one that it came with on."""
    cache = make(policy)
    keys = keys_of(1, 2)
    insert(cache, keys)
    np.testing.assert_allclose(score(cache, keys), 0.1, rtol=2 * STEP)
    assert not cache.peek(keys)["scored"].any()
    asked = np.full(100_000, 1, np.uint64)
    out = np.zeros((len(asked), 2), np.float32)
    done = 1
    for calls in (1, 9, 10):
        for _ in range(calls):
            assert cache.lookup(asked, out) == len(asked)
        done += calls * len(asked)
        np.testing.assert_allclose(score(cache, keys_of(1)), 0.1 * done, rtol=tolerance(done) + CHORD)
    assert done == 2 * 10**6 + 1
    cache.lookup(asked, out, None, False)  # not counted
    np.testing.assert_allclose(score(cache, keys), [0.1 * done, 0.1], rtol=tolerance(done) + CHORD)


def test_accesses_decay_by_interval() -> None:
    cache = make(beta=0.25, interval=10.0)
    insert(cache, keys_of(7))
    expected, out = 0.25, np.zeros((3, 2), np.float32)
    for step in range(300):
        cache.set_time((step + 1) * 10.0)
        cache.lookup(np.full(3, 7, np.uint64), out)
        expected = expected * 0.75 + 0.25 * 3
    np.testing.assert_allclose(score(cache, keys_of(7)), expected, rtol=tolerance(903) + CHORD)


def test_a_score_that_came_is_left_alone_by_accesses_and_by_updates_without_one() -> None:
    cache = make()
    insert(cache, keys_of(1), np.array([2.5]))
    cache.lookup(np.full(1000, 1, np.uint64), np.zeros((1000, 2), np.float32))
    one = np.ones((1, 2), np.float32)
    assert cache.write(keys_of(1), one, versions=keys_of(3), update=True) == 1
    np.testing.assert_allclose(score(cache, keys_of(1)), 2.5, rtol=2 * STEP)
    assert cache.peek(keys_of(1))["scored"].all()
    assert cache.write(keys_of(1), one, np.array([7.0], np.float32), keys_of(4), update=True) == 1
    np.testing.assert_allclose(score(cache, keys_of(1)), 7.0, rtol=2 * STEP)
    cache.feedback(keys_of(1, 1, 9), np.array([True, False, True]))
    np.testing.assert_allclose(score(cache, keys_of(1)), 7.0 + 0.1 * 3 + 0.1, rtol=4 * STEP)


@pytest.mark.parametrize("start", [0, 20_000])
def test_a_rebase_changes_no_score(start: int) -> None:
    """Labels come in the last interval before 512 in log2 have gone by; one more, in the next, moves all words."""
    last = math.floor(512 / -math.log2(0.9))
    cache = make(interval=10.0)
    cache.set_time(start * 10.0)
    keys = keys_of(*range(100))
    insert(cache, keys, np.zeros(100))
    cache.set_time((start + last) * 10.0)
    counts = 1 + np.arange(100) % 17
    repeated = np.repeat(keys, counts)
    cache.feedback(repeated, np.ones(len(repeated), np.bool_))
    np.testing.assert_allclose(score(cache, keys), 0.3 * counts, rtol=tolerance(17))
    cache.set_time((start + last + 1) * 10.0)
    before = np.array([p for part in range(cache.parts) for p in cache.part(part)["order"]])
    cache.feedback(keys[:1], np.zeros(1, np.bool_))
    after = np.array([p for part in range(cache.parts) for p in cache.part(part)["order"]])
    assert (after < before).all()  # moved, as meant
    np.testing.assert_allclose(score(cache, keys[1:]), 0.27 * counts[1:], rtol=tolerance(17))
    np.testing.assert_allclose(score(cache, keys[:1]), 0.27 + 0.1, rtol=tolerance(17))


@pytest.mark.parametrize("years", [1, 8, 20, 60])
def test_order_is_exact_across_rebases(years: int) -> None:
    """10 % a day: 512 in log2 go by in nine years. What lies between keeps its order to the word."""
    cache = make(interval=86_400.0)
    rng = np.random.default_rng(years)
    keys = rng.integers(0, 2**63, 200).astype(np.uint64)
    scores = np.exp(rng.uniform(-5, 5, 200))
    insert(cache, keys, scores)
    before = np.argsort(score(cache, keys), kind="stable")
    cache.set_time(years * 365 * 86_400.0)
    # A write to each region moves what is due; these are not resident, and not counted.
    new = keys_of(*range(50))
    insert(cache, new, np.full(50, 1.0))
    part = [cache.part(i) for i in range(cache.parts)]
    order = {int(k): int(o) for p in part for k, o in zip(p["keys"], p["order"], strict=True)}
    words = np.array([order[int(key)] for key in keys])
    assert (np.diff(words[before]) >= 0).all()
    decayed = np.log2(scores) + years * 365 * math.log2(0.9)
    assert max(words) < min(order[int(key)] for key in new) or decayed.max() > 0
    if decayed.min() > -140:  # float32 can say it
        np.testing.assert_allclose(np.log2(score(cache, keys)), decayed, atol=1e-4)
    np.testing.assert_allclose(score(cache, new), 1.0, rtol=2 * STEP)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-30, 1e30, np.inf])
def test_scores_at_the_ends(value: float) -> None:
    cache = make()
    insert(cache, keys_of(1), np.array([value]))
    got = score(cache, keys_of(1))[0]
    if 0 < value < np.inf:
        np.testing.assert_allclose(got, value, rtol=2 * STEP * 1.1)
    else:
        assert got == (np.inf if value > 0 else 0.0)
    cache.feedback(keys_of(1), np.array([False]))
    assert score(cache, keys_of(1))[0] >= got


@pytest.mark.parametrize("policy", ["lru", "sieve", "s3fifo"])
def test_other_policies_keep_no_score(policy: _kernels.CachePolicy) -> None:
    cache = make(policy)
    insert(cache, keys_of(1), np.array([2.0]))
    assert cache.feedback(keys_of(1, 2), np.array([True, True])) == 1
    assert np.isnan(score(cache, keys_of(1))).all()
