"""Ranking metrics: AUC, and GAUC, the AUC inside each user."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Returns P(score of a positive > score of a negative), ties counting half; NaN if one class is absent.

    Mann and Whitney's U over ranks in float64. labels [N] of 0 and 1, scores [N].
    """
    positive = np.asarray(labels) > 0.5
    positives = int(positive.sum())
    negatives = positive.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, place, count = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ends = np.cumsum(count, dtype=np.float64)
    ranks = (ends - (count - 1) / 2)[place]  # tied scores share the mean of their ranks
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def gauc(labels: npt.ArrayLike, scores: npt.ArrayLike, users: npt.ArrayLike) -> float:
    """Returns the mean AUC of users with both classes, weighted by their impressions; NaN if there is no such user.

    Zhou et al., KDD 2018 (arXiv 1706.06978), section 5.3. labels, scores and users are [N].
    """
    positive = np.asarray(labels) > 0.5
    values = np.asarray(scores)
    _, user = np.unique(np.asarray(users), return_inverse=True)
    if positive.size == 0:
        return float("nan")
    order = np.lexsort((values, user))
    positive, values, user = positive[order], values[order], user[order]
    # One pass for all users: ranks inside a user, ties sharing their mean rank.
    size = np.bincount(user)
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    new = np.concatenate([[True], (user[1:] != user[:-1]) | (values[1:] != values[:-1])])
    first = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    length = np.diff(np.concatenate([first, [positive.size]]))
    ranks = (first + 1 + (length - 1) / 2)[run] - start[user]
    positives = np.bincount(user, weights=positive)
    negatives = size - positives
    above = np.bincount(user, weights=np.where(positive, ranks, 0.0)) - positives * (positives + 1) / 2
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return float("nan")
    per_user = above[both] / (positives[both] * negatives[both])
    return float(np.average(per_user, weights=size[both]))
