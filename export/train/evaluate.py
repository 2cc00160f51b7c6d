"""Evaluation of a trained model: AUC and GAUC per task, overall and per domain, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.export.train.metrics import auc, gauc

ALL = "all"


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
    domains: npt.NDArray[Any],
    scores: Sequence[npt.NDArray[np.float32]],
    min_positives: int,
) -> list[Cell]:
    """Returns the cells of every task, first over all domains, then per domain, largest first.

    labels [N, T] of 0 and 1, users and domains [N], scores: per seed [N, T]. min_positives: see `Cell.stable`.
    """
    names, counts = np.unique(domains, return_counts=True)
    places = [(ALL, np.ones(len(domains), bool))]
    places += [(str(name), domains == name) for name in names[np.argsort(-counts, kind="stable")]]
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
