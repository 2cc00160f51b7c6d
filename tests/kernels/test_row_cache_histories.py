"""Recorded histories of the row cache under threads are linearizable, id by id.

An id is a register that only grows: an update is applied when its version is above what is there, and all versions
differ. Then a history is linearizable if and only if
  - a read gives a version that some update, begun before the read ended, was said to have applied;
  - what a read gives is not below what any update applied or read gave that ended before it began;
  - an update that was refused met a version above its own: one such was begun before it ended;
  - an update that was applied met none above its own: no such update or read ended before it began.
(Order all applied updates by version and put each read behind its update: the four say that this order agrees with
that of time.)
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from pepnet_infer import _kernels

pytestmark = pytest.mark.concurrency

KEYS = np.arange(6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
OTHERS = 1200
AT = np.array([20, 410, 780, 1190])  # where the keys stand among others, so that calls last and overlap
Versions = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Event:
    begun: int
    ended: int
    key: int
    version: int
    kind: str  # read, applied, refused


def check_history(events: list[Event]) -> None:
    applied = {e.version: e for e in events if e.kind == "applied"}
    for event in events:
        if event.kind == "read" and event.version:
            assert event.version in applied, f"a row that nobody wrote: {event}"
            assert applied[event.version].begun < event.ended, f"read before it was written: {event}"
        if event.kind == "refused":
            assert any(v > event.version and e.begun < event.ended for v, e in applied.items()), f"refused: {event}"
    floor = 0
    by_end = sorted((e for e in events if e.kind != "refused"), key=lambda e: e.ended)
    at = 0
    for event in sorted((e for e in events if e.kind != "refused"), key=lambda e: e.begun):
        while at < len(by_end) and by_end[at].ended < event.begun:
            floor = max(floor, by_end[at].version)
            at += 1
        assert event.version >= floor, f"{event} after {floor} was known"


@dataclass
class Call:
    """One call, made up before the threads start, so that they do little but call."""

    ids: npt.NDArray[np.int64]
    wanted: Versions
    versions: Versions | None  # of an update
    rows: npt.NDArray[np.float32]  # given or got
    said: npt.NDArray[np.uint8]
    begun: int = 0
    ended: int = 0

    def events(self) -> list[Event]:
        said, rows = self.said[AT], self.rows[AT]
        if self.versions is None:
            found = np.where(said == 1, rows[:, 0], 0).astype(np.int64).tolist()
            assert (rows[said == 1] == rows[said == 1][:, :1]).all()
            kinds = ["read"] * len(AT)
        else:
            found, kinds = self.versions[AT].tolist(), ["applied" if r in (1, 2) else "refused" for r in said]
        return [
            Event(self.begun, self.ended, key, version, kind)
            for key, version, kind in zip(self.ids.tolist(), found, kinds, strict=True)
        ]


def planned(rng: np.random.Generator, step: int, own: int, dim: int) -> Call:
    ids = rng.permutation(len(KEYS))[: len(AT)]
    wanted = np.arange(OTHERS, dtype=np.uint64) + np.uint64(1 << 50)
    wanted[AT] = KEYS[ids]
    rows, said = np.zeros((OTHERS, dim), np.float32), np.zeros(OTHERS, np.uint8)
    if rng.random() < 0.5:
        return Call(ids, wanted, None, rows, said)
    # Versions of a thread's own, near those of the others: many are refused.
    versions = np.full(OTHERS, max(1, step * 10 + int(rng.integers(-60, 10))) * 4 + own, np.uint64)
    rows[:] = versions[:, None]  # exact: below 2^24
    return Call(ids, wanted, versions, rows, said)


def recorded(cache: _kernels.RowCache, seed: int, operations: int) -> list[Event]:
    rng = np.random.default_rng(seed)
    plans = [[planned(rng, step, own, cache.dim) for step in range(operations)] for own in range(4)]
    barrier = threading.Barrier(len(plans), timeout=60)

    def work(plan: list[Call]) -> None:
        barrier.wait()
        for call in plan:
            call.begun = time.perf_counter_ns()
            if call.versions is None:
                cache.lookup(call.wanted, call.rows, call.said)
            else:
                cache.write(call.wanted, call.rows, versions=call.versions, update=True, results=call.said)
            call.ended = time.perf_counter_ns()

    with ThreadPoolExecutor(len(plans)) as pool:
        list(pool.map(work, plans))
    return [event for plan in plans for call in plan for event in call.events()]


def checked(events: list[Event]) -> int:
    """How many neighbours of the histories overlap."""
    overlapping = 0
    for key in range(len(KEYS)):
        once: set[int] = set()
        history = []
        for event in sorted((e for e in events if e.key == key), key=lambda e: e.begun):
            # A thread may try a version twice: the second time it must be refused.
            if event.kind != "read" and event.version in once:
                assert event.kind == "refused", event
                continue
            if event.kind != "read":
                once.add(event.version)
            history.append(event)
        check_history(history)
        assert {event.kind for event in history} == {"read", "applied", "refused"}
        overlapping += sum(a.ended > b.begun for a, b in itertools.pairwise(history))
    return overlapping


@pytest.mark.parametrize("policy", ["lru", "gset", "s3fifo"])
def test_histories_of_one_id_are_linearizable(policy: _kernels.CachePolicy) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        overlapping = 0
        for seed in range(20):
            cache = _kernels.RowCache(4, 1 << 20, policy, max_rows=4000)
            overlapping += checked(recorded(cache, seed, 150))
            if overlapping > 50:
                break
        assert overlapping > 50
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    "events",
    [
        [Event(0, 1, 0, 5, "applied"), Event(2, 3, 0, 0, "read")],
        [Event(0, 1, 0, 5, "applied"), Event(2, 3, 0, 6, "read")],
        [Event(0, 9, 0, 5, "applied"), Event(1, 2, 0, 5, "read"), Event(3, 4, 0, 0, "read")],
        [Event(0, 1, 0, 5, "applied"), Event(2, 3, 0, 4, "applied")],
        [Event(0, 1, 0, 5, "applied"), Event(2, 3, 0, 6, "refused")],
        [Event(3, 4, 0, 5, "applied"), Event(1, 2, 0, 5, "read")],
    ],
)
def test_the_check_of_histories_sees_what_is_wrong(events: list[Event]) -> None:
    with pytest.raises(AssertionError):
        check_history(events)
