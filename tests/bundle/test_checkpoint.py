"""Checkpoints: saved and loaded they are the same, and a damaged or ill-fitting one is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from pepnet_infer.bundle.checkpoint import Checkpoint, write_table
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.encode.side_table import SideTable
from pepnet_infer.errors import BundleError
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import MISSING_KEY, make_keys
from pepnet_infer.schema.network_config import InputWidths, ModelConfig
from pepnet_infer.schema.row_batch import RowBatch


@pytest.fixture(scope="module")
def joined() -> Checkpoint:
    """A checkpoint with a side table: ids, a bag and a dense field joined by video."""
    schema = FeatureSchema.from_json(
        {
            "name": "joined",
            "tables": {"video": {"dim": 3}, "tag": {"dim": 2, "number": 9}},
            "joins": {"videos": {"key": "video_id", "file": "videos.csv"}},
            "fields": [
                {"name": "video_id", "kind": "id", "side": "item", "table": "video", "inputs": ["general", "prior"]},
                {"name": "tags", "kind": "bag", "side": "item", "table": "tag", "join": "videos"},
                {"name": "first_tag", "kind": "id", "side": "item", "table": "tag", "join": "videos", "nullable": True},
                {"name": "length", "kind": "dense", "side": "item", "join": "videos", "mean": 0.5, "std": 2.0},
                {"name": "page", "kind": "dense", "side": "domain", "mean": 0, "std": 1, "inputs": ["domain"]},
            ],
            "domain": {"column": "tab", "values": ["home", "slide"]},
            "tasks": {"click": "is_click"},
        }
    )
    config = ModelConfig(InputWidths(**schema.widths), layers=(4,), towers=(), experts=2)
    tags = make_keys(9, np.array([4, 7, 4], np.uint64))
    features = Features(
        2,
        ids={"first_tag": np.array([make_keys(9, np.uint64(4)), MISSING_KEY], np.uint64)},
        bags={"tags": Bag(tags, np.array([0, 3, 3], np.int64))},
        dense={"length": np.array([1.5, -0.25], np.float32)},
    )
    side = SideTable(np.array([11, 12], np.uint64), features, {"length": -0.25})
    tables = {}
    for spec in schema.tables:
        rng = np.random.default_rng(spec.number)
        tables[spec.name] = RowBatch.of(
            rng.standard_normal((3, spec.dim)).astype(np.float32),
            keys=make_keys(spec.number, np.array([4, 7, 2**48 - 1], np.uint64)),
            scores=rng.random(3).astype(np.float32),
            default=rng.standard_normal(spec.dim).astype(np.float32),
        )
    meta = {"seed": 0, "auc": [0.5]}
    ranges = {"length": (-0.25, 1.5)}
    return Checkpoint(schema, config, tables, {"videos": side}, random_dense(config, 1, 0), meta, ranges)


def test_saved_and_loaded_it_is_the_same(joined: Checkpoint, tmp_path: Path) -> None:
    joined.save(tmp_path / "c")
    found = Checkpoint.load(tmp_path / "c")
    assert found.schema == joined.schema
    assert found.config == joined.config
    assert found.meta == joined.meta
    assert found.ranges == joined.ranges
    assert found.dense.keys() == joined.dense.keys()
    for name, value in joined.dense.items():
        np.testing.assert_array_equal(found.dense[name], value)
    for name, table in joined.tables.items():
        for part in ("keys", "rows", "scores", "default"):
            np.testing.assert_array_equal(getattr(found.tables[name], part), getattr(table, part))
            assert getattr(found.tables[name], part).dtype == getattr(table, part).dtype
    for name, value in joined.sides["videos"].to_tensors().items():
        np.testing.assert_array_equal(found.sides["videos"].to_tensors()[name], value)
    assert sorted(os.listdir(tmp_path / "c")) == ["checkpoint.json", "dense.safetensors", "side", "tables"]


def test_the_same_checkpoint_gives_the_same_bytes(joined: Checkpoint, tmp_path: Path) -> None:
    joined.save(tmp_path / "a")
    Checkpoint.load(tmp_path / "a").save(tmp_path / "b")
    for path in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def test_an_existing_one_is_replaced_only_when_asked(joined: Checkpoint, tmp_path: Path) -> None:
    joined.save(tmp_path / "c")
    with pytest.raises(BundleError, match=r"got an existing checkpoint\.json; to replace it, pass overwrite"):
        joined.save(tmp_path / "c")
    dataclasses.replace(joined, meta={"seed": 1}).save(tmp_path / "c", overwrite=True)
    assert Checkpoint.load(tmp_path / "c").meta == {"seed": 1}
    assert os.listdir(tmp_path) == ["c"]


def test_parts_that_do_not_fit_are_refused(joined: Checkpoint) -> None:
    with pytest.raises(BundleError, match=r"tables: expected \['tag', 'video'\] as in its schema, got \['tag'\]"):
        dataclasses.replace(joined, tables={"tag": joined.tables["tag"]})
    with pytest.raises(BundleError, match=r"sides: expected \['videos'\] as in its schema, got \[\]"):
        dataclasses.replace(joined, sides={})
    wide = structs.replace(joined.config, inputs=InputWidths(99, 1, 3))
    with pytest.raises(BundleError, match=r"config\.inputs\.general: expected 8 columns as in its schema, got 99"):
        dataclasses.replace(joined, config=wide)
    with pytest.raises(BundleError, match="ranges: expected names of dense fields, got 'tags'"):
        dataclasses.replace(joined, ranges={"tags": (0.0, 1.0)})
    with pytest.raises(BundleError, match=r"ranges\.page: expected ascending numbers, got 1\.0 and 0\.5"):
        dataclasses.replace(joined, ranges={"page": (1.0, 0.5)})
    fields = tuple(structs.replace(f, mean=None) if f.name == "length" else f for f in joined.schema.fields)
    with pytest.raises(BundleError, match="expected every dense field to have its mean and std, got null"):
        dataclasses.replace(joined, schema=dataclasses.replace(joined.schema, fields=fields))


def broken(joined: Checkpoint, what: str) -> Checkpoint:
    dense = dict(joined.dense)
    if what == "missing":
        del dense["mix.b"]
    elif what == "shape":
        dense["mix.b"] = np.zeros(5, np.float32)
    elif what == "dtype":
        dense["mix.b"] = np.zeros(2, np.float64)
    elif what == "nan":
        dense["mix.b"] = np.array([0.0, np.nan], np.float32)
    else:
        table = joined.tables["tag"]
        keys = {"unsorted": table.keys[::-1].copy(), "foreign": table.keys ^ np.uint64(1 << 48)}[what]
        return dataclasses.replace(joined, tables={**joined.tables, "tag": dataclasses.replace(table, keys=keys)})
    return dataclasses.replace(joined, dense=dense)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", r"dense\.safetensors: expected tensor 'mix\.b' \[2\], got none of that name"),
        ("shape", r"tensor 'mix\.b': expected shape \[2\], got \[5\]"),
        ("dtype", r"tensor 'mix\.b': expected F32, got F64"),
        ("nan", r"tensor 'mix\.b': expected finite values, got NaN or infinity at \[1\]"),
        ("unsorted", r"tag\.safetensors: keys: expected ascending, distinct keys"),
        ("foreign", r"tag\.safetensors: keys: expected table number 9, got 8"),
    ],
)
def test_wrong_weights_and_tables_are_not_saved(joined: Checkpoint, tmp_path: Path, what: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        broken(joined, what).save(tmp_path / "c")
    assert os.listdir(tmp_path) == []


def test_damage_is_found_on_loading(joined: Checkpoint, tmp_path: Path) -> None:
    joined.save(tmp_path / "c")
    path = tmp_path / "c" / "tables" / "tag.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"tag\.safetensors: expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}"):
        Checkpoint.load(tmp_path / "c")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere: expected a directory with checkpoint\.json, got nothing"):
        Checkpoint.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"expected a directory with checkpoint\.json, got one without"):
        Checkpoint.load(tmp_path)
    (tmp_path / "checkpoint.json").write_text(json.dumps({"format_version": 2}))
    with pytest.raises(BundleError, match="format_version: expected 1, got 2, a newer format: update pepnet-infer"):
        Checkpoint.load(tmp_path)


def test_rows_that_float16_cannot_hold_are_refused(joined: Checkpoint, tmp_path: Path) -> None:
    table = dataclasses.replace(joined.tables["tag"], rows=np.full((3, 2), 7e4, np.float32))
    with pytest.raises(BundleError, match="rows: expected values within float16, got 70000"):
        write_table(tmp_path / "t", table, "float16")
    with pytest.raises(BundleError, match="expected one of float32, float16, bfloat16, got 'int8'"):
        write_table(tmp_path / "t", table, "int8")
