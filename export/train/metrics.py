"""Ranking metrics, AUC and GAUC (the AUC inside each user), and a model's by task and domain, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.accuracy import soft_auc

ALL = "all"


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Returns P(score of a positive > score of a negative), ties counting half; NaN if one class is absent.

    labels [N] of 0 and 1, scores [N].
    """
    return soft_auc(np.asarray(labels) > 0.5, scores)


def gauc(labels: npt.ArrayLike, scores: npt.ArrayLike, users: npt.ArrayLike) -> float:
    """Returns the mean AUC of users with both classes, weighted by their impressions; NaN if there is no such user.

    Zhou et al., KDD 2018 (arXiv 1706.06978), section 5.3. labels, scores and users are [N].
    """
    # One pass for all users: Mann and Whitney's U over ranks inside a user, where tied scores share their mean rank.
    values, user = np.asarray(scores), np.unique(np.asarray(users), return_inverse=True)[1]
    order = np.lexsort((values, user))
    positive, values, user = (np.asarray(labels) > 0.5)[order], values[order], user[order]
    size = np.bincount(user)
    new = np.ones(len(user), bool)
    # All NaN are one tie: they come last in the order.
    new[1:] = (user[1:] != user[:-1]) | ((values[1:] != values[:-1]) & ~np.isnan(values[:-1]))
    first = np.flatnonzero(new)
    ties = np.diff(first, append=len(user))
    ranks = np.repeat(first + 1 + (ties - 1) / 2, ties) - (np.cumsum(size) - size)[user]
    positives = np.bincount(user, weights=positive)
    negatives = size - positives
    above = np.bincount(user, weights=np.where(positive, ranks, 0.0)) - positives * (positives + 1) / 2
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return float("nan")
    return float(np.average(above[both] / (positives[both] * negatives[both]), weights=size[both]))


@dataclass(frozen=True)
class Cell:
    """One task in one domain (or `ALL`): what seeds reached there. NaN where a metric is not defined."""

    task: str
    domain: str
    rows: int
    positives: int
    stable: bool  # enough of both classes for an AUC to mean something
    auc: tuple[float, ...]  # per seed
    gauc: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON; a value that is not defined is null."""
        return {**vars(self), "auc": summary(self.auc), "gauc": summary(self.gauc)}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Returns mean, standard deviation (n - 1; null for one seed) and the single values, NaN as null."""
    finite = [v for v in values if math.isfinite(v)]
    return {
        "mean": float(np.mean(finite)) if finite else None,
        "std": float(np.std(finite, ddof=1)) if len(finite) > 1 else None,
        "seeds": [v if math.isfinite(v) else None for v in values],
    }


def evaluate(
    tasks: Sequence[str],
    labels: npt.NDArray[np.float32],
    users: npt.NDArray[Any],
    domains: npt.NDArray[np.integer[Any]],
    names: Sequence[Any],
    scores: Sequence[npt.NDArray[np.float32]],
    min_positives: int,
) -> list[Cell]:
    """Returns the cells of every task, first over all domains, then per domain with rows, largest first.

    Domains of as many rows are in the order of `names`. labels [N, T] of 0 and 1, users [N], domains [N]: places in
    `names`, scores: per seed [N, T]. min_positives: see `Cell.stable`.
    """
    counts = np.bincount(domains, minlength=len(names))
    places = [(ALL, np.ones(len(domains), bool))]
    places += [(str(names[d]), domains == d) for d in np.argsort(-counts, kind="stable") if counts[d]]
    cells = []
    for domain, inside in places:
        for t, task in enumerate(tasks):
            y, u = labels[inside, t], users[inside]
            rows, positives = len(y), int(y.sum())
            stable = min(positives, rows - positives) >= min_positives
            aucs = tuple(auc(y, s[inside, t]) for s in scores)
            gaucs = tuple(gauc(y, s[inside, t], u) for s in scores)
            cells.append(Cell(task, domain, rows, positives, stable, aucs, gaucs))
    return cells
