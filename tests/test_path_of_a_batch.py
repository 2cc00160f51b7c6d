"""How many of our modules a call that is served from memory goes through: whoever changes one has to read them all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from sync_world import PATIENCE_S, World

import pepnet_infer
from pepnet_infer import Engine
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.side_table import SideTable
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.network_config import InputWidths
from pepnet_infer.sync import DirectoryLog, FollowConfig, Guard

ROOT = Path(pepnet_infer.__file__).parent
#: Lines that somebody reads at a time.
MOST_LINES = 350
IDS = 40


@pytest.fixture(scope="module")
def checkpoint(toy_checkpoint: Checkpoint) -> Checkpoint:
    """The toy model without bags, its videos known by a side table: columns of numbers alone, and a join."""
    data = toy_checkpoint.schema.to_json()
    data["joins"] = {"videos": {"column": "video_id", "key": "video_id", "file": "v.csv"}}
    data["fields"] = [field for field in data["fields"] if field["kind"] != "bag"]
    tag = {"kind": "id", "side": "item", "table": "tag", "join": "videos", "column": "tag", "inputs": ["general"]}
    data["fields"].append({"name": "tag", **tag})
    schema = FeatureSchema.from_json(data)
    config = structs.replace(toy_checkpoint.config, inputs=InputWidths(**schema.widths))
    rows = {"video_id": np.arange(IDS), "tag": np.arange(IDS) % 7}
    (join,) = schema.joins
    sides = {"videos": SideTable.build(schema, join, read_columns(rows, ["video_id", "tag"]))}
    dense = random_dense(config, len(schema.tasks), 0)
    return replace(toy_checkpoint, schema=schema, config=config, sides=sides, dense=dense)


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(checkpoint, tmp_path_factory.mktemp("plain") / "bundle", model_version=7).path


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = {name: rng.integers(0, IDS, 20) for name in ("user_id", "video_id")}
    return {**ids, "tab": rng.choice([0, 1, 4], 20), "duration": rng.random(20), "age": rng.random(20)}


def entered(call: Callable[[], object]) -> set[Path]:
    """Returns the files of this package in which a function was called."""
    found = set()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            found.add(Path(frame.f_code.co_filename))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def check(modules: set[Path], most: int) -> None:
    names = sorted(str(path.relative_to(ROOT)) for path in modules)
    assert len(names) <= most, names
    long = {str(path.relative_to(ROOT)): n for path in modules if (n := path.read_text().count("\n")) > MOST_LINES}
    assert not long


def test_a_batch_of_plain_columns_whose_rows_are_cached_goes_through_nine_modules(
    bundle: Path, batch: dict[str, np.ndarray]
) -> None:
    with Engine.load(bundle, threads=1) as engine:
        engine.score(batch)
        before = engine.stats()["cache"]["total"]
        modules = entered(lambda: engine.score(batch))
        after = engine.stats()["cache"]["total"]
        assert after["hits"] - before["hits"] == after["keys"] - before["keys"] > 0
        check(modules, 9)
        assert {path.name for path in modules} >= {"columns.py", "encoder.py", "side_table.py", "assemble.py"}
        # so that what is counted is a whole call
        assert {path.name for path in modules} >= {"engine.py", "cached_rows.py", "native.py"}


def test_a_batch_of_an_engine_that_follows_a_log_goes_through_twelve(
    checkpoint: Checkpoint, bundle: Path, batch: dict[str, np.ndarray], tmp_path: Path
) -> None:
    world, log = World(checkpoint, tmp_path), DirectoryLog(tmp_path / "log", create=True)
    with Engine.load(bundle, threads=1) as engine:
        follower = engine.follow(log, FollowConfig(wait_s=0.01, guard=Guard(every_s=3600)))
        log.append(world.step())
        assert follower.wait_for(world.version, PATIENCE_S)
        for _ in range(2):  # the first is one of which the guard keeps rows
            engine.score(batch)
            check(entered(lambda: engine.score(batch)), 12)
