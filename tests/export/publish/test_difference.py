"""A delta made from two bundles leads from one to the other: every row, default row and weight, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from sync_world import World

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.errors import UpdateError
from pepnet_infer.export.bundle.write_bundle import write_bundle
from pepnet_infer.export.publish.difference import difference, write_difference
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.sync.delta import open_delta

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pair(toy_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Versions 7 and 9; in the second rows changed, came and went, one to -0.0, and are stored as bfloat16."""
    folder = tmp_path_factory.mktemp("pair")
    old = replace(toy_checkpoint, tables={n: replace(t, rows=t.rows.copy()) for n, t in toy_checkpoint.tables.items()})
    old.tables["tag"].rows[5] = 0.0
    world = World(old, folder, seed=6)
    world.step(version=9)
    new = world.checkpoints[9]
    keys = old.tables["tag"].keys
    at = int(np.searchsorted(new.tables["tag"].keys, keys[5]))
    rows = np.insert(new.tables["tag"].rows, at, -0.0, axis=0)
    if at < len(new.tables["tag"].keys) and new.tables["tag"].keys[at] == keys[5]:
        rows = np.delete(rows, at + 1, axis=0)
    else:
        raise AssertionError("expected tag 5 to stay: take another seed")
    tables = {**new.tables, "tag": replace(new.tables["tag"], rows=rows)}
    made = write_bundle(replace(new, tables=tables), folder / "new", model_version=9, table_dtype="bfloat16")
    return write_bundle(old, folder / "old", model_version=7).path, made.path


def test_every_bit(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = map(Bundle.open, pair)
    path, _ = write_difference(old, new, tmp_path / "delta", onnx=True)
    delta = open_delta(path, old.schema, old.network)
    assert (delta.head.base_version, delta.head.model_version) == (7, 9)
    assert delta.onnx == new.onnx_path.read_bytes()
    assert delta.dense is not None
    weights = new.dense()
    assert set(delta.dense) == set(weights)
    assert all(np.array_equal(delta.dense[name], value) for name, value in weights.items())
    before, after = MmapStore(old.table_paths), MmapStore(new.table_paths)
    changed = 0
    for spec in old.schema.tables:
        keys = before.files[spec.name].keys
        rows = {int(k): row.tobytes() for k, row in zip(keys, before.get_many(keys, spec.dim).rows, strict=True)}
        default, part = before.files[spec.name].default, delta.rows[spec.name]
        for key, row, dead in zip(part.keys, part.rows, ~part.found, strict=True):
            if dead:
                del rows[int(key)]
            else:
                assert rows.get(int(key)) != row.tobytes()
                rows[int(key)] = row.tobytes()
        default = default if part.default is None else part.default
        keys, scores = after.files[spec.name].keys, after.files[spec.name].scores
        wanted = after.get_many(keys, spec.dim).rows
        assert rows == {int(k): row.tobytes() for k, row in zip(keys, wanted, strict=True)}, spec.name
        assert default.tobytes() == after.files[spec.name].default.tobytes()
        there = part.found
        np.testing.assert_array_equal(part.scores[there], scores[np.searchsorted(keys, part.keys[there])])
        changed += int((~part.found).sum())
    assert changed > 3


def test_equal_bundles_differ_in_nothing(pair: tuple[Path, Path], toy_checkpoint: Checkpoint, tmp_path: Path) -> None:
    new = Bundle.open(pair[1])
    again = replace(new, model_version=10)
    found = difference(new, again)
    assert found.dense is None
    assert all(len(rows.keys) == 0 and rows.default is None for rows in found.rows.values())
    other = replace(new, model_version=10, config=structs.replace(new.config, gamma=1.5))
    with pytest.raises(UpdateError, match="expected the same network") as caught:
        difference(new, other)
    assert caught.value.reason == "dense"


def test_versions_of_a_log(command: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pair
    log = tmp_path / "log"
    assert command("publish", log, new, "--full")[0] == 0
    code, _, err = command("publish", log, old, new)
    assert (code, "expected version 7, that of" in err, "got 9" in err) == (1, True, True)
    code, _, err = command("publish", log, old, "--full")
    assert (code, "expected a bundle of version 9, the log's, or above, got 7" in err) == (1, True)
    assert command("publish", log, new, "--full", "--trim", -1)[0] == 2
    code, out, _ = command("publish", log, new, "--full", "--trim", 0, "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["trimmed"], result["last"], result["newest_bundle"]["model_version"]) == (1, None, 9)
