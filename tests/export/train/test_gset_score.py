"""GSET scores against the recurrence, interval by interval, id by id."""

from __future__ import annotations

import numpy as np
import pytest

from pepnet_infer.errors import ConfigError
from pepnet_infer.export.run_config import ScoreConfig
from pepnet_infer.export.train.gset_score import accumulate, row_weights

HOUR = 3_600_000


def recurrence(
    size: int,
    times: np.ndarray,
    positive: np.ndarray,
    ids: list[np.ndarray],
    bags: list[tuple[np.ndarray, np.ndarray]],
    config: ScoreConfig,
) -> np.ndarray:
    """S ← (1-β)·S + β·(r·c⁺ + c⁻), written out."""
    width = int(config.interval_hours * HOUR)
    newest = int(times.max())
    scores = [0.0] * size
    for back in range((newest - int(times.min())) // width, -1, -1):
        plus, minus = [0] * size, [0] * size
        for row in range(len(times)):
            if (newest - int(times[row])) // width != back:
                continue
            held = [int(codes[row]) for codes in ids]
            for codes, offsets in bags:
                held += [int(c) for c in codes[offsets[row] : offsets[row + 1]]]
            for code in held:
                (plus if positive[row] else minus)[code] += 1
        for code in range(size):
            gained = config.weight * plus[code] + minus[code]
            scores[code] = (1 - config.decay) * scores[code] + config.decay * gained
    return np.array(scores)


@pytest.mark.parametrize("weight", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("interval", [24.0, 6.0])
def test_scores_are_the_recurrences(weight: float, interval: float) -> None:
    rng = np.random.default_rng(int(weight))
    rows, size = 300, 20
    times = np.sort(rng.integers(0, 9 * 24 * HOUR, rows)) + 1_650_816_000_000
    positive = rng.random(rows) < 0.4
    ids = [rng.integers(0, size, rows).astype(np.int32) for _ in range(2)]
    offsets = np.concatenate([[0], rng.integers(0, 4, rows).cumsum()])
    bags = [(rng.integers(0, size, offsets[-1]).astype(np.int32), offsets)]
    config = ScoreConfig(weight=weight, interval_hours=interval)
    got = accumulate(size, row_weights(times, positive, config), ids, bags)
    np.testing.assert_allclose(got, recurrence(size, times, positive, ids, bags, config), rtol=1e-12)


def test_a_positive_weighs_r_and_a_day_decays_a_tenth() -> None:
    times = np.array([0, 24 * HOUR])
    weights = row_weights(times, np.array([True, False]), ScoreConfig(weight=5.0))
    np.testing.assert_allclose(weights, [0.1 * 0.9 * 5.0, 0.1], rtol=1e-15)


def test_no_rows_no_scores() -> None:
    assert row_weights(np.empty(0, np.int64), np.empty(0, bool), ScoreConfig()).shape == (0,)


def test_off_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"decay: expected a number above 0 to 1, got 0"):
        ScoreConfig(decay=0.0)
