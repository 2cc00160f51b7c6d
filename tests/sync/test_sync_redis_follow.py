"""Engines that follow a log in Redis while it is restarted, and while it is emptied and begun anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis
from sync_world import PATIENCE_S, World

from pepnet_infer import CacheConfig, Engine, UpdateError
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.follower import Follower
from pepnet_infer.sync.logs.redis import RedisLog

pytestmark = pytest.mark.crash


def test_followers_of_a_redis_that_restarts_and_is_emptied(
    make_redis_server: Callable[..., Any],
    toy_checkpoint: Checkpoint,
    toy_bundle: Path,
    toy_batch: Callable[..., Any],
    tmp_path: Path,
) -> None:
    # Synced with every answer: a second may pass else, on a busy disk, and what was said would be gone with the server.
    server = make_redis_server("--appendonly", "yes", "--appendfsync", "always")
    world, batch = World(toy_checkpoint, tmp_path), toy_batch(60)
    log = RedisLog(server.url, spool=tmp_path / "publisher", patience_s=20.0, create=True)
    logs = [RedisLog(server.url, spool=tmp_path / name, patience_s=0.2) for name in "abc"]
    engines: list[Engine] = []
    followers: list[Follower] = []

    def follow() -> None:
        name = "abc"[len(engines)]
        engine = Engine.load(toy_bundle, backend="native", threads=1, cache=CacheConfig(capacity="1MiB"))
        engines.append(engine)
        config = FollowConfig(name=name, wait_s=0.1, retry_s=0.1, guard=None)
        followers.append(engine.follow(logs[len(engines) - 1], config))

    def all_there() -> None:
        for engine, follower in zip(engines, followers, strict=True):
            assert follower.wait_for(world.version, PATIENCE_S), engine.stats()["sync"]
            np.testing.assert_array_equal(engine.score(batch).values, world.scores(world.version, batch))

    try:
        follow()
        for number in range(6):
            log.append(world.step(dense=number % 2 == 0))
            if number % 2:
                server.stop()
                server.start()
        follow()
        all_there()
        with Redis.from_url(server.url) as client:
            client.flushall()
        lost = world.step()  # nobody can go on from the log as it is
        with pytest.raises(UpdateError, match="put a full bundle"):
            log.append(lost)
        version = world.version
        bundle = write_bundle(world.checkpoints[version], tmp_path / "full", model_version=version)
        log.append_bundle(bundle.path)
        all_there()
        log.append(world.step())
        follow()  # a late third, from the first bundle
        all_there()
        assert [engine.stats()["sync"]["bundles"] for engine in engines] == [1, 1, 1]
        assert set(log.progress()) == {"a", "b", "c"}
    finally:
        for engine in engines:
            engine.close()
