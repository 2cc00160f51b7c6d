"""A follower when something breaks half-way: what it ends with is what a version alone would be."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import well_in_a_child
from sync_world import PATIENCE_S, World, until

from pepnet_infer import CacheConfig, Engine, StoreError, UpdateError
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.encode.features import Features
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.rows.stores.memory import MemoryStore
from pepnet_infer.rows.stores.writable import fill_from
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync import follower as follower_module
from pepnet_infer.sync import updater as updater_module
from pepnet_infer.sync.drift_guard import DriftGuard
from pepnet_infer.sync.follow_config import FollowConfig, Guard
from pepnet_infer.sync.layered_store import LayeredStore
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.transport import BundleHead, Entry
from pepnet_infer.sync.updater import Updater

Batch = dict[str, Any]
Load = Callable[..., Engine]
Batches = Callable[..., Batch]
QUICK = FollowConfig(name="test", wait_s=0.05, retry_s=0.05, guard=None, share=1)
NOTHING: dict[str, Any] = {"dense": False, "changes": {}, "defaults": False}


class Broken:
    """Stands in front of a log or a store; `broken` names the methods that fail."""

    def __init__(self, whole: Any, error: Exception) -> None:
        self._whole, self._error = whole, error
        self.broken: set[str] = set()
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def _ask(self, name: str, *arguments: Any) -> Any:
        self.asked += 1
        if name in self.broken:
            raise self._error
        return getattr(self._whole, name)(*arguments)

    def read(self, after: str, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        return self._ask("read", after, wait_s, most)  # type: ignore[no-any-return]

    def bundles(self) -> Iterator[BundleHead]:
        return self._ask("bundles")  # type: ignore[no-any-return]

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        return self._ask("get_many", keys, dim)  # type: ignore[no-any-return]


@pytest.fixture
def world(toy_checkpoint: Checkpoint, tmp_path: Path) -> World:
    return World(toy_checkpoint, tmp_path)


@pytest.fixture
def log(tmp_path: Path) -> DirectoryLog:
    return DirectoryLog(tmp_path / "log", create=True)


@pytest.fixture
def load(toy_bundle: Path) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(store: Any = None, **options: Any) -> Engine:
        cache = CacheConfig("lru", "1MiB", **options)
        engines.append(Engine.load(toy_bundle, backend="native", threads=1, cache=cache, store=store, check="sizes"))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def filled(toy_bundle: Path) -> MemoryStore:
    store = MemoryStore()
    fill_from(store, Bundle.open(toy_bundle).table_paths)
    return store


def check(world: World, engine: Engine, make: Batches, version: int | None = None) -> None:
    for seed in range(3):
        batch = make(60, seed)
        scores = engine.score(batch)
        assert scores.model_version == (world.version if version is None else version)
        np.testing.assert_array_equal(scores.values, world.scores(scores.model_version, batch))


def once(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, at: int, error: Exception) -> None:
    """Lets the call number `at` fail, and no other."""
    real, calls = getattr(where, name), [0]

    def call(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise error
        return real(*arguments)

    monkeypatch.setattr(where, name, call)


def ends(work: Callable[[], object]) -> bool:
    done = threading.Event()
    threading.Thread(target=lambda: (work(), done.set()), daemon=True).start()
    return done.wait(PATIENCE_S)


def test_a_log_that_lost_its_end_is_read_once(world: World, log: DirectoryLog, load: Load) -> None:
    for _ in range(3):
        log.append(world.step(**NOTHING))
    counted = Broken(log, RuntimeError())
    load().follow(counted, QUICK)  # type: ignore[arg-type]
    shutil.rmtree(log.read("")[-1].path)
    time.sleep(0.2)
    before, begin = counted.asked, time.monotonic()
    time.sleep(0.3)
    assert counted.asked - before < 100 * (time.monotonic() - begin)


def test_a_new_log_with_lower_positions_is_read_to_its_end(
    world: World, log: DirectoryLog, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        log.append(world.step(**NOTHING))
    follower = load().follow(log, QUICK)
    log.path.rename(tmp_path / "gone")  # at once: the follower writes there
    log = DirectoryLog(log.path, create=True)
    real, world.version = time.time_ns, 7
    monkeypatch.setattr(time, "time_ns", lambda: real() - 10**12)
    for _ in range(70):  # more than one `read` returns
        log.append(world.step(**NOTHING))
    assert follower.wait_for(77, PATIENCE_S)


def test_a_rollback_that_the_store_fails_can_be_done_again(
    world: World, log: DirectoryLog, load: Load, filled: MemoryStore, toy_batch: Batches
) -> None:
    store = Broken(filled, StoreError("away"))
    engine = load(store)
    follower = engine.follow(log, QUICK)
    log.append(world.step())
    assert follower.wait_for(8, PATIENCE_S)
    until(lambda: follower.stats()["written_back"] == 1)
    store.broken = {"get_many"}
    with pytest.raises(StoreError, match="away"):
        engine.rollback(7)
    assert (engine.model_version, follower.stats()["rollbacks"]) == (8, 0)
    store.broken = set()
    engine.rollback(7)
    check(world, engine, toy_batch, 7)


def test_rows_that_went_down_half_way_lead_back_all_the_same(
    world: World, log: DirectoryLog, load: Load, toy_batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load()
    follower = engine.follow(log, QUICK)
    once(monkeypatch, LayeredStore, "put", 2, MemoryError("expected memory"))
    log.append(world.step())
    assert follower.wait_for(8, PATIENCE_S)
    until(lambda: follower.stats()["written_back"] == 1)
    assert (follower.stats()["applied"], follower.stats()["faults"]) == (1, 1)
    check(world, engine, toy_batch)
    engine.rollback(7)
    check(world, engine, toy_batch, 7)


def test_an_engine_may_follow_after_a_start_that_failed(
    world: World, log: DirectoryLog, load: Load, toy_batch: Batches
) -> None:
    engine, broken = load(), Broken(log, UpdateError("transport", "away"))
    broken.broken = {"bundles"}
    log.append(world.step())
    for _ in range(2):  # the delta is there, the first time
        with pytest.raises(UpdateError, match="away"):
            engine.follow(broken, QUICK)  # type: ignore[arg-type]
    log.append(world.step())
    engine.follow(log, QUICK)
    check(world, engine, toy_batch)
    assert engine.cache is not None
    assert type(engine.cache.store.below).__name__ == "MmapStore"  # type: ignore[attr-defined]


def test_a_store_that_numbers_its_rows_otherwise(
    world: World, log: DirectoryLog, load: Load, toy_bundle: Path, toy_batch: Batches
) -> None:
    store = MemoryStore()
    fill_from(store, Bundle.open(toy_bundle).table_paths, version=1_700_000_000)
    engine = load(store)
    follower = engine.follow(log, QUICK)
    for _ in range(3):
        log.append(world.step())
        assert follower.wait_for(world.version, PATIENCE_S)
    until(lambda: follower.stats()["written_back"] == 3)
    check(world, engine, toy_batch)


def test_a_bundle_in_the_log_brings_its_own_rows(
    world: World,
    log: DirectoryLog,
    load: Load,
    filled: MemoryStore,
    toy_batch: Batches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower_module, "_BUNDLE_AGAIN_S", 0.1)
    once(monkeypatch, updater_module, "open_rows", 1, StoreError("cache: expected memory, got none"))
    engine = load(filled)
    world.step()
    full = write_bundle(world.checkpoints[8], tmp_path / "full", model_version=8, int8_budget=None)
    log.append_bundle(full.path)
    follower = engine.follow(log, QUICK)
    assert follower.wait_for(8, PATIENCE_S)  # refused once, and tried again
    check(world, engine, toy_batch)
    assert follower.stats()["refused"] == {"bundle": 1}


def test_a_damaged_bundle_is_refused_once_and_deltas_are_followed(world: World, log: DirectoryLog, load: Load) -> None:
    folder = log.path / "bundles" / f"{1:020d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    log.append(world.step(**NOTHING))
    follower = load().follow(log, QUICK)
    log.append(world.step(**NOTHING))
    assert follower.wait_for(9, PATIENCE_S)
    time.sleep(0.3)
    assert (follower.stats()["refused"], follower.stats()["faults"]) == ({"bundle": 1}, 0)


def test_who_holds_a_version_may_close_or_go_back(world: World, log: DirectoryLog, load: Load) -> None:
    engine = load()
    log.append(world.step(**NOTHING))
    engine.follow(log, QUICK)

    def back_and_close() -> None:
        with engine.hold():
            engine.rollback(7)
            log.append(world.step(**NOTHING))
            time.sleep(0.2)  # the follower waits for us
            engine.close()

    assert ends(back_and_close)


def test_a_follower_closed_while_it_catches_up_ends(
    world: World, log: DirectoryLog, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(world.step(**NOTHING))
    engine, real = load(), DirectoryLog.read

    def read(*arguments: Any) -> list[Entry]:
        found = real(*arguments)
        engine.close()
        return found

    monkeypatch.setattr(DirectoryLog, "read", read)
    assert ends(lambda: engine.follow(log, QUICK))


def test_what_failed_on_the_way_does_not_lose_a_delta_that_waited(
    world: World, log: DirectoryLog, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        log.append(world.step(**NOTHING))
    first, second, third = log.read("")
    rounds = [[], [], [first, third], [second]]
    monkeypatch.setattr(log, "read", lambda *_: time.sleep(0.01) or (rounds.pop(0) if rounds else []))
    engine = load()
    once(monkeypatch, Updater, "apply", 3, MemoryError("expected memory"))
    follower = engine.follow(log, QUICK)
    assert follower.wait_for(10, PATIENCE_S)


def test_a_store_that_is_away_while_the_guard_looks_holds_a_delta_up(
    world: World, log: DirectoryLog, load: Load, filled: MemoryStore, toy_batch: Batches
) -> None:
    store = Broken(filled, StoreError("away"))
    engine = load(store, warm=False, on_fault="raise")
    guard = Guard(mean=9.0, psi=99.0, every_s=0.0, least_rows=10)
    follower = engine.follow(log, FollowConfig(name="test", wait_s=0.05, retry_s=0.05, guard=guard))
    engine.score(toy_batch(100))
    assert engine.cache is not None
    for cache in engine.cache.caches.values():
        cache.clear()
    store.broken = {"get_many"}
    log.append(world.step())
    until(lambda: follower.stats()["faults"] > 1)
    assert engine.model_version == 7
    store.broken = set()
    assert follower.wait_for(8, PATIENCE_S)
    assert follower.stats()["refused"] == {}


class Crowded:
    """A lock that nobody gets before four threads have come to it."""

    def __init__(self) -> None:
        self._lock, self._all, self._known = threading.Lock(), threading.Barrier(4), threading.local()

    def __enter__(self) -> None:
        if not hasattr(self._known, "came"):
            self._known.came = True
            self._all.wait(PATIENCE_S)
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def test_the_guard_samples_one_of_the_calls_that_come_at_once(load: Load, toy_batch: Batches) -> None:
    features = load().encode(toy_batch(30))
    guard, made = DriftGuard(Guard(every_s=3600.0)), []

    def make() -> Features:
        made.append(threading.get_ident())
        return features

    guard._lock = Crowded()  # type: ignore[assignment]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(guard.offer, [make] * 4))
    assert (len(made), len(guard._kept)) == (1, 1)


def test_a_child_process_may_follow(world: World, log: DirectoryLog, load: Load, toy_batch: Batches) -> None:
    engine, batch = load(), toy_batch(40)
    follower = engine.follow(log, FollowConfig(name="test", wait_s=0.05, guard=Guard(every_s=0.0)))
    log.append(world.step())
    assert follower.wait_for(8, PATIENCE_S)
    later = world.step()
    expected = world.scores(9, batch)
    assert follower.guard is not None

    def work() -> None:
        with engine.hold():
            engine.score(batch)
        log.append(later)
        engine.follow(log, QUICK)
        scores = engine.score(batch)
        assert scores.model_version == 9
        assert np.array_equal(scores.values, expected)

    with follower.guard.lock, follower.hold():
        well_in_a_child(work)
