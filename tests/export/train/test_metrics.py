"""AUC and GAUC against scikit-learn and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pepnet_infer.export.train.metrics import ALL, auc, evaluate, gauc


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [2, 7, 10**9])  # many ties, some, none
def test_auc_is_scikit_learns(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 500)
    scores = rng.integers(0, levels, 500) / levels + 0.1 * labels * (levels > 7)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_by_counting_pairs() -> None:
    labels, scores = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.9, 0.2, 0.1, 0.5])
    pairs = [(p, n) for p in scores[labels == 1] for n in scores[labels == 0]]
    wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs)
    assert auc(labels, scores) == pytest.approx(wins / len(pairs))


def test_scores_that_are_not_numbers_are_one_tie_above_all() -> None:
    nan = math.nan
    assert auc([1, 0, 1, 0], [nan] * 4) == gauc([1, 0, 0, 1], [nan] * 4, [1, 1, 2, 2]) == 0.5
    assert auc([1, 0, 1, 0], [nan, nan, 0.5, 0.6]) == 0.375


def test_auc_keeps_its_precision_on_many_float32_scores() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(300_000) < 0.3
    scores = (0.5 + 1e-3 * rng.normal(size=300_000) + 1e-4 * labels).astype(np.float32)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_auc_of_one_class_is_not_defined(labels: list[int]) -> None:
    assert math.isnan(auc(labels, np.arange(len(labels))))


@pytest.mark.parametrize("levels", [3, 10**9])
def test_gauc_is_the_weighted_mean_of_scikit_learns(levels: int) -> None:
    rng = np.random.default_rng(1)
    users = rng.integers(0, 60, 900) * 7 + 3
    labels = (rng.random(900) < 0.3).astype(int)
    scores = rng.integers(0, levels, 900) / levels
    values, weights = [], []
    for user in np.unique(users):
        mine = users == user
        if 0 < labels[mine].sum() < mine.sum():
            values.append(roc_auc_score(labels[mine], scores[mine]))
            weights.append(mine.sum())
    assert gauc(labels, scores, users) == pytest.approx(np.average(values, weights=weights), abs=1e-12)


def test_gauc_leaves_out_users_of_one_class() -> None:
    labels, users = [1, 0, 1, 1, 0], [1, 1, 2, 2, 3]
    assert gauc(labels, [0.9, 0.1, 0.5, 0.4, 0.99], users) == 1.0
    assert math.isnan(gauc([1, 1, 0], [0.3, 0.2, 0.1], [1, 1, 2]))
    assert math.isnan(gauc([], [], []))


def test_domains_of_as_many_rows_are_in_the_order_of_their_names() -> None:
    labels, users, scores = np.eye(5, 1, dtype=np.float32), np.zeros(5, int), np.zeros((5, 1), np.float32)
    cells = evaluate(["click"], labels, users, np.array([0, 1, 3, 1, 0]), ["b", "a", "none", "c"], [scores], 1)
    assert [(cell.domain, cell.rows) for cell in cells] == [(ALL, 5), ("b", 2), ("a", 2), ("c", 1)]
