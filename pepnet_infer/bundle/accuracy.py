"""Scores against float64: what they differ by, what that costs in order, and what each precision is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import BundleError
from pepnet_infer.validation import Positive, convert

Scores = npt.NDArray[np.floating[Any]]
Budget = dict[str, float]

#: Largest difference from float64 that a score in float32 may have.
TOLERANCE = 1e-5
#: The same for our own kernels, whose order of additions is known.
NATIVE_TOLERANCE = 5e-6
#: The worst difference seen times this is what a precision is taken to be off by at most within its domain. In int8,
#: of 300,000 rows of the demo's domain the worst was off by 1.34 times the worst of the 20,000 that export draws, of
#: 14,000 of preset kuaishou by 1.11 times that of 2,300.
MARGIN = 1.5
#: Precision → the most that scores may differ from float64, as a root mean square and at all, and the most that the
#: AUC of a task may lose when rows are ordered by them.
BUDGETS: dict[str, Budget] = {
    "bf16": {"rms": 2e-3, "max_abs": 1e-2, "delta_auc": 1e-4},
    "int8": {"max_abs": 0.1, "delta_auc": 1e-3},
}


@dataclass(frozen=True)
class Difference:
    """What scores [rows, tasks] differ from those in float64 by."""

    rows: int
    max_abs: float
    rms: float
    tasks: tuple[float, ...]  # the largest of each task

    @classmethod
    def of(cls, scores: Scores, expected: Scores) -> Difference:
        """Compares arrays of one shape [rows, tasks], in float64. NaN is a difference of NaN."""
        off = np.abs(scores.astype(np.float64) - expected)
        if off.size == 0:
            return cls(len(off), 0.0, 0.0, (0.0,) * off.shape[1])
        return cls(
            rows=len(off),
            max_abs=float(off.max()),
            rms=float(np.sqrt(np.mean(off**2))),
            tasks=tuple(off.max(axis=0).tolist()),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns rows, max_abs and rms, which `parity.json` has of every set of rows."""
        return {"rows": self.rows, "max_abs": self.max_abs, "rms": self.rms}


def within(
    scores: Scores, expected: Scores, tasks: tuple[str, ...], where: str, tolerance: float = TOLERANCE
) -> Difference:
    """Returns the difference. Raises BundleError naming task and row when a score is off by more, or no number."""
    found = Difference.of(scores, expected)
    if not found.max_abs <= tolerance:
        row, task = np.argwhere(~(np.abs(scores.astype(np.float64) - expected) <= tolerance))[0]
        raise BundleError(
            within=f"{where}: task {tasks[task]!r}",
            expected=f"{expected[row, task]:.9g} within {tolerance:g}",
            got=f"{scores[row, task]:.9g}",
            row=int(row),
        )
    return found


def delta_auc(scores: Scores, expected: Scores, tasks: tuple[str, ...]) -> dict[str, float | None]:
    """Returns by task what ordering rows by `scores` changes of the AUC, `expected` being probabilities of positives.

    None where no pair of rows could be ordered.
    """
    lost = {}
    for place, task in enumerate(tasks):
        p = expected[:, place]
        found = soft_auc(p, scores[:, place]) - soft_auc(p, p)
        lost[task] = None if math.isnan(found) else found
    return lost


def soft_auc(probabilities: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Returns the AUC of `scores` that labels drawn with `probabilities` are expected to give; NaN if there is none.

    Σ_ij p_i·(1 - p_j)·[s_i > s_j] / Σ_ij p_i·(1 - p_j), ties counting half: every row is a positive of weight p and a
    negative of weight 1 - p. No order of the rows has a larger one than that of the probabilities themselves, so the
    difference between the two is what scores that are off cost. Both are [N]; sorts once, in float64.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    _, place = np.unique(np.asarray(scores), return_inverse=True)
    positive, negative = np.bincount(place, weights=p), np.bincount(place, weights=1.0 - p)
    pairs = float(positive.sum() * negative.sum())
    if pairs == 0.0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum()) / pairs


def check_budget(where: str, precision: str, budget: object) -> None:
    """Raises BundleError unless `budget` has the figures of its precision, each a finite number above 0."""
    if precision not in BUDGETS:
        raise BundleError(within=where, expected=" or ".join(BUDGETS), got=repr(precision))
    figures = convert(where, budget, dict[str, Positive], BundleError, precision)
    if sorted(figures) != sorted(expected := BUDGETS[precision]):
        got = ", ".join(sorted(figures)) or "none"
        raise BundleError(within=f"{where}: {precision}", expected=", ".join(expected), got=got)


def excess(budget: Mapping[str, float], figures: Mapping[str, Any]) -> list[str]:
    """Returns what in `figures` is over `budget`, in words; a figure that could not be had is over none."""
    return [
        f"{name} {figures[name]:.2g}, allowed {most:g}"
        for name, most in budget.items()
        if figures[name] is not None and not figures[name] <= most
    ]
