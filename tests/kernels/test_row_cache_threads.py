"""The row cache under threads, through its binding: rows are whole and versions never go back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from pooled_lookup import look_up_bags

from pepnet_infer import _kernels

pytestmark = pytest.mark.concurrency

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
                look_up_bags(self.cache, KEYS[ids], offsets, "mean", out, outcomes)
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
