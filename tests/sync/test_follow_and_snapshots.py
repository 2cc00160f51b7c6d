"""Snapshots of a cache whose engine follows a log, and engines that began with one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sync_world import World

from pepnet_infer import CacheConfig, Engine, StoreError
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.sync import DirectoryLog, FollowConfig

QUICK = FollowConfig(name="test", wait_s=0.05, guard=None, share=1)


def test_rows_of_later_versions_are_not_said_to_be_the_bundles(
    toy_checkpoint: Checkpoint, toy_bundle: Path, tmp_path: Path
) -> None:
    world, log = World(toy_checkpoint, tmp_path), DirectoryLog(tmp_path / "log", create=True)
    snapshot = tmp_path / "snapshot"
    with Engine.load(toy_bundle, threads=1, cache=CacheConfig(capacity="1MiB")) as engine:
        log.append(world.step())
        engine.follow(log, QUICK)
        assert engine.model_version == world.version
        assert engine.cache is not None
        engine.cache.save(snapshot)
    with pytest.raises(StoreError, match="snapshot"):
        Engine.load(toy_bundle, threads=1, cache=CacheConfig(capacity="1MiB", warm_from=str(snapshot)))


def test_a_bundle_from_the_log_is_taken_by_an_engine_that_began_with_a_snapshot(
    toy_checkpoint: Checkpoint, toy_bundle: Path, tmp_path: Path
) -> None:
    world, log = World(toy_checkpoint, tmp_path), DirectoryLog(tmp_path / "log", create=True)
    snapshot = tmp_path / "snapshot"
    with Engine.load(toy_bundle, threads=1, cache=CacheConfig(capacity="1MiB")) as engine:
        assert engine.cache is not None
        engine.cache.save(snapshot)
    world.step()
    later = replace(world.checkpoints[world.version])
    path = write_bundle(later, tmp_path / "later", model_version=world.version).path
    log.append_bundle(path)
    shutil.rmtree(path)
    with Engine.load(toy_bundle, threads=1, cache=CacheConfig(capacity="1MiB", warm_from=str(snapshot))) as engine:
        engine.follow(log, QUICK)
        assert engine.model_version == world.version
