"""Evaluation of a trained model: AUC and GAUC per task, overall and per domain, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.export.data.dataset import Dataset
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
        return {
            "task": self.task,
            "domain": self.domain,
            "rows": self.rows,
            "positives": self.positives,
            "stable": self.stable,
            "auc": summary(self.auc),
            "gauc": summary(self.gauc),
        }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Returns mean, standard deviation (n - 1; null for one seed) and the single values, NaN as null."""
    finite = [v for v in values if math.isfinite(v)]
    return {
        "mean": float(np.mean(finite)) if finite else None,
        "std": float(np.std(finite, ddof=1)) if len(finite) > 1 else None,
        "seeds": [v if math.isfinite(v) else None for v in values],
    }


def evaluate(dataset: Dataset, scores: Sequence[npt.NDArray[np.float32]], min_positives: int) -> list[Cell]:
    """Returns the cells of every task, first over all domains, then per domain with test rows, largest first.

    scores: per seed [len(dataset.test), T].
    """
    labels, users = dataset.labels[dataset.test], dataset.users[dataset.test]
    domains = dataset.domains[dataset.test]
    counts = np.bincount(domains, minlength=len(dataset.schema.domains))
    places: list[tuple[str, npt.NDArray[np.bool_]]] = [(ALL, np.ones(len(domains), bool))]
    for number in np.argsort(-counts, kind="stable"):
        if counts[number]:
            places.append((str(dataset.schema.domains[number]), domains == number))
    cells = []
    for domain, inside in places:
        for t, task in enumerate(dataset.schema.tasks):
            y, u = labels[inside, t], users[inside]
            positives = int(y.sum())
            cells.append(
                Cell(
                    task=task,
                    domain=domain,
                    rows=len(y),
                    positives=positives,
                    stable=min(positives, len(y) - positives) >= min_positives,
                    auc=tuple(auc(y, s[inside, t]) for s in scores),
                    gauc=tuple(gauc(y, s[inside, t], u) for s in scores),
                )
            )
    return cells
