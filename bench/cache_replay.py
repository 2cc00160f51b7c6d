"""One policy and one capacity over a trace, by the code that serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Literal

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.bench.cache_trace import Trace

Policy = Literal["lru", "gset", "lfu", "sieve", "s3fifo"]
POLICIES: tuple[Policy, ...] = ("lru", "gset", "lfu", "sieve", "s3fifo")
#: Policies whose rows are ordered by a score that decays.
SCORED = frozenset({"gset", "lfu"})


@dataclass(frozen=True)
class Scoring:
    """How scores move: S ← (1-beta)·S + beta·(r·c⁺ + c⁻) an interval.

    interval, label_delay: seconds for a trace with times; without, accesses, and an interval is as many accesses as
    the cache has rows unless it is given. Labels become known in steps of label_delay.
    """

    beta: float = 0.1
    r: float = 3.0
    interval: float | None = None
    label_delay: float | None = None

    def interval_of(self, trace: Trace, rows: int) -> float:
        """Returns the interval in the trace's unit of time for a cache of `rows` rows."""
        return self.interval or (86_400.0 if trace.time is not None else float(rows))

    def delay_of(self, trace: Trace) -> float:
        """Returns the step in which labels become known, in the trace's unit of time."""
        return self.label_delay or (60.0 if trace.time is not None else 1000.0)


@dataclass(frozen=True)
class Replayed:
    """What came of a replay."""

    hits: int
    rows: int  # the cache's capacity
    seconds: float


def capacity_of(rows: int, full: bool) -> int:
    """Returns how many rows a cache asked for `rows` has: sets come whole."""
    return _cache("lru", rows, full, Scoring(), 1.0).capacity_rows


def replay(trace: Trace, policy: Policy, rows: int, full: bool, scoring: Scoring) -> Replayed:
    """Replays `trace` through a cache of `policy` with about `rows` rows: a miss inserts.

    gset sees labels where the trace has them, each once its step of label_delay is over; rows without any score by
    their accesses.
    """
    interval = scoring.interval_of(trace, rows)
    cache = _cache(policy, rows, full, scoring, interval)
    labels = trace.positive if policy == "gset" else None
    clock = trace.time if trace.time is not None else np.arange(len(trace.keys), dtype=np.float64)
    step = scoring.delay_of(trace) if labels is not None else interval if policy in SCORED else np.inf
    hits, begin = 0, perf_counter()
    for first, last in _steps(clock, step, interval):
        cache.set_time(float(clock[first]))
        hits += cache.replay(trace.keys[first:last])
        if labels is not None:
            cache.feedback(trace.keys[first:last], labels[first:last])
    return Replayed(hits, cache.capacity_rows, perf_counter() - begin)


def most_hits(trace: Trace, rows: int) -> Replayed:
    """Returns what Belady's MIN has."""
    begin = perf_counter()
    hits = _kernels.studies.belady(trace.keys, rows)
    return Replayed(hits, rows, perf_counter() - begin)


def _cache(
    policy: Policy, rows: int, full: bool, scoring: Scoring, interval: float
) -> _kernels.RowCache | _kernels.studies.ExactCache:
    if full:
        return _kernels.studies.ExactCache(rows, policy, beta=scoring.beta, r=scoring.r, interval=interval)
    # One number a row: what a policy decides does not depend on how wide rows are. 512 bytes hold any row's share.
    return _kernels.RowCache(
        1, (rows + 4096) * 512, policy, max_rows=rows, beta=scoring.beta, r=scoring.r, interval=interval
    )


def _steps(clock: npt.NDArray[np.float64], step: float, interval: float) -> Iterator[tuple[int, int]]:
    """Yields the runs of accesses within one step of time and one interval."""
    if np.isinf(step):
        yield 0, len(clock)
        return
    changes = (np.diff(np.floor(clock / step)) != 0) | (np.diff(np.floor(clock / interval)) != 0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(clock)]
    yield from pairwise(bounds)
