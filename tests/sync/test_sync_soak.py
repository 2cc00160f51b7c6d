"""Thousands of versions under scoring threads: every batch is one version's to the bit, and nothing is left behind.

`sync_encoded` says what a version scores without an engine of it. PEPNET_SOAK_SECONDS lets the long test go on.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sync_encoded import FIRST, Encoded

from pepnet_infer import CacheConfig, Engine
from pepnet_infer.backends.create import create_backend
from pepnet_infer.backends.protocol import Backend
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.follower import Follower
from pepnet_infer.sync.logs.directory import DirectoryLog

IDS = 5000  # of each of two tables: 1000 rows a delta
THREADS, BATCH = 2, 64
KEEP = 2
AHEAD = 4  # deltas that the follower may be behind
MEMORY = 0.02


@dataclass
class Backends:
    """Which of the backends that were ever made are still there."""

    made: int = 0
    freed: Counter[int] = field(default_factory=Counter)

    @property
    def alive(self) -> int:
        return self.made - len(self.freed)

    def watch(self, backend: Any) -> None:
        weakref.finalize(backend.model, self.freed.update, (self.made,))  # the packed weights themselves
        self.made += 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Backends:
    counted, create = Backends(), create_backend

    def watched(*arguments: Any, **options: Any) -> Backend:
        backend = create(*arguments, **options)
        counted.watch(backend)
        return backend

    monkeypatch.setattr("pepnet_infer.versions.loading.create_backend", watched)
    return counted


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    return Encoded(IDS)


@pytest.fixture(scope="module")
def encoded_bundle(encoded: Encoded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    folder = tmp_path_factory.mktemp("encoded")
    return write_bundle(encoded.checkpoint(), folder / "bundle", model_version=FIRST, int8_budget=None).path


@dataclass
class Seen:
    """What scoring threads saw."""

    batches: int = 0
    versions: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


class Soak:
    """An engine that follows, the log it follows, and how far the trainer is."""

    def __init__(self, encoded: Encoded, bundle: Path, folder: Path) -> None:
        self.encoded, self.folder, self.bundle = encoded, folder, bundle
        self.log = DirectoryLog(folder / "log", create=True)
        self.step = 0
        # The smallest there is has room for less than half of the rows: others come from what is behind it.
        cache = CacheConfig(policy="lru", capacity=164_160)
        self.engine: Engine | None = Engine.load(bundle, backend="native", threads=1, cache=cache)
        config = FollowConfig(name="soak", wait_s=0.05, keep=KEEP, guard=None)
        self.follower: Follower | None = self.engine.follow(self.log, config)

    def close(self) -> None:
        """Lets go of the engine and all it holds."""
        if self.engine is not None:
            self.engine.close()
        self.engine = self.follower = None

    def run(self, steps: int, seconds: float) -> Seen:
        """Publishes `steps` and more until `seconds` have passed, while threads score. Stops at a wrong score."""
        seen, stop = [Seen() for _ in range(THREADS)], threading.Event()
        threads = [threading.Thread(target=self._score, args=(number, seen[number], stop)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            ends, last = time.monotonic() + seconds, self.step + steps
            while (self.step < last or time.monotonic() < ends) and not stop.is_set():
                self._publish()
            self._wait_for(FIRST + self.step)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        return Seen(
            sum(one.batches for one in seen),
            set().union(*(one.versions for one in seen)),
            [message for one in seen for message in one.wrong],
        )

    def _publish(self) -> None:
        self.step += 1
        delta = self.encoded.write(self.step, self.folder / "made")
        self.log.append(delta)
        _remove(delta)
        self._wait_for(FIRST + self.step - AHEAD)
        if self.step % 200 == 0:
            self.log.append_bundle(self.bundle)  # an old one, so that deltas before it can go
            self.log.trim(keep=2 * AHEAD)

    def _wait_for(self, version: int) -> None:
        assert self.follower is not None
        assert self.follower.wait_for(version, 60), self.follower.stats()

    def _score(self, number: int, seen: Seen, stop: threading.Event) -> None:
        random, engine = np.random.default_rng(number), self.engine
        assert engine is not None
        try:
            while not stop.is_set():
                batch = self.encoded.batch(BATCH, random)
                scores = engine.score(batch)
                expected = self.encoded.expected(scores.model_version, batch)
                if not np.array_equal(scores.values, expected):
                    rows = np.flatnonzero((scores.values != expected).any(axis=1))
                    seen.wrong.append(f"version {scores.model_version}, rows {rows.tolist()} of {BATCH}")
                    stop.set()
                seen.batches += 1
                seen.versions.add(scores.model_version)
        except BaseException as error:
            seen.wrong.append(repr(error))
            stop.set()
            raise


@pytest.fixture
def soak(made: Backends, encoded: Encoded, encoded_bundle: Path, tmp_path: Path) -> Iterator[Soak]:
    soak, before = Soak(encoded, encoded_bundle, tmp_path), sys.getswitchinterval()
    sys.setswitchinterval(2e-4)  # threads take turns more often: more mixed, and less waited for
    yield soak
    sys.setswitchinterval(before)
    soak.close()


def check(soak: Soak, made: Backends, warm: int, steps: int, seconds: float) -> None:
    before = soak.run(warm, 0.0)
    assert before.wrong == []
    resident = _resident()
    seen = soak.run(steps, seconds)
    assert seen.wrong == []
    assert soak.follower is not None
    stats = soak.follower.stats()
    assert (stats["applied"], stats["dense"], stats["refused"], stats["faults"]) == (soak.step, soak.step, {}, 0)
    assert stats["rows"] == soak.step * 2 * IDS // 10 >= (warm + steps) * 1000
    # Not of one version alone, and not of the last one: threads score while versions come.
    assert len(seen.versions) > steps // 30
    assert seen.batches > steps // 2
    after = _resident()
    assert abs(after - resident) <= MEMORY * resident, f"resident: expected about {resident} bytes, got {after}"
    assert made.made == soak.step + 1  # and the bundle's
    assert made.alive <= KEEP + 1
    soak.close()
    gc.collect()
    assert set(made.freed) == set(range(made.made))
    assert set(made.freed.values()) == {1}


def test_every_batch_is_one_version(soak: Soak, made: Backends) -> None:
    check(soak, made, warm=40, steps=80, seconds=0.0)


@pytest.mark.slow
def test_ten_thousand_versions(soak: Soak, made: Backends) -> None:
    check(soak, made, warm=1000, steps=10_000, seconds=float(os.environ.get("PEPNET_SOAK_SECONDS", "0")))


def test_expected_scores_are_those_of_a_bundle(encoded: Encoded, encoded_bundle: Path) -> None:
    with Engine.load(encoded_bundle, backend="native", threads=1) as engine:
        batch = encoded.batch(500, np.random.default_rng(3))
        np.testing.assert_array_equal(engine.score(batch).values, encoded.expected(FIRST, batch))
        assert Bundle.open(encoded_bundle).model_version == FIRST


def _resident() -> int:
    """Returns the bytes of this process that are in memory, after all that is free went back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/self/smaps_rollup: expected a line Rss")


def _remove(path: Path) -> None:
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()
