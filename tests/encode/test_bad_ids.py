"""Ids and domains no model can be served: of other types, outside of their range, or missing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema

pytestmark = pytest.mark.hostile

Batch = dict[str, Any]
Refused = Callable[..., SchemaError]


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (np.array([1.0, 2.0, 3.0, 4.0]), "double"),
        (np.array([1.0, math.nan, 3.0, math.nan], dtype=np.float32), "float (2 NaN)"),
        (pa.array([1.0, None, None, None]), "double (3 nulls)"),
        (pd.Series([1.0, None, 3.0, 4.0]), "double (1 null)"),
        (pd.Series([1.0, None, 3.0, 4.0], dtype="Float32"), "float (1 null)"),
        (pd.Series([True, None, False, True], dtype="boolean"), "bool (1 null)"),
        (np.array([True, False, True, True]), "bool"),
        ([b"1", b"2", b"3", b"4"], "binary"),
        (np.array([1, 2, 3, 4], dtype="M8[ms]"), "timestamp[ms]"),
        (pa.array([1, 2, 3, 4]).cast(pa.decimal128(20, 0)), "decimal128(20, 0)"),
        ([{"a": 1}] * 4, "struct<a: int64>"),
        (np.ones((4, 2), dtype=np.int64), "large_list<item: int64>"),
    ],
)
def test_ids_of_another_type(refused: Refused, data: object, got: str) -> None:
    refused("user_id", data, f"column 'user_id': expected integer ids, got {got}")


@pytest.mark.parametrize(
    "data",
    [list("1234"), np.array(list("1234")), pa.array(list("1234")).dictionary_encode(), pl.Series(list("1234"))],
)
def test_ids_as_text(refused: Refused, data: object) -> None:
    got = "large_string" if isinstance(data, pl.Series) else "string"
    hint = "integer ids (texts need a field with hashed: true)"
    refused("user_id", data, f"column 'user_id': expected {hint}, got {got}")


def test_null_ids(refused: Refused) -> None:
    for data in ([1, None, 3, None], pd.Series([1, None, 3, None], dtype="Int32"), pl.Series([1, None, 3, None])):
        error = refused("video_id", data, "column 'video_id': expected no nulls, got null at row 1 (and 1 more)")
        assert error.row == 1
    refused("video_id", [1, 2, 3, None], "column 'video_id': expected no nulls, got null at row 3")
    refused("video_id", [None] * 4, "column 'video_id': expected no nulls, got null at row 0 (and 3 more)")


@pytest.mark.parametrize("dtype", ["i1", "i4", "i8", ">i8"])
def test_negative_ids(refused: Refused, dtype: str) -> None:
    data = np.array([1, 2, -5, -6], dtype=dtype)
    refused("user_id", data, "column 'user_id': expected ids in [0, 2^48), got -5 at row 2 (and 1 more)")


def test_ids_beyond_48_bits(refused: Refused) -> None:
    refused("user_id", [0, 2**48 - 1, 2**48, 1], f"column 'user_id': expected ids in [0, 2^48), got {2**48} at row 2")
    refused(
        "user_id",
        np.array([0, 1, 2, 2**64 - 1], dtype=np.uint64),
        f"column 'user_id': expected ids in [0, 2^48), got {2**64 - 1} at row 3",
    )
    expected = "column 'watched': expected ids in [0, 2^48), got -3 at row 1"
    error = refused("watched", [[1], [2, -3, 2**50], [], []], expected)
    assert (error.row, error.rows) == (1, 1)
    refused("watched", [[1], [2, -3, 2**50], [-1], []], f"{expected} (and 1 more)")


@pytest.mark.parametrize(
    ("data", "got"),
    [
        ([0, 1, 2, 4], "2 at row 2"),
        (np.array([-1, 0, 0, 0], dtype=np.int8), "-1 at row 0"),
        ([0, 99, 99, 99], "99 at row 1 (and 2 more)"),
        (np.array([0, 1, 4, 2**64 - 1], dtype=np.uint64), f"{2**64 - 1} at row 3"),
    ],
)
def test_unknown_domain(toy_schema: FeatureSchema, batch: Batch, data: object, got: str) -> None:
    message = f"column 'tab': expected a known domain (0, 1, 4), got {got}"
    schema = FeatureSchema.from_json(toy_schema.to_json() | {"fields": toy_schema.to_json()["fields"][:4]})
    with pytest.raises(SchemaError, match=f"^{re.escape(message)}$"):  # no field reads the domain
        Encoder(schema, {}).encode(read_columns(batch | {"tab": data}, schema.columns))
    if min(np.array(data).tolist()) >= 0 and max(np.array(data).tolist()) < 2**48:
        with pytest.raises(SchemaError, match=f"^{re.escape(message)}$"):
            Encoder(toy_schema, {}).encode(read_columns(batch | {"tab": data}, toy_schema.columns))


def test_domains_of_another_type(toy_schema: FeatureSchema, batch: Batch) -> None:
    data = toy_schema.to_json()
    schema = FeatureSchema.from_json(data | {"fields": data["fields"][:4]})
    words = FeatureSchema.from_json(
        data | {"fields": data["fields"][:4], "domain": {"column": "tab", "values": ["a", "b"]}}
    )
    for s, tab, message in (
        (schema, [0.0, 1.0, 1.0, math.nan], r"expected integer domains, got double \(1 NaN\)"),
        (schema, ["0", "1", "1", "1"], "expected integer domains, got string"),
        (schema, [True, True, False, False], "expected integer domains, got bool"),
        (schema, [0, None, 1, 1], "expected no nulls, got null at row 1"),
        (words, [0, 1, 1, 1], "expected domains as strings, got int64"),
        (words, ["a", None, "b", "b"], "expected no nulls, got null at row 1"),
        (words, ["a", "c", "b", "c"], r"expected a known domain \('a', 'b'\), got 'c' at row 1 \(and 1 more\)"),
        (words, [None] * 4, r"expected no nulls, got null at row 0 \(and 3 more\)"),
    ):
        with pytest.raises(SchemaError, match=f"^column 'tab': {message}$"):
            Encoder(s, {}).encode(read_columns(batch | {"tab": tab}, s.columns))


def test_an_unknown_domain_is_told_the_known_ones_of_which_a_long_list_is_cut(toy_schema: FeatureSchema) -> None:
    schema = FeatureSchema.from_json(toy_schema.to_json() | {"domain": {"column": "tab", "values": list(range(25))}})
    encoder = Encoder(schema, {}, ["page"])
    with pytest.raises(
        SchemaError, match=r"expected a known domain \(0, 1, .*, 19 and 5 more\), got 30 at row 1$"
    ) as told:
        encoder.encode(read_columns({"tab": [24, 30]}, encoder.columns))
    assert (told.value.column, told.value.row, told.value.got) == ("tab", 1, "30")
