"""Statistics of measured times: quantiles, and ratios between contenders with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]
Ratio = dict[str, float]  # ratio, and low and high: its 95 % interval

_QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
_RESAMPLES = 1000


def describe_times(millis: Times) -> dict[str, Any]:
    """Returns runs, p50, p99, maximum, mean and a ladder of quantiles of timed calls, in milliseconds.

    low and high: the 95 % interval of p50, two of the times in order, by the normal limit of their ranks. p99 is
    interpolated between order statistics: with 30 runs it lies just below the slowest.
    """
    ladder = dict(zip(map(str, _QUANTILES), np.percentile(millis, _QUANTILES).tolist(), strict=True))
    middle, half = millis.size / 2, 0.98 * np.sqrt(millis.size)
    ranks = [max(0, int(middle - half)), min(millis.size - 1, int(middle + half))]
    low, high = np.sort(millis)[ranks].tolist()
    return {
        "runs": int(millis.size),
        "low_ms": low,
        "high_ms": high,
        "p50_ms": ladder["50"],
        "p99_ms": ladder["99"],
        "max_ms": ladder["100"],
        "mean_ms": float(millis.mean()),
        "quantiles_ms": ladder,
    }


def speedups(millis: Mapping[str, Times], seed: int = 0) -> dict[str, dict[str, Ratio]]:
    """Returns [name][other] → how many times faster `name` is than `other`.

    `ratio` is the other's p50 over its own. Entry r of every array was measured in round r: `within_rounds` is the
    median of the ratios of single rounds, which a machine that has two speeds moves less. `low` and `high` hold the
    middle 95 % of `ratio` when whole rounds are drawn with replacement (the percentile bootstrap, Efron 1979), so that
    a slow spell of the machine, which all share, does not count as spread. Raises ValueError when the arrays differ in
    length.
    """
    lengths = {name: times.size for name, times in millis.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"expected as many rounds for every peer, got {lengths}")
    rounds = max(lengths.values(), default=0)
    drawn = np.random.default_rng(seed).integers(0, rounds, (_RESAMPLES, rounds)) if rounds else np.empty((0, 0), int)
    medians = {name: np.median(times[drawn], axis=1) for name, times in millis.items()}
    table: dict[str, dict[str, Ratio]] = {name: {} for name in millis}
    for name, times in millis.items():
        for other in millis.keys() - {name}:
            table[name][other] = {
                **_with_interval(float(np.median(millis[other]) / np.median(times)), medians[other] / medians[name]),
                "within_rounds": float(np.median(millis[other] / times)),
            }
    return table


def p99_ratio(above: Sequence[npt.ArrayLike], below: Sequence[npt.ArrayLike]) -> Ratio:
    """Returns the p99 of all times above over that of all below, given by round, and its middle 95 % over rounds."""

    def quotient(rounds: Sequence[int] | npt.NDArray[np.int64]) -> float:
        high, low = (np.percentile(np.concatenate([of[r] for r in rounds]), 99) for of in (above, below))
        return float(high / low)

    drawn = np.random.default_rng(0).integers(0, len(above), (200, len(above)))
    return _with_interval(quotient(range(len(above))), np.array([quotient(rounds) for rounds in drawn]))


def _with_interval(ratio: float, drawn: npt.NDArray[np.float64]) -> Ratio:
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {"ratio": ratio, "low": float(low), "high": float(high)}
