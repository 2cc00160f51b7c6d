"""`pepnet-infer publish` and `score --follow`: from two bundles to scored files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sync_world import World

from pepnet_infer import Engine, UpdateError
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.export.publish.difference import difference

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pair(
    toy_checkpoint: Checkpoint, toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[World, Path, Path]:
    """Two bundles of one model; the second has rows changed, added and removed."""
    folder = tmp_path_factory.mktemp("pair")
    world = World(toy_checkpoint, folder, seed=4)
    world.step(version=9)
    new = write_bundle(world.checkpoints[9], folder / "new", model_version=9)
    return world, toy_bundle, new.path


def test_from_two_bundles_to_scores(
    command: Command, pair: tuple[World, Path, Path], toy_table: Callable[..., pa.Table], tmp_path: Path
) -> None:
    _, old, new = pair
    log = tmp_path / "log"
    code, out, _ = command("publish", log, old, new, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["delta"]["base_version"], result["delta"]["model_version"], result["delta"]["dense"]) == (7, 9, True)
    assert result["last"]["model_version"] == 9
    assert result["followers"] == {}
    table = toy_table(200, 3)
    pq.write_table(table, tmp_path / "in.parquet")
    code, out, err = command(
        "score", old, tmp_path / "in.parquet", "--out", tmp_path / "out", "--follow", log, "--threads", 1, "--json"
    )
    assert code == 0, err
    scored = json.loads(out)
    assert (scored["model_version"], scored["sync"]["applied"]) == (9, 1)
    file = pq.read_table(tmp_path / "out" / "in.parquet")
    with Engine.load(new, threads=1, cache=None) as alone:
        expected = alone.score(table).values
    for column, task in enumerate(("click", "like")):
        np.testing.assert_array_equal(file[f"score_{task}"].to_numpy(), expected[:, column])
    assert pq.read_schema(tmp_path / "out" / "in.parquet").metadata[b"model_version"] == b"9"
    code, out, _ = command("publish", log)
    assert code == 0
    assert "last delta: to version 9" in out
    assert "follower " in out
    code, out, err = command("publish", log, old, new)
    assert code == 1
    assert "expected version 7" in err
    code, out, _ = command("publish", log, new, "--full", "--trim", 0)
    assert code == 0
    assert "bundle of version 9 appended" in out
    assert "1 entries removed" in out


def test_usage(command: Command, tmp_path: Path) -> None:
    assert command("publish", tmp_path, "one")[0] == 2
    assert command("publish", tmp_path, "one", "two", "--full")[0] == 2
    code, _, err = command("publish", "ftp://somewhere")
    assert (code, "expected a folder, redis:// or rediss://" in err) == (1, True)


def test_bundles_that_no_delta_joins(pair: tuple[World, Path, Path]) -> None:
    old, new = Bundle.open(pair[1]), Bundle.open(pair[2])
    with pytest.raises(UpdateError, match="expected a version above that of") as caught:
        difference(new, old)
    assert caught.value.reason == "version"
    found: Any = difference(old, old.with_dense(old.dense(), None, 8))
    assert found.dense is None
    assert all(len(rows.keys) == 0 and rows.default is None for rows in found.rows.values())
