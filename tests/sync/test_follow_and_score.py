"""Parquet scored by an engine that follows: which finished files a later run may keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace
from sync_world import PATIENCE_S, World

from pepnet_infer import CacheConfig, Engine, score_parquet
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.sync.delta import write_delta
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs.directory import DirectoryLog

QUICK = FollowConfig(name="test", wait_s=0.05, guard=None, share=1)


@pytest.fixture
def world(toy_checkpoint: Checkpoint, tmp_path: Path) -> World:
    return World(toy_checkpoint, tmp_path)


@pytest.fixture
def log(tmp_path: Path) -> DirectoryLog:
    return DirectoryLog(tmp_path / "log", create=True)


@pytest.fixture
def load(toy_bundle: Path) -> Iterator[Callable[[], Engine]]:
    engines: list[Engine] = []

    def make() -> Engine:
        engines.append(Engine.load(toy_bundle, threads=1, check="sizes", cache=CacheConfig(capacity="1MiB")))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def run(tmp_path: Path, toy_table: Callable[..., pa.Table]) -> Callable[[Engine], bool]:
    """Scores a file, checks its scores, and returns whether an earlier run's were kept."""
    table = toy_table(60)
    pq.write_table(table, tmp_path / "in.parquet")

    def score(engine: Engine) -> bool:
        kept = score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out").skipped
        scores = pq.read_table(tmp_path / "out" / "in.parquet")["score_click"].to_numpy()
        np.testing.assert_array_equal(scores, engine.score(table).column("click"))
        return bool(kept)

    return score


def test_deltas_are_part_of_what_a_finished_file_depends_on(
    world: World, log: DirectoryLog, load: Callable[[], Engine], run: Callable[[Engine], bool]
) -> None:
    plain, engine = load(), load()
    assert [run(plain), run(engine)] == [False, True]
    follower = engine.follow(log, QUICK)
    assert run(engine)  # nothing was published yet
    before = engine.identity()
    log.append(world.step(dense=False))
    assert follower.wait_for(world.version, PATIENCE_S)
    assert [run(engine), run(engine), run(plain), run(engine)] == [False, True, False, False]
    log.append(world.step())
    assert follower.wait_for(world.version, PATIENCE_S)
    assert [run(engine), run(engine)] == [False, True]
    late = load()  # as the next process does
    late.follow(log, replace(QUICK, name="late"))
    assert late.identity() == engine.identity()
    assert run(late)
    engine.rollback(world.version - 2)
    assert engine.identity() == before
    assert [run(engine), run(plain)] == [False, True]


def test_another_log_up_to_the_same_version_scores_again(
    world: World, log: DirectoryLog, load: Callable[[], Engine], run: Callable[[Engine], bool], tmp_path: Path
) -> None:
    other, engines = DirectoryLog(tmp_path / "other", create=True), []
    for transport in (log, other):
        transport.append(world.step(dense=False, base=7, version=8))
        engines.append(load())
        engines[-1].follow(transport, QUICK)
    assert engines[0].model_version == engines[1].model_version == 8
    assert [run(engines[0]), run(engines[1]), run(engines[1])] == [False, False, True]


def test_rows_that_expire_are_scored_again(
    world: World, log: DirectoryLog, load: Callable[[], Engine], run: Callable[[Engine], bool], tmp_path: Path
) -> None:
    delta: Any = world.open(world.step(dense=False))
    rows = {
        name: dataclasses.replace(table, expires=np.full(len(table.keys), 4e9)) for name, table in delta.rows.items()
    }
    log.append(write_delta(tmp_path / "expiring", delta.head, rows))
    engine = load()
    engine.follow(log, QUICK)
    assert engine.identity()["rows"] is None
    assert [run(engine), run(engine)] == [False, False]


def test_rows_that_the_cache_alone_has_are_scored_again(
    world: World, log: DirectoryLog, load: Callable[[], Engine], run: Callable[[Engine], bool]
) -> None:
    log.append(world.step(dense=False))
    engine = load()
    engine.follow(log, replace(QUICK, rows="cache", insert="all", keep=0))
    assert [run(engine), run(engine)] == [False, False]
