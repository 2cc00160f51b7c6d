"""A follower killed at any moment, and started again from its bundle, serves a published version and catches up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sync_world import World

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.sync.logs.directory import DirectoryLog

Batch = dict[str, Any]

#: Scores one batch over and over and says which version it was, and the scores' bits.
FOLLOW = """
import json, sys
import numpy as np
from pepnet_infer import CacheConfig, Engine
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.follow_config import FollowConfig
bundle, log, batch = sys.argv[1:]
loaded = np.load(batch)
columns = {name: loaded[name] for name in loaded.files if "/" not in name}
columns |= {name: (loaded[f"{name}/values"], loaded[f"{name}/offsets"]) for name in ("watched", "tags")}
engine = Engine.load(bundle, backend="native", threads=1, cache=CacheConfig(capacity="1MiB"), check="sizes")
print(json.dumps([0, ""]), flush=True)
engine.follow(DirectoryLog(log), FollowConfig(name="killed", wait_s=0.02, guard=None))
last = None
while True:
    scores = engine.score(columns)
    if scores.model_version != last:
        last = scores.model_version
        print(json.dumps([last, scores.values.tobytes().hex()]), flush=True)
"""


def saved(batch: Batch, path: Path) -> Path:
    flat = {name: column for name, column in batch.items() if not isinstance(column, tuple)}
    for name in ("watched", "tags"):
        flat[f"{name}/values"], flat[f"{name}/offsets"] = batch[name]
    np.savez(path, **flat)
    return path


def kill_and_follow(world: World, log: DirectoryLog, bundle: Path, batch: Batch, folder: Path, kills: int) -> int:
    """Returns how many versions were seen by those that were killed."""
    file = saved(batch, folder / "batch.npz")
    random, seen = np.random.default_rng(5), 0
    for kill in range(kills):
        command = [sys.executable, "-c", FOLLOW, str(bundle), str(log.path), str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline()  # loaded; from here on anything may be cut short
        lines = [process.stdout.readline()] if kill % 2 == 0 else []
        ends = time.monotonic() + random.random() * 0.4
        while time.monotonic() < ends:
            log.append(world.step(dense=bool(random.random() < 0.5)))
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        for line in [*lines, *output.splitlines()]:
            if not line.rstrip().endswith("]"):
                continue  # cut short itself
            version, scores = json.loads(line)
            expected = world.scores(version, batch)
            assert scores == expected.tobytes().hex()
            seen += 1
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        version, scores = json.loads(line)
        if version == world.version:
            break
    process.kill()
    process.communicate()
    assert scores == world.scores(world.version, batch).tobytes().hex()
    assert log.progress()["killed"].model_version in world.checkpoints
    return seen


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_follower_catches_up(
    kills: int, toy_checkpoint: Checkpoint, toy_bundle: Path, toy_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    world = World(toy_checkpoint, tmp_path)
    log = DirectoryLog(tmp_path / "log", create=True)
    assert kill_and_follow(world, log, toy_bundle, toy_batch(30), tmp_path, kills) > 0
