"""An engine that follows: after every delta it scores, to the bit, what an engine of that version scores."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held_call import call_under_way
from sync_world import PATIENCE_S, World, scored_meanwhile, until

from pepnet_infer import CacheConfig, ClosedError, ConfigError, Engine, UpdateError
from pepnet_infer.backends.native import NativeBackend
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bundle.bundle import Bundle, table_path
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.sync.delta import write_delta
from pepnet_infer.sync.follow_config import FollowConfig, Guard
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.redis import RedisLog
from pepnet_infer.sync.logs.transport import Entry, Transport

Batch = dict[str, Any]
QUICK = FollowConfig(name="test", wait_s=0.05, guard=None, share=1)


@pytest.fixture
def world(toy_checkpoint: Checkpoint, tmp_path: Path) -> World:
    return World(toy_checkpoint, tmp_path)


NAMES = (f"followed{number}" for number in itertools.count())


@pytest.fixture(params=["directory", "redis"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    if request.param == "directory":
        yield DirectoryLog(tmp_path / "log", create=True)
        return
    log = RedisLog(request.getfixturevalue("redis_server").url, next(NAMES), spool=tmp_path / "spool", create=True)
    yield log
    log.close()


@pytest.fixture
def load(toy_bundle: Path) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(policy: str = "lru", **options: Any) -> Engine:
        cache = CacheConfig(policy=policy, capacity=options.pop("capacity", "1MiB"))  # type: ignore[arg-type]
        engines.append(Engine.load(toy_bundle, backend="native", threads=1, cache=cache, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def check(world: World, engine: Engine, batch: Batch, version: int | None = None) -> None:
    scores = engine.score(batch)
    assert scores.model_version == (world.version if version is None else version)
    np.testing.assert_array_equal(scores.values, world.scores(scores.model_version, batch))


@pytest.mark.parametrize("policy", ["lru", "gset", "s3fifo"])
def test_every_version_is_what_a_bundle_of_it_would_be(
    policy: str, world: World, log: Transport, load: Callable[..., Engine], toy_batch: Callable[..., Batch]
) -> None:
    engine = load(policy)
    batches = [toy_batch(80, seed) for seed in range(3)]
    check(world, engine, batches[0])
    follower = engine.follow(log, QUICK)
    for number in range(12):
        log.append(world.step(dense=number % 3 != 1, version=world.version + 1 + number % 2))
        assert follower.wait_for(world.version, PATIENCE_S)
        for batch in batches:
            check(world, engine, batch)
    stats = engine.stats()["sync"]
    assert (stats["applied"], stats["dense"], stats["refused"], stats["lag_s"]) == (12, 8, {}, 0.0)
    assert stats["model_version"] == stats["newest_version"] == world.version == engine.model_version
    assert sum(stats["freshness"]["counts"]) == 12


def test_a_late_follower_and_one_that_restarts_end_where_the_others_are(
    world: World, log: Transport, load: Callable[..., Engine], toy_batch: Callable[..., Batch]
) -> None:
    early, batch = load(), toy_batch(60)
    followed = early.follow(log, QUICK)
    for _ in range(5):
        log.append(world.step())
    late = load("gset")
    late.follow(log, FollowConfig(name="late", wait_s=0.05, guard=None, share=1))
    check(world, late, batch)
    assert late.stats()["sync"]["applied"] == 5
    assert followed.wait_for(world.version, PATIENCE_S)
    check(world, early, batch)


def test_a_call_keeps_its_version_while_others_come(
    world: World, log: Transport, load: Callable[..., Engine], toy_batch: Callable[..., Batch]
) -> None:
    engine, batch = load(), toy_batch(70)
    follower = engine.follow(log, QUICK)
    first = world.version
    with ExitStack() as calls:
        for end in [calls.enter_context(call_under_way(engine, batch)) for _ in range(4)][:3]:
            log.append(world.step())
            assert follower.wait_for(world.version, PATIENCE_S)
            check(world, engine, batch)  # new calls get the new version, through the overlay
            scores = end()
            assert scores.model_version == first
            np.testing.assert_array_equal(scores.values, world.scores(first, batch))
        assert engine.stats()["sync"]["written_back"] == 0
    log.append(world.step())
    assert follower.wait_for(world.version, PATIENCE_S)
    until(lambda: engine.stats()["sync"]["written_back"] == 4)
    for version in range(world.version, first, -1):
        if version == world.version:
            check(world, engine, batch)


def test_rollback_brings_back_every_row(
    world: World, log: Transport, load: Callable[..., Engine], toy_batch: Callable[..., Batch]
) -> None:
    engine, batch = load("gset"), toy_batch(90)
    follower = engine.follow(log, FollowConfig(name="test", wait_s=0.05, guard=None, keep=4))
    with pytest.raises(UpdateError, match="expected one of the versions kept"):
        engine.rollback(world.version - 1)
    for _ in range(6):
        log.append(world.step())
        assert follower.wait_for(world.version, PATIENCE_S)
        check(world, engine, batch)
    newest = world.version
    with pytest.raises(UpdateError, match="expected one of the versions kept"):
        engine.rollback(newest - 5)
    engine.rollback(newest - 3)
    check(world, engine, batch, newest - 3)
    check(world, engine, toy_batch(90, 5), newest - 3)
    engine.rollback(newest - 4)
    check(world, engine, batch, newest - 4)
    # The log goes on from there.
    log.append(world.step(base=newest - 4, version=newest))
    until(lambda: engine.stats()["sync"]["refused"].get("left") == 1)
    check(world, engine, batch, newest - 4)
    log.append(world.step(base=newest - 4, version=newest + 1))
    assert follower.wait_for(newest + 1, PATIENCE_S)
    check(world, engine, batch, newest + 1)
    assert engine.stats()["sync"]["rollbacks"] == 2


def test_each_of_a_process_has_a_name_of_its_own(world: World, log: Transport, load: Callable[..., Engine]) -> None:
    one, other, config = load(), load(), FollowConfig(wait_s=0.05, guard=None, share=1)
    first, _ = one.follow(log, config), other.follow(log, config)
    with first.hold():  # it is behind: what it has not read is not trimmed
        log.append(world.step())
        until(lambda: sorted(progress.model_version for progress in log.progress().values()) == [7, 8])
    assert first.wait_for(8, PATIENCE_S)


def test_a_gap_is_left_by_the_newest_bundle(
    world: World,
    log: Transport,
    load: Callable[..., Engine],
    toy_batch: Callable[..., Batch],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    engine, batch = load(), toy_batch(50)
    world.step()  # never published
    lost = world.version
    bundle = write_bundle(world.checkpoints[lost], tmp_path / "full", model_version=lost)
    log.append(world.step())
    follower = engine.follow(log, QUICK)
    check(world, engine, batch, 7)
    said = "expected a delta on version 7, got one on 8: it waits for those between, or for a bundle"
    assert [said in record.getMessage() for record in caplog.records] == [True]
    log.append_bundle(bundle.path)
    assert follower.wait_for(world.version, PATIENCE_S)
    check(world, engine, batch)
    assert engine.stats()["sync"]["bundles"] == 1
    log.append(world.step())
    assert follower.wait_for(world.version, PATIENCE_S)
    check(world, engine, batch)


class Shuffled:
    """A log whose deltas come in any order, and more than once."""

    def __init__(self, log: Transport, seed: int) -> None:
        self._log, self._random = log, np.random.default_rng(seed)
        self._rounds = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def read(self, after: str, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        if self._rounds:
            return []
        self._rounds += 1
        entries = self._log.read("", 0.0, most)
        return [entries[i] for i in self._random.permutation(len(entries) * 2) % len(entries)]


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_arrival_ends_in_the_same_version(
    seed: int, world: World, log: Transport, load: Callable[..., Engine], toy_batch: Callable[..., Batch]
) -> None:
    engine, batch = load(), toy_batch(50)
    for _ in range(8):
        log.append(world.step())
    engine.follow(Shuffled(log, seed), QUICK)  # type: ignore[arg-type]
    check(world, engine, batch)


def test_a_bad_delta_is_refused_and_the_last_good_version_serves(
    world: World, log: Transport, load: Callable[..., Engine], toy_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    engine, batch = load(), toy_batch(50)
    follower = engine.follow(log, QUICK)
    log.append(world.step())
    assert follower.wait_for(world.version, PATIENCE_S)
    good = world.version
    bad = shutil.copytree(world.step(), tmp_path / "bad")
    file = next((bad / "rows").iterdir())
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    if isinstance(log, RedisLog):  # refuses to carry it
        with pytest.raises(UpdateError, match=r"expected \d+ bytes of sha256"):
            log.append(bad)
        return
    log.append(bad)
    until(lambda: engine.stats()["sync"]["refused"] == {"files": 1})
    check(world, engine, batch, good)
    log.append(world.step(base=good, version=good + 5))
    assert follower.wait_for(good + 5, PATIENCE_S)
    check(world, engine, batch, good + 5)
    assert "expected sha256" in engine.stats()["sync"]["last_refusal"]


def test_the_guard_refuses_weights_that_score_otherwise(
    world: World, log: Transport, load: Callable[..., Engine], toy_batch: Callable[..., Batch]
) -> None:
    engine = load()
    guard = Guard(mean=0.05, psi=0.2, rows=500, least_rows=100, batch_rows=200, every_s=0.0)
    follower = engine.follow(log, FollowConfig(name="test", wait_s=0.05, guard=guard))
    same = dict(world.checkpoints[world.version].dense)
    log.append(world.step(dense=same, changes={}, defaults=False))
    assert follower.wait_for(world.version, PATIENCE_S)
    assert engine.stats()["sync"]["unguarded"] == 1  # nothing was scored yet
    for seed in range(4):
        engine.score(toy_batch(150, seed))
    log.append(
        world.step(dense={name: value * np.float32(1.001) for name, value in same.items()}, changes={}, defaults=False)
    )
    assert follower.wait_for(world.version, PATIENCE_S)
    good = world.version
    moved = {**same, "towers.1.b": same["towers.1.b"] + np.float32(2)}
    log.append(world.step(dense=moved, changes={}, defaults=False))
    until(lambda: engine.stats()["sync"]["refused"] == {"drift": 1})
    check(world, engine, toy_batch(50), good)
    stats = engine.stats()["sync"]
    assert (stats["unguarded"], stats["applied"]) == (1, 2)
    assert "task " in stats["last_refusal"]


def test_onnxruntime_takes_the_graph_that_comes_with_weights(
    world: World, log: Transport, toy_bundle: Path, toy_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    from pepnet_infer.export.bundle.to_onnx import to_onnx
    from pepnet_infer.export.model.network import build_network, load_dense

    batch = toy_batch(40)
    log.append(world.step())  # without a graph
    with Engine.load(toy_bundle, backend="onnxruntime", threads=1, cache=CacheConfig("lru", "1MiB")) as engine:
        follower = engine.follow(log, QUICK)
        assert engine.stats()["sync"]["refused"] == {"dense": 1}
        assert "expected dense.onnx" in engine.stats()["sync"]["last_refusal"]
        assert engine.model_version == 7
        path = world.step(base=7, version=9)
        checkpoint, delta = world.checkpoints[9], world.open(path)
        network = build_network(checkpoint.config, 2)
        load_dense(network, checkpoint.dense)
        graph = to_onnx(network, checkpoint.config, 2).SerializeToString()
        log.append(write_delta(tmp_path / "graph", delta.head, delta.rows, delta.dense, graph))
        assert follower.wait_for(9, PATIENCE_S)
        np.testing.assert_allclose(engine.score(batch).values, world.scores(9, batch), atol=1e-5)


def test_bf16_follows_to_the_bits_of_its_own_kernels(
    world: World, log: Transport, toy_bundle: Path, toy_batch: Callable[..., Batch]
) -> None:
    batch = toy_batch(40)
    log.append(world.step())
    with Engine.load(toy_bundle, precision="bf16", threads=1, cache=CacheConfig("lru", "1MiB")) as engine:
        engine.follow(log, QUICK)
        root, checkpoint = world.payload(world.version), world.checkpoints[world.version]
        measured = Bundle.open(toy_bundle, "sizes").parity
        bundle = Bundle(root, {}, checkpoint.schema, checkpoint.config, world.version, measured, {})
        store = MmapStore({name: table_path(root, name) for name in checkpoint.tables}, checkpoint.schema.table_by_name)
        alone = Engine(bundle, store, NativeBackend(bundle, Settings(precision="bf16", threads=1)))
        np.testing.assert_array_equal(engine.score(batch).values, alone.score(batch).values)
        assert np.abs(engine.score(batch).values - world.scores(world.version, batch)).max() > 0


class ReadOnly:
    """A log that takes nobody's word."""

    def __init__(self, log: Transport) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def acknowledge(self, follower: str, progress: Any) -> None:
        raise UpdateError("transport", "read-only file system")


def test_a_log_that_may_only_be_read_is_followed(
    world: World, log: Transport, load: Callable[..., Engine], toy_batch: Callable[..., Batch]
) -> None:
    engine = load()
    follower = engine.follow(ReadOnly(log), QUICK)  # type: ignore[arg-type]
    log.append(world.step())
    assert follower.wait_for(world.version, PATIENCE_S)
    check(world, engine, toy_batch(20))
    assert "read-only" in engine.stats()["sync"]["last_fault"]
    assert log.progress() == {}


def test_who_cannot_follow_is_told_why(
    toy_bundle: Path, log: Transport, load: Callable[..., Engine], toy_batch: Callable[..., Batch]
) -> None:
    with (
        Engine.load(toy_bundle, cache=None) as engine,
        pytest.raises(UpdateError, match="expected an engine with a cac"),
    ):
        engine.follow(log, QUICK)
    engine = load()
    with pytest.raises(UpdateError, match="expected an engine that follows"):
        engine.rollback(3)
    with pytest.raises(ConfigError, match=r"transport: expected a log, such as DirectoryLog\(path\).*, got str"):
        engine.follow("log")  # type: ignore[arg-type]
    engine.follow(log, QUICK)
    with pytest.raises(UpdateError, match="follows nothing yet"):
        engine.follow(log, QUICK)
    engine.close()
    engine.close()
    with pytest.raises(ClosedError, match="Engine is closed"):
        engine.follow(log, QUICK)
    with pytest.raises(ClosedError, match="Engine is closed"):
        engine.rollback(3)


@pytest.mark.parametrize("log", ["directory"], indirect=True)
def test_scores_of_many_threads_are_each_of_one_version(
    world: World, log: Transport, load: Callable[..., Engine], toy_batch: Callable[..., Batch]
) -> None:
    engine = load(capacity="642KiB")
    follower = engine.follow(log, FollowConfig(name="test", wait_s=0.05, guard=None))
    batches = [toy_batch(40, seed) for seed in range(3)]

    def publish() -> None:
        for number in range(14):
            log.append(world.step(dense=number % 2 == 0))
            assert follower.wait_for(world.version, PATIENCE_S)

    seen = scored_meanwhile(engine, batches, publish)
    versions = {version for _, version, _ in seen}
    assert len(versions) > 3  # how many were seen is the machine's affair
    for number, version, values in seen:
        np.testing.assert_array_equal(values, world.scores(version, batches[number]))
