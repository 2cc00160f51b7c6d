"""Whatever lies in a log: a follower refuses what is no delta, counts it, and goes on to what comes after it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bad_entries
import numpy as np
import pytest
from bad_entries import FOREIGN, FOREIGN_FIELDS, forged, mutated, put, put_fields, put_foreign
from redis import Redis
from sync_world import PATIENCE_S, World, until

from pepnet_infer import CacheConfig, ConfigError, Engine, StoreError, UpdateError, throttled_warnings
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import BundleError, PepnetError
from pepnet_infer.export.publish.publisher import Publisher
from pepnet_infer.storage import listing
from pepnet_infer.sync import follower as follower_module
from pepnet_infer.sync.delta import open_delta
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs import directory as directory_log
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.redis import RedisLog
from pepnet_infer.versions.model_version import ModelVersion, Versions

Log = DirectoryLog | RedisLog
NAMES = (f"entries{number}" for number in itertools.count())
QUICK = FollowConfig(name="test", wait_s=0.05, retry_s=0.05, guard=None, share=1)
NOTHING: dict[str, Any] = {"dense": False, "changes": {}, "defaults": False}
BASE = 7


@pytest.fixture
def world(toy_checkpoint: Checkpoint, tmp_path: Path) -> World:
    return World(toy_checkpoint, tmp_path)


@pytest.fixture(params=["directory", "redis"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    if request.param == "directory":
        yield DirectoryLog(tmp_path / "log", create=True)
        return
    url = request.getfixturevalue("redis_server").url
    with RedisLog(url, next(NAMES), spool=tmp_path / "spool", create=True) as opened:
        yield opened


@pytest.fixture
def load(toy_bundle: Path) -> Iterator[Callable[[], Engine]]:
    engines: list[Engine] = []

    def make() -> Engine:
        cache = CacheConfig("lru", "1MiB")
        engines.append(Engine.load(toy_bundle, backend="native", threads=1, cache=cache, check="sizes"))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def sync(engine: Engine) -> dict[str, Any]:
    return engine.stats()["sync"]  # type: ignore[no-any-return]


def check(world: World, engine: Engine, batch: Any, version: int) -> None:
    scores = engine.score(batch)
    assert scores.model_version == version
    np.testing.assert_array_equal(scores.values, world.scores(version, batch))


def spoil(log: Log, base: int, schema_hash: str) -> int:
    """Puts everything that is bad into a log, and returns how much that is."""
    bad = forged(base, schema_hash)
    for files in bad.values():
        put(log, files)
    if isinstance(log, RedisLog):
        for fields in FOREIGN_FIELDS.values():
            put_fields(log, fields)
        return len(bad) + len(FOREIGN_FIELDS)
    for what in FOREIGN:
        put_foreign(log, "deltas", what)
    return len(bad) + len(FOREIGN)


def test_a_follower_goes_on_after_every_bad_entry(
    log: Log, world: World, load: Callable[[], Engine], toy_batch: Callable[..., Any], toy_bundle: Path, tmp_path: Path
) -> None:
    engine, batch, schema_hash = load(), toy_batch(30), world.checkpoints[BASE].schema.hash
    first = world.step()
    log.append(first)
    assert log.last_delta() is not None
    follower = engine.follow(log, QUICK)
    count = spoil(log, 8, schema_hash)
    log.append(world.step())  # beside all that
    assert follower.wait_for(9, PATIENCE_S)
    check(world, engine, batch, 9)
    stats = sync(engine)
    assert sum(stats["refused"].values()) == count
    assert {"internal", "unreadable", "memory", "failed"}.isdisjoint(stats["refused"])
    assert (stats["faults"], stats["following"], stats["lag_s"]) == (0, True, 0.0)
    last = log.last_delta()
    assert last is not None
    assert last[1].model_version == 9
    # A restart reads all of it again, and a publisher goes on from it.
    again = load()
    again.follow(log, QUICK)
    check(world, again, batch, 9)
    assert sum(sync(again)["refused"].values()) == count
    assert Publisher(log, _bundle_of(world, 9, tmp_path)).model_version == 9
    # A bundle repairs what damage there may be, and with it all of that goes.
    log.append_bundle(_bundle_of(world, 9, tmp_path))
    assert log.trim(0) > 2
    assert log.read("") == []
    log.append(world.step(base=9, version=12))
    assert follower.wait_for(12, PATIENCE_S)


def test_a_newer_bundle_takes_the_place_of_what_was_refused(
    log: Log, world: World, load: Callable[[], Engine], toy_batch: Callable[..., Any], tmp_path: Path
) -> None:
    engine = load()
    follower = engine.follow(log, QUICK)
    put(log, forged(BASE, world.checkpoints[BASE].schema.hash)["the last version, without its rows"])
    until(lambda: bool(sync(engine)["refused"]))
    until(lambda: sync(engine)["lag_s"] > 0)  # behind what was published, as far as anybody knows
    assert log.last_delta() is None  # a publisher is not: nobody can have gone on from that
    assert Publisher(log, _bundle_of(world, BASE, tmp_path)).model_version == BASE
    world.step()
    log.append_bundle(_bundle_of(world, 8, tmp_path))
    assert follower.wait_for(8, PATIENCE_S)
    until(lambda: sync(engine)["bundles"] == 1)  # counted after the version is there
    until(lambda: (sync(engine)["lag_s"], sync(engine)["newest_version"]) == (0.0, 8))
    check(world, engine, toy_batch(20), 8)


def test_bad_bundles_are_passed_over(log: Log, world: World, load: Callable[[], Engine], tmp_path: Path) -> None:
    world.step()
    good = log.append_bundle(_bundle_of(world, 8, tmp_path))
    if isinstance(log, DirectoryLog):
        for what in FOREIGN:
            put_foreign(log, "bundles", what)
        count = len(FOREIGN)
    else:
        listed: list[Any] = ["absurd", "x y z", good, b"\xff"]
        listed += [f"{good} ab 1 {version}" for version in (-1, 2**70, "9" * 5000)]
        with Redis.from_url(log.url) as client:
            client.rpush(f"{log.prefix}bundles", *listed)
        count = len(listed)
    engine = load()
    engine.follow(log, QUICK)
    assert engine.model_version == 8
    assert sum(sync(engine)["refused"].values()) == count
    assert log.last_bundle() == (good, 8)
    log.append(world.step())
    assert log.trim(0) == 0 if isinstance(log, DirectoryLog) else log.trim(0) >= 0
    assert log.last_bundle() == (good, 8)
    log.append_bundle(_bundle_of(world, 9, tmp_path))
    assert log.trim(0) > 1
    assert [head.model_version for head in log.bundles()] == [9]


def test_deltas_with_random_changes_lead_to_refusals_alone(
    log: Log, world: World, load: Callable[[], Engine], toy_batch: Callable[..., Any]
) -> None:
    chance = random.Random(11)
    made = world.step()
    good = {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    engine = load()
    count = 120
    for _ in range(count):
        put(log, mutated(chance, good))
    log.append(made)
    engine.follow(log, QUICK)
    stats = sync(engine)
    assert stats["faults"] == 0
    assert sum(stats["refused"].values()) + stats["applied"] + stats["skipped"] + stats["gaps"] >= count
    assert engine.model_version >= 8
    assert np.isfinite(engine.score(toy_batch(20)).values).all()


@pytest.mark.parametrize("seed", range(4))
def test_changed_deltas_are_opened_or_refused(seed: int, world: World, tmp_path: Path) -> None:
    """What no log is needed for: more of them."""
    chance = random.Random(seed)
    made, checkpoint = world.step(), world.checkpoints[BASE]
    good = {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    for _ in range(100):
        root = bad_entries.write(tmp_path / "entry", mutated(chance, good))
        with contextlib.suppress(UpdateError):
            open_delta(root, checkpoint.schema, checkpoint.network)
        shutil.rmtree(root)


@pytest.mark.parametrize("later", [False, True])
def test_entries_that_are_refused_for_one_reason_are_one_line_at_a_time(
    later: bool,
    world: World,
    load: Callable[[], Engine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    for _ in range(3):
        put_foreign(log, "deltas", "an empty folder")
        put_foreign(log, "deltas", "a link to a folder")
    log.append(world.step(**NOTHING))
    if later:
        # a minute from each to the next
        monkeypatch.setattr(throttled_warnings, "monotonic", itertools.count(1, 60).__next__)
    engine = load()
    engine.follow(log, QUICK)
    refused = sync(engine)["refused"]
    assert sum(refused.values()) == 6
    said = Counter(text.split(",")[0] for record in caplog.records if (text := record.getMessage())[:7] == "refused")
    assert said == {f"refused ({reason}": count if later else 1 for reason, count in refused.items()}


@pytest.mark.parametrize("ours", [ZeroDivisionError("ours"), PermissionError(errno.EACCES, "ours")])
def test_an_error_of_our_own_is_refused_and_the_version_serves(
    ours: Exception,
    world: World,
    load: Callable[[], Engine],
    toy_batch: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    engine = load()
    follower = engine.follow(log, QUICK)
    real, errors = Versions.put, [ours, StoreError("away"), PepnetError("odd")]

    def put_version(versions: Versions, served: ModelVersion, same: bool = False) -> int:
        if errors:
            raise errors.pop(0)
        return real(versions, served, same)

    monkeypatch.setattr(Versions, "put", put_version)
    log.append(world.step())  # refused: internal
    until(lambda: sync(engine)["refused"] == {"internal": 1})
    assert f"{type(ours).__name__}: {ours}" in caplog.text  # with its traceback
    assert "Traceback" in caplog.text
    check(world, engine, toy_batch(20), 7)
    log.append(world.step(base=7, version=9))  # the store is away: tried again, and then refused: failed
    until(lambda: sync(engine)["refused"] == {"internal": 1, "failed": 1})
    assert sync(engine)["faults"] == 1
    log.append(world.step(base=7, version=10))
    assert follower.wait_for(10, PATIENCE_S)
    check(world, engine, toy_batch(20), 10)
    engine.rollback(7)
    check(world, engine, toy_batch(20), 7)


def test_an_entry_on_a_bad_sector_does_not_hold_up_for_ever(
    world: World, load: Callable[[], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    log.append(world.step(**NOTHING))
    engine = load()
    follower = engine.follow(log, QUICK)
    real, damaged = follower_module.read_head, str(log.path / "deltas")
    times = [0]

    def read_head(path: Path) -> Any:
        head = real(path)
        if head.model_version == 9:
            times[0] += 1
            raise UpdateError("unreadable", f"{damaged}: Input/output error")
        return head

    monkeypatch.setattr(follower_module, "read_head", read_head)
    log.append(world.step(**NOTHING))
    until(lambda: times[0] > 2)
    stats = sync(engine)
    assert (stats["refused"], stats["faults"] > 1, stats["following"]) == ({}, True, True)
    monkeypatch.setattr(follower_module, "_ENTRY_PATIENCE_S", 0.0)
    until(lambda: sync(engine)["refused"] == {"unreadable": 1})
    log.append(world.step(base=8, version=10, **NOTHING))
    assert follower.wait_for(10, PATIENCE_S)


def test_what_went_with_the_log_is_not_refused(
    world: World, load: Callable[[], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk goes between the look at the log and that at the entry."""
    log = DirectoryLog(tmp_path / "log", create=True)
    engine = load()
    follower = engine.follow(log, QUICK)
    real = follower_module.read_head

    def read_head(path: Path) -> Any:
        monkeypatch.setattr(follower_module, "read_head", real)
        log.path.rename(tmp_path / "away")
        return real(path)

    monkeypatch.setattr(follower_module, "read_head", read_head)
    log.append(world.step(**NOTHING))
    until(lambda: sync(engine)["faults"] > 0)
    (tmp_path / "away").rename(log.path)
    assert follower.wait_for(8, PATIENCE_S)
    assert sync(engine)["refused"] == {}


def test_a_delta_that_is_too_large_is_not_read(world: World, load: Callable[[], Engine], tmp_path: Path) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    log.append(world.step())
    with pytest.raises(ConfigError, match="max_delta_bytes: expected an integer from 1"):
        FollowConfig(max_delta_bytes=0)
    engine = load()
    engine.follow(log, FollowConfig(name="test", guard=None, max_delta_bytes=1000))
    assert sync(engine)["refused"] == {"size": 1}
    assert engine.model_version == 7


def test_a_position_that_leaves_no_room_is_said(world: World, tmp_path: Path) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    log.append(world.step(**NOTHING))
    (log.path / "deltas" / "99999999999999999999").mkdir()  # not one of ours: left alone
    log.append(world.step(**NOTHING))
    assert len(log.read("")) == 2
    (log.path / "deltas" / f"0{'9' * 19}").mkdir()
    with pytest.raises(UpdateError, match="expected positions that leave room") as error:
        log.append(world.step(**NOTHING))
    assert error.value.reason == "log"


def test_a_large_log_is_looked_at_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, now, looks = DirectoryLog(tmp_path / "log", create=True), [0.0], []

    def look(folder: Path) -> list[str]:
        looks.append(folder.name)
        now[0] += 0.1 if folder.name == "deltas" else 0.0  # as with 100,000 entries
        return []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(directory_log, "time", clock)
    monkeypatch.setattr(os, "listdir", look)
    assert log.read("", wait_s=6.0) == []
    assert looks.count("deltas") in (10, 11)  # of 6 s one is work
    assert 6.0 <= now[0] < 6.2


def test_somebodys_folder_is_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("mine")
    looked_at: list[str] = []
    monkeypatch.setattr(listing, "check_regular", lambda path, mode: looked_at.append(path))
    with pytest.raises(BundleError, match=r"expected only files listed in manifest\.json, got one more"):
        listing.check_files(tmp_path, {}, "manifest.json", hashes=False)
    assert len(looked_at) == 2  # one more than there may be says enough
    monkeypatch.setattr(listing, "_MOST_FOLDERS", 10)
    for number in range(20):
        (tmp_path / "inside" / str(number)).mkdir(parents=True)
    with pytest.raises(BundleError, match="got folders without end"):
        listing.check_files(tmp_path / "inside", {}, "manifest.json", hashes=False)


def _bundle_of(world: World, version: int, folder: Path) -> Path:
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    target = folder / f"bundle-{version}"
    if not target.exists():
        write_bundle(world.checkpoints[version], target, model_version=version, int8_budget=None)
    return target
