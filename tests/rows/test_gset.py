"""GSET's recurrence in Python against itself written out, interval by interval, and against the one in C++."""

from __future__ import annotations

import numpy as np
import pytest

from pepnet_infer import _kernels
from pepnet_infer.errors import ConfigError
from pepnet_infer.export.data.codes import BagCodes, CodedIds
from pepnet_infer.rows.gset import Gset

HOUR = 3600.0
BEGIN = 1_650_816_000.0


def recurrence(
    size: int,
    seconds: np.ndarray,
    positive: np.ndarray,
    ids: list[np.ndarray],
    bags: list[tuple[np.ndarray, np.ndarray]],
    gset: Gset,
) -> np.ndarray:
    """S ← (1-β)·S + β·(r·c⁺ + c⁻), written out."""
    scores = np.zeros(size)
    numbers = [int(second // gset.interval) for second in seconds]
    for number in range(min(numbers), max(numbers) + 1):
        plus, minus = [0] * size, [0] * size
        for row, at in enumerate(numbers):
            if at != number:
                continue
            held = [int(codes[row]) for codes in ids]
            for codes, offsets in bags:
                held += [int(c) for c in codes[offsets[row] : offsets[row + 1]]]
            for code in held:
                (plus if positive[row] else minus)[code] += 1
        for code in range(size):
            gained = gset.r * plus[code] + minus[code]
            scores[code] = (1 - gset.beta) * scores[code] + gset.beta * gained
    return scores


@pytest.mark.parametrize("r", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("hours", [24.0, 6.0])
def test_weights_of_samples_are_the_recurrences(r: float, hours: float) -> None:
    rng = np.random.default_rng(int(r))
    rows, size = 300, 20
    seconds = np.sort(rng.integers(0, int(9 * 24 * HOUR), rows)) + BEGIN
    positive = rng.random(rows) < 0.4
    ids = [rng.integers(0, size, rows).astype(np.int32) for _ in range(2)]
    offsets = np.concatenate([[0], rng.integers(0, 4, rows).cumsum()])
    bags = [(rng.integers(0, size, offsets[-1]).astype(np.int32), offsets)]
    gset = Gset(r=r, interval=hours * HOUR)
    coded = CodedIds(
        {"table": np.arange(size, dtype=np.uint64)},
        {str(place): codes for place, codes in enumerate(ids)},
        {"bag": BagCodes(*bags[0])},
        {"table": ["0", "1", "bag"]},
    )
    got = coded.sums("table", np.arange(rows), gset.weights(seconds, positive, seconds.max()))
    np.testing.assert_allclose(got, recurrence(size, seconds, positive, ids, bags, gset), rtol=1e-12)


@pytest.mark.parametrize(("beta", "r", "interval"), [(0.1, 3.0, 86400.0), (0.5, 1.0, 7.0), (0.01, 5.0, 3600.0)])
def test_python_and_cpp_agree(beta: float, r: float, interval: float) -> None:
    """Labels in any order of time, at moments on both sides of where intervals meet: float64 on both sides."""
    gset, size = Gset(beta, r, interval), 10
    cache = _kernels.studies.ExactCache(size, "gset", beta=beta, r=r, interval=interval)
    rng = np.random.default_rng(5)
    keys = np.arange(size, dtype=np.uint64)
    cache.set_time(BEGIN)
    given = rng.uniform(0.5, 2.0, size).astype(np.float32)
    cache.write(keys, np.zeros(size, np.float32), given)
    scores, number = given.astype(np.float64), gset.interval_of(BEGIN)
    for step in range(1, 200):
        at = np.float64(number + rng.integers(0, 3)) * interval
        now = float(rng.choice([at, np.nextafter(at, np.inf), np.nextafter(at + interval, -np.inf), at + interval / 3]))
        assert gset.interval_of(now) >= number
        scores = gset.decayed(scores, gset.interval_of(now) - number)
        number = gset.interval_of(now)
        cache.set_time(now)
        chosen, positive = rng.integers(0, size, 20), rng.random(20) < 0.3
        assert cache.feedback(chosen.astype(np.uint64), positive) == 20
        plus, all_of = (np.bincount(chosen, weights=w, minlength=size) for w in (positive, np.ones(20)))
        scores = scores + gset.gain(plus, all_of - plus)
        # C++ keeps log2 S + λ·n in float64, which has a step of λ·n · 2^-52.
        step_of_w = -np.log2(1 - beta) * number * 2.0**-52
        np.testing.assert_allclose(cache.scores(keys), scores, rtol=1e-12 + 4 * step_of_w, err_msg=str(step))


def test_a_positive_weighs_r_and_a_day_decays_a_tenth() -> None:
    weights = Gset(r=5.0).weights(np.array([0.0, 24 * HOUR]), np.array([True, False]), 24 * HOUR)
    np.testing.assert_allclose(weights, [0.1 * 0.9 * 5.0, 0.1], rtol=1e-15)


def test_a_clock_that_went_back_takes_nothing_off() -> None:
    assert Gset().decayed(2.0, -3) == 2.0


def test_no_samples_no_scores() -> None:
    assert Gset().weights(np.empty(0), np.empty(0, bool), 0.0).shape == (0,)


def test_constants_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"beta: expected a number above 0 to below 1, got 0"):
        Gset(beta=0.0)
    with pytest.raises(ConfigError, match=r"interval: expected"):
        Gset(interval=0.0)
