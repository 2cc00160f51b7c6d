"""The AUC of rows whose labels are probabilities, against sums over all pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pepnet_infer.bundle.accuracy import soft_auc


def brute_force(p: np.ndarray, s: np.ndarray) -> float:
    over = (s[:, None] > s[None, :]) + 0.5 * (s[:, None] == s[None, :])
    pairs = p[:, None] * (1 - p[None, :])
    return float((pairs * over).sum() / pairs.sum())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 300])
def test_soft_auc_is_that_of_rows_counted_twice(rows: int, ties: bool) -> None:
    rng = np.random.default_rng(rows)
    p, s = rng.random(rows), rng.standard_normal(rows)
    if ties:
        s = np.round(s)
    labels, weights = np.repeat([1, 0], rows), np.concatenate([p, 1 - p])
    expected = roc_auc_score(labels, np.concatenate([s, s]), sample_weight=weights)
    assert soft_auc(p, s) == pytest.approx(expected, abs=1e-12)
    assert soft_auc(p, s) == pytest.approx(brute_force(p, s), abs=1e-12)
    assert soft_auc(p, s) <= soft_auc(p, p) + 1e-15, "no order is better than that of the probabilities"


def test_soft_auc_of_certain_labels_is_auc() -> None:
    rng = np.random.default_rng(0)
    labels, s = rng.integers(0, 2, 500), np.round(rng.standard_normal(500), 1)
    assert soft_auc(labels, s) == pytest.approx(roc_auc_score(labels, s), abs=1e-12)
    assert soft_auc([0.3, 0.3, 0.3], [1.0, 1.0, 1.0]) == 0.5
    assert math.isnan(soft_auc([1.0, 1.0], [0.1, 0.2]))
    assert math.isnan(soft_auc([], []))
