"""Ranking metrics: AUC, and GAUC, the AUC inside each user."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Returns P(score of a positive > score of a negative), ties counting half; NaN if one class is absent.

    labels [N] of 0 and 1, scores [N].
    """
    values, _ = _auc_by_user(labels, scores, np.zeros(np.shape(labels)))
    return float(values[0]) if len(values) else float("nan")


def gauc(labels: npt.ArrayLike, scores: npt.ArrayLike, users: npt.ArrayLike) -> float:
    """Returns the mean AUC of users with both classes, weighted by their impressions; NaN if there is no such user.

    Zhou et al., KDD 2018 (arXiv 1706.06978), section 5.3. labels, scores and users are [N].
    """
    values, impressions = _auc_by_user(labels, scores, users)
    return float(np.average(values, weights=impressions)) if len(values) else float("nan")


def _auc_by_user(
    labels: npt.ArrayLike, scores: npt.ArrayLike, users: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Returns AUC and number of impressions of each user with both classes: Mann and Whitney's U over ranks."""
    positive, values = np.asarray(labels) > 0.5, np.asarray(scores)
    user = np.unique(np.asarray(users), return_inverse=True)[1]
    order = np.lexsort((values, user))
    positive, values, user = positive[order], values[order], user[order]
    # One pass for all users: ranks inside a user, and tied scores share the mean of their ranks.
    size = np.bincount(user)
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (values[1:] != values[:-1])
    first = np.flatnonzero(new)
    ties = np.diff(first, append=len(user))
    ranks = np.repeat(first + 1 + (ties - 1) / 2, ties) - (np.cumsum(size) - size)[user]
    positives = np.bincount(user, weights=positive)
    negatives = size - positives
    above = np.bincount(user, weights=np.where(positive, ranks, 0.0)) - positives * (positives + 1) / 2
    both = (positives > 0) & (negatives > 0)
    return above[both] / (positives[both] * negatives[both]), size[both]
