"""What was written is what is read, to the bit, for any rows a delta may have."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sync_deltas import delta_rows

from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.network.network import Network
from pepnet_infer.schema.feature_schema import FeatureSchema, TableSpec
from pepnet_infer.schema.network_config import InputWidths, ModelConfig
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.sync.delta import DeltaHead, open_delta, read_head, write_delta
from pepnet_infer.sync.logs.directory import DirectoryLog

pytestmark = pytest.mark.property

SCHEMA = FeatureSchema.from_json(
    {
        "name": "small",
        "tables": {"user": {"dim": 3, "number": 0}, "tab": {"dim": 1, "number": 65534}},
        "fields": [
            {"name": "user", "kind": "id", "side": "user", "table": "user", "inputs": ["general", "prior"]},
            {"name": "tab", "kind": "id", "side": "domain", "table": "tab", "inputs": ["domain"]},
        ],
        "domain": {"column": "tab", "values": [0, 1]},
        "tasks": {"click": "is_click"},
    }
)
CONFIG = ModelConfig(InputWidths(**SCHEMA.widths), layers=(4,), towers=(2,), experts=2)
DENSE = random_dense(CONFIG, 1, 0)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
VALUES = st.floats(-1e6, 1e6, width=32)  # of rows


@st.composite
def heads(draw: st.DrawFn) -> DeltaHead:
    base = draw(st.integers(0, 2**63 - 2))
    version = draw(st.integers(base + 1, min(2**63 - 1, base + draw(st.sampled_from([1, 5, 2**40, 2**63])))))
    time = draw(st.floats(-1e12, 1e12))
    return DeltaHead(base, version, draw(st.integers(0, 2**63 - 1)), time, SCHEMA.hash)


@st.composite
def rows_of(draw: st.DrawFn, spec: TableSpec, head: DeltaHead) -> RowBatch:
    ids = sorted(draw(st.sets(st.integers(0, 2**48 - 1), max_size=12)))
    count = len(ids)

    def array(dtype: Any, shape: Any, elements: st.SearchStrategy[Any]) -> Any:
        return draw(arrays.arrays(dtype, shape, elements=elements))

    return delta_rows(
        keys=np.array(ids, np.uint64) | np.uint64(spec.number << 48),
        rows=array(np.float32, (count, spec.dim), VALUES),
        versions=array(np.uint64, count, st.integers(head.base_version + 1, head.model_version)),
        scores=array(np.float32, count, FLOATS | st.just(float("nan"))),
        expires=array(np.float64, count, st.floats(allow_nan=False, allow_infinity=False) | st.just(float("inf"))),
        tombstones=array(np.uint8, count, st.integers(0, 1)),
        default=draw(st.none() | arrays.arrays(np.float32, spec.dim, elements=VALUES)),
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_delta_is_read_as_it_was_written(data: st.DataObject) -> None:
    head = data.draw(heads())
    tables = data.draw(st.sets(st.sampled_from(SCHEMA.tables)))
    rows = {spec.name: data.draw(rows_of(spec, head)) for spec in tables}
    dense = data.draw(st.sampled_from([None, DENSE]))
    onnx = data.draw(st.none() | st.binary(max_size=50)) if dense is not None else None
    folder = Path(tempfile.mkdtemp())
    try:
        made = write_delta(folder / "delta", head, rows, dense, onnx)
        log = DirectoryLog(folder / "log", create=True)
        log.append(made)
        [entry] = log.read("")
        for path in (made, entry.path):
            assert read_head(path) == head
            found = open_delta(path, SCHEMA, Network.derived(CONFIG, len(SCHEMA.tasks)))
            assert (found.head, found.onnx) == (head, onnx)
            assert (found.dense is None) == (dense is None)
            for name, weights in (dense or {}).items():
                assert found.dense is not None
                assert found.dense[name].tobytes() == weights.tobytes()
            changed = {name: table for name, table in rows.items() if len(table.keys) or table.default is not None}
            assert set(found.rows) == set(changed)
            for name, table in changed.items():
                for got, expected in zip(vars(found.rows[name]).values(), vars(table).values(), strict=True):
                    assert (got is None) == (expected is None)
                    if got is not None and expected is not None:
                        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
                        assert got.tobytes() == expected.tobytes()  # the sign of zero too
                        assert got.flags.aligned
            assert found.bytes == sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) - _manifest(path)
    finally:
        shutil.rmtree(folder)


def _manifest(path: Path) -> int:
    return (path / "manifest.json").stat().st_size
