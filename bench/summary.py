"""Numbers that are read: quantiles of a peer's times, ratios between peers with their spread, errors of its scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
_RESAMPLES = 1000


def describe_times(millis: Times) -> dict[str, Any]:
    """Returns runs, p50, p99, mean and a ladder of quantiles of one peer's timed calls, in milliseconds.

    p99 is interpolated between order statistics: with 30 runs it lies just below the slowest.
    """
    ladder = np.percentile(millis, QUANTILES)
    return {
        "runs": int(millis.size),
        "p50_ms": float(np.percentile(millis, 50)),
        "p99_ms": float(np.percentile(millis, 99)),
        "mean_ms": float(millis.mean()),
        "quantiles_ms": {str(q): float(v) for q, v in zip(QUANTILES, ladder, strict=True)},
    }


def speedups(millis: Mapping[str, Times], seed: int = 0) -> dict[str, dict[str, dict[str, float]]]:
    """Returns [peer][other] → how many times faster `peer` is than `other`.

    `ratio` is the other's p50 over its own. Entry r of every array was measured in round r: `within_rounds` is the
    median of the ratios of single rounds, which a machine that has two speeds moves less. `low` and `high` hold the
    middle 95 % of `ratio` when whole rounds are drawn with replacement (the percentile bootstrap, Efron 1979), so that
    a slow spell of the machine, which all peers share, does not count as spread. Raises ValueError when the arrays
    differ in length.
    """
    lengths = {name: times.size for name, times in millis.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"expected as many rounds for every peer, got {lengths}")
    rounds = max(lengths.values(), default=0)
    drawn = np.random.default_rng(seed).integers(0, rounds, (_RESAMPLES, rounds)) if rounds else np.empty((0, 0), int)
    medians = {name: np.median(times[drawn], axis=1) for name, times in millis.items()}
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, times in millis.items():
        table[name] = {}
        for other in millis:
            if other == name:
                continue
            low, high = np.percentile(medians[other] / medians[name], (2.5, 97.5))
            ratio = float(np.median(millis[other]) / np.median(times))
            within = float(np.median(millis[other] / times))
            table[name][other] = {"ratio": ratio, "low": float(low), "high": float(high), "within_rounds": within}
    return table


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
