"""Values that a field's own rules refuse: separated texts, times, intervals, and text that is none."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema

pytestmark = pytest.mark.hostile

NAN, INF = math.nan, math.inf


def schema_of(field: dict[str, Any]) -> FeatureSchema:
    return FeatureSchema.from_json(
        {
            "name": "s",
            "tables": {"t": {"dim": 2}},
            "fields": [field],
            "domain": {"column": "page", "values": [0]},
            "tasks": {"click": "click"},
        }
    )


SPLIT = {"name": "x", "kind": "bag", "side": "item", "table": "t", "separator": ","}
TIME = {"name": "x", "kind": "id", "side": "context", "table": "t", "transform": "hour"}
BUCKET = {"name": "x", "kind": "id", "side": "item", "table": "t", "transform": {"op": "bucketize", "boundaries": [1]}}


@pytest.mark.parametrize(
    ("field", "data", "message"),
    [
        (SPLIT, [[1], [2]], "expected texts separated by ',', got large_list<item: int64>"),
        (SPLIT, [1, 2], "expected texts separated by ',', got int64"),
        (SPLIT, ["1", "2,a,b"], "expected integers between the separators, got 'a' at row 1"),
        (SPLIT, ["1", "2.0"], "expected integers between the separators, got '2.0' at row 1"),
        (SPLIT, ["1", "٣"], "expected integers between the separators, got '٣' at row 1"),
        (SPLIT, ["1", "3,-1"], "expected ids in [0, 2^48), got '-1' at row 1"),
        (SPLIT, ["9" * 99, "1"], f"expected ids in [0, 2^48), got '{'9' * 99}' at row 0"),
        (SPLIT, ["1", None], "expected no nulls, got null at row 1"),
        (TIME, [1.0, 2.0], "expected unix milliseconds (integers), got double"),
        (TIME, ["1", "2"], "expected unix milliseconds (integers), got string"),
        (TIME, pa.array([1, 2], pa.timestamp("ms")), "expected unix milliseconds (integers), got timestamp[ms]"),
        (TIME, [None, 2], "expected no nulls, got null at row 0"),
        (BUCKET, [1.0, NAN], "expected finite numbers, got nan at row 1"),
        (BUCKET, [INF, 0.0], "expected finite numbers, got inf at row 0"),
        (BUCKET, ["1", "2"], "expected numbers, got string"),
        (BUCKET, [None, 2], "expected no nulls, got null at row 0"),
    ],
)
def test_fields_with_a_transform_or_separator(field: dict[str, Any], data: object, message: str) -> None:
    schema = schema_of(field)
    with pytest.raises(SchemaError, match=f"^column 'x': {re.escape(message)}$"):
        Encoder(schema, {}, ["x"]).encode(read_columns({"x": data}, ["x"]))


def test_text_that_is_no_utf8() -> None:
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))
    schema = schema_of({"name": "x", "kind": "id", "side": "item", "table": "t", "hashed": True})
    with pytest.raises(SchemaError, match=r"^column 'x': expected valid Arrow data, got Invalid UTF8 sequence"):
        Encoder(schema, {}, ["x"]).encode(read_columns({"x": broken}, ["x"]))
