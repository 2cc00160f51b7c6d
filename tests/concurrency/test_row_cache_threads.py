"""The row cache under threads, through its binding: whole rows, versions that never go back, histories that a register
could have had, and a fork in the middle of it all."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from pepnet_infer import _kernels

IDS = 64
KEYS = np.arange(IDS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
SOAK = float(os.environ.get("PEPNET_SOAK_SECONDS", "0"))
Floats = npt.NDArray[np.float32]
Versions = npt.NDArray[np.uint64]


def rows_of(ids: npt.NDArray[np.int64], versions: Versions, dim: int) -> Floats:
    """Whole numbers up to 127 that say id and version in base 100, and beyond that a function of both and the place."""
    rows = np.empty((len(ids), dim), np.float32)
    rows[:, 0], rows[:, 1] = 127, ids
    for place in range(2, 6):
        rows[:, place] = versions // np.uint64(100 ** (place - 2)) % np.uint64(100)
    places = np.arange(6, dim, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = (versions[:, None] * np.uint64(64) + ids[:, None].astype(np.uint64) + places * np.uint64(0x10001)) * (
            np.uint64(0x9E3779B97F4A7C15)
        )
    rows[:, 6:] = (mixed >> np.uint64(40)) % np.uint64(120)
    return rows


def versions_in(rows: Floats) -> Versions:
    """What the rows say, whether or not they are whole."""
    digits = np.clip(np.nan_to_num(rows[:, 2:6]), 0, 99).astype(np.uint64)
    return digits @ np.array([1, 100, 10_000, 1_000_000], np.uint64)


@dataclass
class Watched:
    """What threads that hammer one cache share."""

    cache: _kernels.RowCache
    evicts: bool
    stop: bool = False
    given: int = 1  # the next version: under the interpreter's lock
    wrong: list[str] = field(default_factory=list)
    read: int = 0
    written: int = 0

    def take(self, count: int) -> Versions:
        self.given += count
        return np.arange(self.given - count, self.given, dtype=np.uint64)

    def write(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self.stop:
            ids, versions = rng.permutation(IDS), self.take(IDS)
            late = rng.random(IDS) < 0.1
            versions[late] -= np.minimum(versions[late] - np.uint64(1), rng.integers(0, 500, late.sum(), np.uint64))
            if rng.random() < 0.05:
                self.cache.erase(KEYS[ids[:4]], versions[:4])
                continue
            # Where rows are evicted, a fill may bring an older one back: that is the flights' to prevent.
            update = self.evicts or bool(rng.random() < 0.8)
            rows = rows_of(ids, versions, self.cache.dim)
            self.written += self.cache.write(KEYS[ids], rows, versions=versions, update=update)

    def reader(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        count, dim = 256, self.cache.dim
        newest = np.zeros(IDS, np.uint64)
        out, outcomes = np.zeros((count, dim), np.float32), np.zeros(count, np.uint8)
        offsets = np.arange(count + 1, dtype=np.int64)
        while not self.stop:
            ids = rng.integers(0, IDS, count)
            if rng.random() < 0.3:  # bags of one
                self.cache.lookup_pool(KEYS[ids], offsets, "mean", out, outcomes)
            else:
                self.cache.lookup(KEYS[ids], out, outcomes)
            there = outcomes == 1
            versions = versions_in(out[there])
            torn = (out[there] != rows_of(ids[there], versions, dim)).any(axis=1)
            if torn.any():
                self.wrong.append(f"torn: {out[there][torn][0]}")
            if (versions < newest[ids[there]]).any():
                self.wrong.append("a version went back")
            np.maximum.at(newest, ids[there], versions)
            self.read += int(there.sum())


def run(jobs: list[Callable[[], None]], until: Callable[[], bool], stop: Callable[[], None]) -> None:
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60 + SOAK
    while not until() and time.monotonic() < deadline:
        time.sleep(0.002)
    stop()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a thread hangs"


CASES = [
    ("lru", "float32", 40, True), ("gset", "float32", 16, False), ("lfu", "float16", 7, True),
    ("sieve", "bfloat16", 64, False), ("s3fifo", "int8", 33, True), ("gset", "int8", 257, True),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "dtype", "dim", "evicts"), CASES)
def test_rows_are_whole_and_versions_never_go_back(
    policy: _kernels.CachePolicy, dtype: str, dim: int, evicts: bool
) -> None:
    cache = _kernels.RowCache(dim, 2 << 20, policy, dtype, max_rows=48 if evicts else 160)
    watched = Watched(cache, evicts)

    def stop() -> None:
        watched.stop = True

    end = time.monotonic() + SOAK / len(CASES)
    jobs = [lambda: watched.write(1), lambda: watched.write(2), lambda: watched.reader(3), lambda: watched.reader(4)]
    run(jobs, lambda: time.monotonic() > end and watched.read > 20_000 and watched.written > 3_000, stop)
    assert not watched.wrong, watched.wrong[:3]
    assert watched.read > 20_000
    assert watched.written > 3_000
    assert (cache.stats()["evicted_policy"] > 0) == evicts


# Linearizability of one id at a time. It is a register that only grows: an update is applied when its version is above
# what is there, and all versions differ. Then a history is linearizable if and only if
#   - a read gives a version that some update, begun before the read ended, was said to have applied;
#   - what a read gives is not below what any update applied or read gave that ended before it began;
#   - an update that was refused met a version above its own: one such was begun before it ended;
#   - an update that was applied met none above its own: no such update or read ended before it began.
# (Order all applied updates by version and put each read behind its update: the four say that this order agrees with
# that of time.)


@dataclass(frozen=True)
class Event:
    begun: int
    ended: int
    key: int
    version: int
    kind: str  # read, applied, refused


def check_history(events: list[Event]) -> None:
    applied = {e.version: e for e in events if e.kind == "applied"}
    tried = {e.version: e for e in events if e.kind != "read"}
    for event in events:
        if event.kind == "read" and event.version:
            assert event.version in applied, f"a row that nobody wrote: {event}"
            assert applied[event.version].begun < event.ended, f"read before it was written: {event}"
        if event.kind == "refused":
            assert any(v > event.version and e.begun < event.ended for v, e in tried.items()), f"refused: {event}"
    floor = 0
    by_end = sorted((e for e in events if e.kind != "refused"), key=lambda e: e.ended)
    at = 0
    for event in sorted((e for e in events if e.kind != "refused"), key=lambda e: e.begun):
        while at < len(by_end) and by_end[at].ended < event.begun:
            floor = max(floor, by_end[at].version)
            at += 1
        assert event.version >= floor, f"{event} after {floor} was known"


def recorded(cache: _kernels.RowCache, keys: Versions, operations: int, threads: int) -> list[Event]:
    history: list[list[Event]] = [[] for _ in range(threads)]
    barrier = threading.Barrier(threads)
    dim = cache.dim

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        out, outcomes, results = np.zeros((4, dim), np.float32), np.zeros(4, np.uint8), np.zeros(4, np.uint8)
        barrier.wait()
        for step in range(operations):
            ids = rng.permutation(len(keys))[:4]
            if rng.random() < 0.5:
                # Versions of their own, near those of the others: many are refused.
                base = max(1, step * 10 + int(rng.integers(-60, 10)))
                versions = np.full(4, base * threads + number, np.uint64)
                begun = time.perf_counter_ns()
                cache.write(keys[ids], rows_of(ids, versions, dim), versions=versions, update=True, results=results)
                ended = time.perf_counter_ns()
                kinds = ["applied" if r in (1, 2) else "refused" for r in results]
            else:
                begun = time.perf_counter_ns()
                cache.lookup(keys[ids], out, outcomes)
                ended = time.perf_counter_ns()
                versions = np.where(outcomes == 1, versions_in(out), np.uint64(0))
                kinds = ["read"] * 4
            history[number] += [
                Event(begun, ended, int(i), int(v), k) for i, v, k in zip(ids, versions, kinds, strict=True)
            ]

    jobs = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    return [event for events in history for event in events]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("policy", ["lru", "gset", "s3fifo"])
def test_histories_of_one_id_are_linearizable(policy: _kernels.CachePolicy, full: bool) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        cache = _kernels.RowCache(8, 1 << 20, policy, full=full, max_rows=160)
        events = recorded(cache, KEYS[:6], 400, 4)
    finally:
        sys.setswitchinterval(interval)
    for key in range(6):
        mine = [event for event in events if event.key == key]
        once: dict[int, Event] = {}
        history = []
        for event in sorted(mine, key=lambda e: e.begun):
            # A thread tries the same version twice: the second time it must be refused, which is checked here.
            if event.kind != "read" and event.version in once:
                assert event.kind == "refused", event
                continue
            if event.kind != "read":
                once[event.version] = event
            history.append(event)
        check_history(history)
        overlapping = sum(a.ended > b.begun for a, b in itertools.pairwise(history))
        assert {event.kind for event in history} == {"read", "applied", "refused"}
        assert overlapping > 0 or os.cpu_count() == 1


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


FORKING = """
import os, sys, threading, time
import numpy as np
from pepnet_infer import _kernels as k
rules = [{"table": 0, "share": 0.5}]
cache = k.RowCache(8, 1 << 20, sys.argv[1], max_rows=4000, fields=rules)
ids = np.arange(8000, dtype=np.uint64)
ones = np.ones((8000, 8), np.float32)
stop = False
def use(which):
    out = np.zeros((8000, 8), np.float32)
    outcomes = np.zeros(8000, np.uint8)
    if which == 0:
        cache.write(ids, ones, versions=ids, update=False)
    elif which == 1:
        cache.lookup(ids, out, outcomes)
        assert (out[outcomes == 1] == 1).all()
    else:
        cache.erase(ids[:160], ids[:160])
        cache.part(0)
def work(which):
    while not stop:
        use(which)
threads = [threading.Thread(target=work, args=(n,)) for n in (0, 1, 0, 1, 2)]
for t in threads:
    t.start()
time.sleep(0.02)
for _ in range(6):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for which in (0, 1, 2, 1):
                use(which)
            stats = cache.stats()
            there = sum(len(cache.part(i)["keys"]) for i in range(cache.parts))
            assert there == stats["rows"] + stats["negatives"] + stats["tombstones"] > 0, (there, stats)
            code = 0
        finally:
            os._exit(code)
    until = time.monotonic() + 10
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > until:
            os.kill(child, 9)
            os.waitpid(child, 0)
            status = "hangs"
            break
        time.sleep(0.001)
    print("child", status)
stop = True
for t in threads:
    t.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("policy", ["lru", "s3fifo"])
def test_a_child_forked_amid_reads_and_writes_uses_the_cache(policy: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, policy],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, signal.Signals(-ran.returncode) if ran.returncode < 0 else ran.stderr
    assert ran.stdout.split("\n")[:-1] == ["child 0"] * 6, ran.stdout + ran.stderr
