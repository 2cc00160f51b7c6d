"""What an engine is while it begins to follow, ends, or is held: one follower, one version, and its own store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sync_world import PATIENCE_S, World

from pepnet_infer import CacheConfig, ConfigError, Engine, SchemaError, UpdateError
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.sync import DirectoryLog, FollowConfig, Guard
from pepnet_infer.sync.follower import Follower

Batch = dict[str, Any]
CONFIG = FollowConfig(wait_s=0.02)


@pytest.fixture
def log(tmp_path: Path) -> DirectoryLog:
    return DirectoryLog(tmp_path / "log", create=True)


def test_an_engine_that_could_not_follow_asks_its_store_as_before(
    toy_bundle: Path, toy_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    config = FollowConfig(rows="cache", insert="all", keep=0)
    with Engine.load(toy_bundle, cache=CacheConfig(warm=False), threads=1) as engine:
        with pytest.raises(UpdateError, match="expected a log, got nothing there"):
            engine.follow(DirectoryLog(tmp_path / "none", create=False), config)
        with Engine.load(toy_bundle, threads=1) as another:
            expected = another.score(toy_batch(40))
        scores = engine.score(toy_batch(40))
        assert np.array_equal(scores.values, expected.values)
        assert scores.unknown == expected.unknown


@pytest.mark.concurrency
def test_of_two_threads_that_follow_one_does(toy_bundle: Path, log: DirectoryLog) -> None:
    for _ in range(20):
        with Engine.load(toy_bundle, check="sizes", threads=1) as engine:
            found = _at_once(*[lambda e=engine: e.follow(log, CONFIG)] * 2)
            assert sorted(type(one).__name__ for one in found) == ["Follower", "UpdateError"]


@pytest.mark.concurrency
def test_a_closed_engine_follows_nothing(toy_bundle: Path, log: DirectoryLog) -> None:
    for _ in range(30):
        engine = Engine.load(toy_bundle, check="sizes", threads=1)
        found = _at_once(lambda e=engine: e.follow(log, CONFIG), engine.close)
        followers = [one for one in found if isinstance(one, Follower)]
        assert not any(follower.stats()["following"] for follower in followers)


def test_what_is_held_before_an_engine_follows_stays(
    toy_bundle: Path, toy_checkpoint: Checkpoint, log: DirectoryLog, tmp_path: Path
) -> None:
    world = World(toy_checkpoint, tmp_path)
    log.append(world.step())
    with Engine.load(toy_bundle, threads=1) as engine:
        before = engine.model_version
        follow = threading.Thread(target=engine.follow, args=(log, CONFIG))
        with engine.hold(), engine.hold():
            with pytest.raises(UpdateError, match="follow: expected a thread that holds no version"):
                engine.follow(log, CONFIG)
            follow.start()
            follow.join(0.3)
            assert engine.model_version == before
            with engine.hold():
                assert engine.model_version == before
        follow.join(PATIENCE_S)
        assert engine.model_version == world.version > before


def test_features_that_were_refused_are_no_sample_for_the_guard(
    toy_bundle: Path, toy_checkpoint: Checkpoint, toy_batch: Callable[..., Batch], log: DirectoryLog, tmp_path: Path
) -> None:
    world = World(toy_checkpoint, tmp_path)
    config = FollowConfig(wait_s=0.02, guard=Guard(every_s=0, rows=64, least_rows=1, mean=1, psi=100))
    with Engine.load(toy_bundle, threads=1) as engine:
        follower = engine.follow(log, config)
        features = engine.encode(toy_batch(20))
        broken = replace(features, ids={})
        with pytest.raises(SchemaError, match="expected every field of the schema"):
            engine.score_features(broken)
        engine.score(toy_batch(20))
        log.append(world.step())
        assert follower.wait_for(world.version, PATIENCE_S)
        assert follower.stats()["refused"] == {}


@pytest.mark.parametrize("name", ["a/b", "", "\0", "x" * 101, "\ud800"])
def test_a_name_that_no_log_takes_is_refused_when_it_is_given(name: str) -> None:
    with pytest.raises(ConfigError, match="follower: expected letters, digits, dots and dashes"):
        FollowConfig(name=name)


@pytest.mark.parametrize("options", [{"wait_s": 1e300}, {"retry_s": 3601}, {"wait_s": 0}])
def test_waits_that_a_close_would_not_see_the_end_of_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected a number above 0 to 3600"):
        FollowConfig(**options)


def test_a_guard_that_can_never_have_rows_enough_is_refused() -> None:
    with pytest.raises(ConfigError, match="least_rows: expected no more than rows, 100, got 200"):
        Guard(rows=100)


def _at_once(*work: Callable[[], object]) -> list[object]:
    """Returns what each returned or raised, all of them begun at one moment."""
    begin, found = threading.Barrier(len(work)), list[object]()

    def run(one: Callable[[], object]) -> None:
        begin.wait()
        try:
            found.append(one())
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
