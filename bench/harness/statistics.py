"""Statistics of measured times: quantiles, ratios between contenders with intervals, errors of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]
Ratio = dict[str, float]  # ratio, and low and high: its 95 % interval

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
_RESAMPLES = 1000


def describe_times(millis: Times) -> dict[str, Any]:
    """Returns runs, p50, p99, mean and a ladder of quantiles of timed calls, in milliseconds.

    p99 is interpolated between order statistics: with 30 runs it lies just below the slowest.
    """
    ladder = dict(zip(map(str, QUANTILES), np.percentile(millis, QUANTILES).tolist(), strict=True))
    common = {"p50_ms": ladder["50"], "p99_ms": ladder["99"], "mean_ms": float(millis.mean())}
    return {"runs": int(millis.size), **common, "quantiles_ms": ladder}


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
            low, high = np.percentile(medians[other] / medians[name], (2.5, 97.5))
            ratio = float(np.median(millis[other]) / np.median(times))
            within = float(np.median(millis[other] / times))
            table[name][other] = {"ratio": ratio, "low": float(low), "high": float(high), "within_rounds": within}
    return table


def p99_ratio(above: Sequence[npt.ArrayLike], below: Sequence[npt.ArrayLike], seed: int = 0) -> Ratio:
    """Returns the p99 of all times above over that of all below, given by round, and its middle 95 % over rounds."""

    def p99(times: Sequence[npt.ArrayLike], rounds: Sequence[int] | npt.NDArray[np.int64]) -> float:
        return float(np.percentile(np.concatenate([times[r] for r in rounds]), 99))

    rounds = len(above)
    drawn = np.random.default_rng(seed).integers(0, rounds, (200, rounds))
    low, high = np.percentile([p99(above, row) / p99(below, row) for row in drawn], (2.5, 97.5))
    return {"ratio": p99(above, range(rounds)) / p99(below, range(rounds)), "low": float(low), "high": float(high)}


def median_interval(values: Times) -> tuple[float, float]:
    """Returns the two values between which the median lies with 95 % confidence: order statistics, n/2 ∓ 0.98·√n.

    The normal approximation of the binomial; Conover, "Practical Nonparametric Statistics".
    """
    ordered, n = np.sort(values), values.size
    reach = 0.98 * math.sqrt(n)
    low, high = math.floor(n / 2 - reach), math.ceil(n / 2 + reach)
    return float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)])


def errors(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.float64]) -> dict[str, float]:
    """Returns the largest absolute and the root mean square difference of scores from `truth`, both [B, T].

    Raises ValueError for another shape than the truth's and for scores that are not finite.
    """
    if scores.shape != truth.shape:
        raise ValueError(f"expected scores {list(truth.shape)}, got {list(scores.shape)}")
    if not np.isfinite(scores).all():
        raise ValueError(f"expected finite scores, got {int((~np.isfinite(scores)).sum())} that are not")
    off = scores.astype(np.float64) - truth
    return {"max_abs": float(np.abs(off).max()), "rms": float(np.sqrt(np.mean(off * off)))}
