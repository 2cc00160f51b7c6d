"""A follower whose cache is all the memory there is: what is not in it has the default row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from open_engine import OpenEngine
from row_questions import look_up
from sync_world import PATIENCE_S, World

from pepnet_infer import CacheConfig, ConfigError, Engine, UpdateError
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.rows.cache.config import Policy
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs.directory import DirectoryLog

IDS = 12_000
CACHE_ONLY = FollowConfig(name="small", wait_s=0.05, guard=None, rows="cache", insert="all", keep=0, share=1)


@pytest.fixture(scope="module")
def large(toy_checkpoint: Checkpoint) -> Checkpoint:
    """The toy model with 12,000 videos."""
    rng = np.random.default_rng(3)
    number = toy_checkpoint.schema.table_by_name["video"].number
    videos = RowBatch.of(
        rng.standard_normal((IDS, 5), dtype=np.float32),
        keys=make_keys(number, np.arange(IDS, dtype=np.uint64)),
        scores=rng.random(IDS, dtype=np.float32),
        default=rng.standard_normal(5, dtype=np.float32),
    )
    dense = random_dense(toy_checkpoint.config, len(toy_checkpoint.schema.tasks), 1)
    tables = {**toy_checkpoint.tables, "video": videos}
    return Checkpoint(toy_checkpoint.schema, toy_checkpoint.config, tables, {}, dense, {})


@pytest.fixture(scope="module")
def large_bundle(large: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(large, tmp_path_factory.mktemp("large") / "bundle", model_version=7, int8_budget=None).path


@pytest.fixture
def load(large_bundle: Path) -> Iterator[Callable[[Policy], OpenEngine]]:
    engines: list[OpenEngine] = []

    def make(policy: Policy) -> OpenEngine:
        cache = CacheConfig(policy, capacity=720_000, negative_ttl=None)
        engines.append(OpenEngine.load(large_bundle, backend="native", threads=1, cache=cache))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def rows_of(engine: OpenEngine, keys: np.ndarray) -> np.ndarray:
    out = np.empty((len(keys), 5), np.float32)
    engine.versions.use(lambda served: look_up(served.rows, "video", keys, out))
    return out


@pytest.mark.parametrize("policy", ["gset", "lru", "lfu"])
def test_a_row_is_the_last_one_published_or_the_default(
    policy: Policy, large: Checkpoint, load: Callable[[Policy], OpenEngine], tmp_path: Path
) -> None:
    world = World(large, tmp_path)
    engine, log = load(policy), DirectoryLog(tmp_path / "log", create=True)
    keys = large.tables["video"].keys
    assert engine.cache is not None
    cache = engine.cache.cache("video")
    assert 2000 < cache.capacity_rows < IDS / 2
    np.testing.assert_array_equal(rows_of(engine, keys), large.tables["video"].rows)
    follower = engine.follow(log, CACHE_ONLY)
    rng = np.random.default_rng(5)
    for number in range(6):
        changed = rng.choice(IDS, 3000, replace=False)
        rows = {int(i): rng.standard_normal(5).astype(np.float32) for i in changed}
        log.append(world.step(changes={"video": rows}))
        assert follower.wait_for(world.version, PATIENCE_S)
        with engine.hold():
            there = cache.core.peek(keys)["outcome"] == 1
            got = rows_of(engine, keys)
        table = world.checkpoints[world.version].tables["video"]
        np.testing.assert_array_equal(got[there], table.rows[there])
        np.testing.assert_array_equal(got[~there], np.broadcast_to(table.default, got[~there].shape))
        # Full, but for the few places of a set that nobody was mapped to; what came is in it, number for number.
        assert there.sum() > 0.9 * cache.capacity_rows, number
        assert there[changed].sum() > 0.2 * cache.capacity_rows, number
    stats = cache.stats()
    assert stats["negatives"] == 0
    assert follower.stats()["layered_rows"] == 0
    assert follower.stats()["refused"] == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": "disk"}, "rows: expected one of cache, store, got 'disk'"),
        ({"rows": "cache"}, "rows: expected insert 'all' and keep 0 with 'cache', got insert 'auto' and keep 4"),
        ({"rows": "cache", "insert": "all", "keep": 1}, "got insert 'all' and keep 1"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FollowConfig(**options)


def test_it_cannot_go_back(large: Checkpoint, load: Callable[[Policy], OpenEngine], tmp_path: Path) -> None:
    world = World(large, tmp_path)
    engine, log = load("lru"), DirectoryLog(tmp_path / "log", create=True)
    follower = engine.follow(log, CACHE_ONLY)
    log.append(world.step())
    assert follower.wait_for(world.version, PATIENCE_S)
    with pytest.raises(UpdateError, match="expected one of the versions kept \\(none\\), got 7"):
        engine.rollback(7)


def test_ids_that_are_not_there_take_a_place_unless_told_otherwise(large_bundle: Path) -> None:
    number = Engine.load(large_bundle, cache=None).schema.table_by_name["video"].number
    unknown = make_keys(number, np.arange(IDS, IDS + 50, dtype=np.uint64))
    counts = {}
    for ttl in (60.0, None):
        with OpenEngine.load(large_bundle, threads=1, cache=CacheConfig("lru", 720_000, negative_ttl=ttl)) as engine:
            for _ in range(2):
                rows_of(engine, unknown)
            assert engine.cache is not None
            counts[ttl] = engine.cache.cache("video").stats()["negatives"], engine.stats()["cache"]["store"]["keys"]
    assert counts[60.0][0] == 50
    assert counts[None][0] == 0
    assert counts[None][1] == counts[60.0][1] + 50
