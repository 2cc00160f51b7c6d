"""What is mutated: a small model with something of everything, its delta, its snapshot and a batch for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sync_deltas import delta_rows

from pepnet_infer.bundle.accuracy import BUDGETS
from pepnet_infer.bundle.bundle import FORMAT_VERSION, MANIFEST, ONNX, PARITY, Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.side_table import SideTable
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.rows.cache import snapshot
from pepnet_infer.rows.cache.open_bundle_rows import open_rows
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.network_config import InputWidths, ModelConfig
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.storage.document import write_document
from pepnet_infer.storage.listing import describe_files
from pepnet_infer.sync.delta import DeltaHead, write_delta
from pepnet_infer.sync.logs.directory import DirectoryLog

VERSION, NEXT = 7, 9
ROWS = 8  # of a batch
KNOWN = 12  # ids of each table

SCHEMA = FeatureSchema.from_json(
    {
        "name": "fuzz",
        "tables": {"user": {"dim": 3}, "video": {"dim": 2}, "tag": {"dim": 2}},
        "joins": {"videos": {"key": "video_id", "file": "videos.parquet"}},
        "fields": [
            {"name": "user_id", "kind": "id", "side": "user", "table": "user", "inputs": ["general", "prior"]},
            {"name": "video_id", "kind": "id", "side": "item", "table": "video", "inputs": ["general", "prior"]},
            {"name": "author", "kind": "id", "side": "item", "table": "user", "hashed": True, "nullable": True},
            {"name": "watched", "kind": "bag", "side": "user", "table": "video", "max_len": 3},
            {"name": "words", "kind": "bag", "side": "item", "table": "tag", "hashed": True, "pooling": "sum"},
            {"name": "tags", "kind": "bag", "side": "item", "table": "tag", "separator": ","},
            {"name": "genre", "kind": "id", "side": "item", "table": "tag", "join": "videos", "nullable": True},
            {"name": "length", "kind": "dense", "side": "item", "join": "videos", "mean": 1.0, "std": 2.0},
            {"name": "tab", "kind": "id", "side": "domain", "table": "tag", "hashed": True, "inputs": ["domain"]},
            {"name": "duration", "kind": "dense", "side": "item", "transform": "log1p", "mean": 2.0, "std": 1.5},
            {
                "name": "hour",
                "kind": "id",
                "side": "context",
                "table": "tag",
                "column": "time_ms",
                "transform": {"op": "hour", "utc_offset": 8},
            },
            {"name": "age", "kind": "dense", "side": "user", "nullable": True, "fill": 30.0, "mean": 35, "std": 10},
        ],
        "domain": {"column": "tab", "values": ["home", "search"]},
        "tasks": {"click": "is_click", "like": "is_like"},
    }
)


def batch() -> dict[str, pa.Array]:
    """Returns ROWS valid rows, a column each, with nulls where the schema allows them."""
    return {
        "user_id": pa.array([0, 1, 2, 3, 40, 5, 6, 7], pa.int64()),
        "video_id": pa.array([0, 1, 2, 3, 40, 5, 6, 7], pa.uint32()),
        "author": pa.array(["a", None, "ccc", "", "ü", "a", "b", "c"], pa.string()),
        "watched": pa.array([[1, 2], [], [3], [1, 2, 3, 4], [9], [50], [0], [7, 7]], pa.list_(pa.int64())),
        "words": pa.array([["x", "yy"], [], ["z"], [""], ["x"] * 5, ["é"], ["q"], ["r"]], pa.large_list(pa.string())),
        "tags": pa.array(["1,2", "", "3", "4,5,6", "7", "8", "9", "10"], pa.large_string()),
        "tab": pa.array(["home", "search"] * 4, pa.string()).dictionary_encode(),
        "duration": pa.array([0.5, 1, 2, 3, 4, 5, 60, 7e4], pa.float64()),
        "time_ms": pa.array([1_700_000_000_000 + i * 3_600_000 for i in range(ROWS)], pa.int64()),
        "age": pa.array([20.0, None, 30, 40, 50, 60, 70, 80], pa.float32()),
    }


def checkpoint() -> Checkpoint:
    """Returns the model."""
    config = ModelConfig(InputWidths(**SCHEMA.widths), layers=(4, 3), towers=(2,), experts=2)
    tables = {}
    for spec in SCHEMA.tables:
        random = np.random.default_rng(spec.number)
        tables[spec.name] = RowBatch.of(
            random.standard_normal((KNOWN, spec.dim), dtype=np.float32),
            keys=make_keys(spec.number, np.arange(KNOWN, dtype=np.uint64)),
            scores=random.random(KNOWN, dtype=np.float32),
            default=random.standard_normal(spec.dim, dtype=np.float32),
        )
    columns = {
        "video_id": pa.array([0, 1, 2, 5], pa.int64()),
        "genre": pa.array([1, None, 3, 4], pa.int64()),
        "length": pa.array([1.0, 2.0, 3.0, 4.0]),
    }
    (join,) = SCHEMA.joins
    side = SideTable.build(SCHEMA, join, read_columns(columns, SideTable.columns(SCHEMA, join)))
    dense = random_dense(config, len(SCHEMA.tasks), 0)
    return Checkpoint(schema=SCHEMA, config=config, tables=tables, sides={"videos": side}, dense=dense, meta={})


def write_corpus(folder: Path) -> None:
    """Writes `bundle`, `delta`, `snapshots` and an empty `log` beside each other, once for all workers."""
    model = checkpoint()
    write_toy_bundle(model, folder / "bundle")
    bundle = Bundle.open(folder / "bundle")
    rows = {name: _changed(name) for name in ("user", "video")}
    head = DeltaHead(VERSION, NEXT, 3, 1e9, SCHEMA.hash)
    write_delta(folder / "delta", head, rows, model.dense, bundle.onnx_path.read_bytes())
    write_snapshots(bundle, folder / "snapshots")
    DirectoryLog(folder / "log", create=True)


def write_toy_bundle(model: Checkpoint, root: Path) -> None:
    """Writes a bundle as export would, but for its graph and what was measured, which take torch and half a minute."""
    root.mkdir()
    model.write_payload(root, "float32")
    (root / ONNX).write_bytes(graph(model.config.inputs))
    spread = {"rows": 64, "max_abs": 1e-7, "rms": 1e-8}
    auc = {"rows": 64, "delta": dict.fromkeys(SCHEMA.tasks, 0.0)}
    isas = {"scalar": {"how": "C++", "normal": spread, "schema": spread, "auc": auc}, "amx": {"why": "not built"}}
    figures = {"offered": True, "why": "", "isas": isas, "rms": 1e-8, "max_abs": 1e-7, "delta_auc": 0.0}
    parity = {
        "tolerance": 1e-5,
        "seed": 0,
        "fp32": {"exported": {"normal": spread}},
        "config": model.config.to_json(),
        "network": model.network.to_json(),
        "golden": {"seed": 0, "scores": [[0.5, 0.25], [0.125, 1.0]]},
        "native": dict.fromkeys(("fp32", "bf16", "int8"), figures),
    }
    write_document(root / PARITY, parity)
    manifest = {
        "format_version": FORMAT_VERSION,
        "model_version": VERSION,
        "schema": SCHEMA.to_json(),
        "config": model.config.to_json(),
        "network": model.network.to_json(),
        "tasks": list(SCHEMA.tasks),
        "domains": list(SCHEMA.domains),
        "schema_hash": SCHEMA.hash,
        "precisions": BUDGETS,
        "files": describe_files(root),
        "tools": {"python": "3.11"},
        "meta": {},
    }
    write_document(root / MANIFEST, manifest)


def graph(widths: InputWidths) -> bytes:
    """Returns an ONNX graph with the inputs and the output of an exported one: a layer of ones and a sigmoid."""
    from onnx import TensorProto, helper, numpy_helper

    names = ("general", "domain", "prior")
    tasks = len(SCHEMA.tasks)
    weight = np.full((sum(getattr(widths, name) for name in names), tasks), 0.01, np.float32)
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Concat", list(names), ["x"], axis=1),
                helper.make_node("MatMul", ["x", "w"], ["y"]),
                helper.make_node("Sigmoid", ["y"], ["scores"]),
            ],
            "toy",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", getattr(widths, n)]) for n in names],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", tasks])],
            [numpy_helper.from_array(weight, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    data: bytes = model.SerializeToString()
    return data


def write_snapshots(bundle: Bundle, folder: Path) -> None:
    """Writes a snapshot of each width, with rows, negative entries and tombstones."""
    folder.mkdir()
    rows: Any = open_rows(bundle, "default", None)
    for table in SCHEMA.tables:
        keys = make_keys(table.number, np.arange(100, 103, dtype=np.uint64))
        rows.caches[table.dim].core.mark_absent(keys[:1])
        rows.caches[table.dim].core.erase(keys[1:], np.array([3, 4], np.uint64))
    for dim, cache in rows.caches.items():
        snapshot.save(cache.core, folder / str(dim))


def _changed(table: str) -> RowBatch:
    spec = SCHEMA.table_by_name[table]
    random = np.random.default_rng(spec.number)
    gone = (np.arange(5) == 2).astype(np.uint8)
    rows = random.standard_normal((5, spec.dim), dtype=np.float32) * (1 - gone[:, None]).astype(np.float32)
    return delta_rows(
        make_keys(spec.number, np.arange(1, 11, 2, dtype=np.uint64)),
        rows,
        np.array([8, 9, 8, 9, 9], np.uint64),
        np.array([0.5, np.nan, 0.1, 0.2, 0.3], np.float32),
        np.array([np.inf, 2e9, np.inf, 4e9, np.inf]),
        gone,
        random.standard_normal(spec.dim, dtype=np.float32) if table == "user" else None,
    )
