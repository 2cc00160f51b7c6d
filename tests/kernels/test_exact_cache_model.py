"""The exact cache against a plain model, operation by operation, for every policy; what it refuses."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from exact_cache_model import Model

from pepnet_infer import _kernels

pytestmark = pytest.mark.property

POLICIES = ("lru", "gset", "lfu", "sieve", "s3fifo")
KEYS = 60


class _Pair:
    """The cache and the model, told the same."""

    def __init__(self, policy: str, rows: int) -> None:
        self.cache = _kernels.studies.ExactCache(rows, policy, beta=0.25, interval=10.0)
        self.model = Model(policy, rows)
        self.evictions = 0
        assert self.cache.capacity_rows == rows
        self.advance(1000.0)

    def advance(self, seconds: float) -> None:
        self.model.now += seconds
        self.cache.set_time(self.model.now)

    def lookup(self, key: int) -> None:
        value, found = np.full((1, 1), -1, np.float32), np.ones(1, np.bool_)
        hits = self.cache.lookup(np.array([key], np.uint64), value, found)
        expected = self.model.lookup(key)
        assert hits == found[0] == (expected is not None)
        assert value[0, 0] == (-1 if expected is None else expected)

    def replay(self, key: int) -> None:
        before, hit = self.residents(), np.zeros(1, np.bool_)
        assert self.cache.replay(np.array([key], np.uint64), hit) == hit[0]
        if hit[0]:
            assert self.model.lookup(key) is not None
        else:
            self.inserted(key, 0.0, math.nan, before)

    def write(self, key: int, value: float, score: float) -> None:
        before = self.residents()
        self.cache.write(np.array([key], np.uint64), np.float32([value]), np.float32([score]))
        if key in self.model.entries:
            self.model.replace(key, value, score)
        else:
            self.inserted(key, value, score, before)

    def feedback(self, key: int, positive: bool) -> None:
        resident = self.cache.feedback(np.array([key], np.uint64), np.array([positive]))
        assert resident == self.model.feedback(key, positive)

    def inserted(self, key: int, value: float, score: float, before: set[int]) -> None:
        assert key not in before
        returns = self.model.returns(key)
        if len(before) == self.model.capacity:
            (gone,) = before - self.residents()
            assert gone in self.model.victims()
            self.model.evict(gone)
            self.evictions += 1
        self.model.insert(key, value, score, returns)

    def residents(self) -> set[int]:
        """Asked of a copy of the keys by a call that touches nothing."""
        keys = np.arange(KEYS, dtype=np.uint64)
        if self.model.scores:
            return set(np.flatnonzero(~np.isnan(self.cache.scores(keys))).tolist())
        return {int(key) for key in keys if self.cache.feedback(keys[key : key + 1], np.zeros(1, np.bool_))}

    def check(self) -> None:
        assert self.residents() == set(self.model.entries)
        assert len(self.cache) == len(self.model.entries)
        if self.model.scores:
            held = np.array(sorted(self.model.entries), np.uint64)
            expected = [self.model.score(self.model.entries[key]) for key in held.tolist()]
            np.testing.assert_allclose(self.cache.scores(held), expected, rtol=1e-12)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("seed", "rows"), [(0, 20), (1, 7), (2, 1)])
def test_every_operation(policy: str, seed: int, rows: int) -> None:
    rng = random.Random(seed)
    pair = _Pair(policy, rows)
    for step in range(2000):
        key, what = int(KEYS * rng.random() ** 2), rng.random()
        if what < 0.45:
            pair.lookup(key)
        elif what < 0.6:
            pair.replay(key)
        elif what < 0.9:
            score = float(np.float32(rng.uniform(0.1, 3.0))) if rng.random() < 0.5 else math.nan
            pair.write(key, float(np.float32(rng.random())), score)
        else:
            pair.feedback(key, rng.random() < 0.5)
        if rng.random() < 0.2:
            pair.advance(rng.choice((0.5, 3.0, 25.0)))
        if step % 50 == 0:
            pair.check()
    pair.check()
    assert pair.evictions > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "^rows: expected 1 or more, got 0"),
        ({"policy": "fifo"}, "^policy: expected lru, gset, lfu, sieve or s3fifo, got 'fifo'"),
        ({"beta": 1.0}, "^beta: expected between 0 and 1, got 1"),
        ({"r": 0.0}, "^r: expected a number above 0, got 0"),
        ({"interval": math.inf}, "^interval: expected seconds above 0, got inf"),
    ],
)
def test_options_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _kernels.studies.ExactCache(**({"rows": 5} | arguments))


def test_arrays_that_do_not_fit_are_refused() -> None:
    cache, keys = _kernels.studies.ExactCache(5), np.arange(3, dtype=np.uint64)
    values, found = np.zeros((3, 1), np.float32), np.zeros(3, np.bool_)
    with pytest.raises(TypeError, match=r"^keys: expected uint64, got int64"):
        cache.lookup(keys.astype(np.int64), values, found)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^values: expected \[3, 1\]"):
        cache.lookup(keys, values[:2], found)
    with pytest.raises(ValueError, match=r"^found: expected \[3\] without gaps, got bool \[2\]"):
        cache.lookup(keys, values, found[:2])
    with pytest.raises(ValueError, match=r"^values: expected \[3\]"):
        cache.write(keys, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"^scores: expected \[3\]"):
        cache.write(keys, np.zeros(3, np.float32), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"^positive: expected \[3\]"):
        cache.feedback(keys, found[:2])
    with pytest.raises(ValueError, match=r"^hits: expected \[3\] without gaps, got bool \[2\]"):
        cache.replay(keys, found[:2])


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_number_is_refused(now: float) -> None:
    cache, key = _kernels.studies.ExactCache(5, "gset"), np.array([1], np.uint64)
    cache.write(key, np.zeros(1, np.float32), np.ones(1, np.float32))
    with pytest.raises(ValueError, match=f"^now: expected a finite time, got {now}"):
        cache.set_time(now)
    assert cache.scores(key) == pytest.approx(1.0)
