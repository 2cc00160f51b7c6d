"""The log through one cache: which rows were there when each exposure asked for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.bench.cache.policies import Policy
from pepnet_infer.bench.cache.quality_log import GSET, RequestLog, score_of

#: What an evicted row is when its id comes back: the store's trained row again, or one that has to begin anew.
Evicted = Literal["refilled", "lost"]
EVICTED: tuple[Evicted, ...] = ("refilled", "lost")
_STEP = 64  # exposures between two feeds of labels


@dataclass(frozen=True)
class Setting:
    """A cache of `rows` rows, exact ways."""

    policy: Policy
    rows: int
    evicted: Evicted
    label_delay: float  # seconds
    seed: int = 0


@dataclass(frozen=True)
class ModelVersion:
    """found bool [len(places)]: the cache had a row; trained: it was the trained one."""

    found: npt.NDArray[np.bool_]
    trained: npt.NDArray[np.bool_]


def run(log: RequestLog, setting: Setting) -> ModelVersion:
    """Replays `log`: every exposure looks its rows up, then what it missed is inserted.

    The cached number says what a row is worth: 1 trained, 0 untrained. In gset rows come with the score that training
    had given them by the day before, and labels follow once they are `label_delay` old; in the other policies neither.
    """
    gset = setting.policy == "gset"
    cache = _kernels.studies.ExactCache(
        setting.rows, setting.policy, beta=GSET.beta, r=GSET.r, interval=GSET.interval, seed=setting.seed
    )
    keys = log.keys[log.places]
    values = np.zeros((len(keys), 1), np.float32)
    found = np.zeros(len(keys), np.bool_)
    worth = np.ones(len(log.keys), np.float32)
    scores = _Scores(log) if gset else None
    labelled = 0  # exposures whose labels the cache has seen
    for i in range(len(log.times)):
        first, last = log.offsets[i], log.offsets[i + 1]
        now = float(log.times[i])
        if i % _STEP == 0:
            cache.set_time(now)
            if gset:
                known = int(np.searchsorted(log.times, now - setting.label_delay, "right"))
                known = max(labelled, min(known, i))
                _feed(cache, log, keys, labelled, known)
                labelled = known
        cache.lookup(keys[first:last], values[first:last], found[first:last])
        missed = np.flatnonzero(~found[first:last]) + first
        if missed.size:
            places = log.places[missed]
            given = None if scores is None else scores.at(now)[places]
            cache.write(keys[missed], worth[places], given)
            if setting.evicted == "lost":
                worth[places] = 0.0
    return ModelVersion(found, found & (values[:, 0] == 1.0))


def most_hits(log: RequestLog, rows: int) -> npt.NDArray[np.bool_]:
    """Returns the hits of Belady's MIN on the same accesses, bool [len(places)]."""
    hits = np.zeros(len(log.places), np.bool_)
    _kernels.studies.belady(log.keys[log.places], rows, hits)
    return hits


def _feed(
    cache: _kernels.studies.ExactCache, log: RequestLog, keys: npt.NDArray[np.uint64], begin: int, end: int
) -> None:
    if begin < end:
        counts = np.diff(log.offsets[begin : end + 1])
        cache.feedback(keys[log.offsets[begin] : log.offsets[end]], np.repeat(log.positive[begin:end], counts))


class _Scores:
    """The scores that rows come with: training's, of the exposures before the current interval; from the test days on
    the bundle's. NaN where training had not met the id."""

    def __init__(self, log: RequestLog) -> None:
        self._log = log
        self._number: float | None = None
        self._now = np.empty(0, np.float32)

    def at(self, now: float) -> npt.NDArray[np.float32]:
        number = float(GSET.interval_of(now))
        if number != self._number:
            self._number, log = number, self._log
            if now > log.trained_until:
                scores = GSET.decayed(log.scores, number - GSET.interval_of(log.trained_until))
            else:
                end = int(np.searchsorted(GSET.interval_of(log.times), number))
                part = log.places[: log.offsets[end]]
                scores = score_of(len(log.keys), part, log.offsets[: end + 1], log.times[:end], log.positive[:end], now)
            self._now = np.where(scores > 0, scores, np.nan).astype(np.float32)
        return self._now
