"""Columns become the keys, bags and dense values that plain Python says they should."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from pepnet_infer.encode.column_rule import ColumnRule
from pepnet_infer.encode.columns import Columns, read_columns
from pepnet_infer.encode.decode import decode_ids
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.features import Bag
from pepnet_infer.encode.row_errors import RowErrors
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import MISSING_KEY

MISSING = int(MISSING_KEY)


def schema_of(*fields: dict[str, Any], domains: list[int] | list[str] | None = None) -> FeatureSchema:
    """Fields of two tables, numbers 3 and 7; dense ones without normalisation unless they say so."""
    defaults = {"side": "item"}
    done = []
    for spec in fields:
        spec = defaults | spec
        spec |= {"mean": 0.0, "std": 1.0} | spec if spec["kind"] == "dense" else {"table": "a"} | spec
        done.append(spec)
    return FeatureSchema.from_json(
        {
            "name": "t",
            "tables": {"a": {"dim": 4, "number": 3}, "b": {"dim": 4, "number": 7}},
            "fields": done,
            "domain": {"column": "page", "values": domains or [0, 1]},
            "tasks": {"click": "click"},
        }
    )


def encoded(spec: dict[str, Any], data: object) -> Any:
    """Encodes one field `x`; the domain stays out of it."""
    schema = schema_of({"name": "x"} | spec)
    return Encoder(schema, {}, ["x"]).encode(read_columns({"x": data}, ["x"]))


def ids(spec: dict[str, Any], data: object) -> list[int]:
    keys = encoded({"kind": "id"} | spec, data).ids["x"]
    assert keys.dtype == np.uint64
    return [int(k) for k in keys]


def bag(spec: dict[str, Any], data: object) -> list[list[int]]:
    found = encoded({"kind": "bag"} | spec, data).bags["x"]
    assert found.keys.dtype == np.uint64
    assert found.offsets.dtype == np.int64
    assert found.offsets[0] == 0
    assert found.offsets[-1] == len(found.keys)
    return as_lists(found)


def as_lists(found: Bag) -> list[list[int]]:
    return [[int(k) for k in found.keys[a:b]] for a, b in zip(found.offsets, found.offsets[1:], strict=False)]


def dense(spec: dict[str, Any], data: object) -> np.ndarray:
    values = encoded({"kind": "dense"} | spec, data).dense["x"]
    assert values.dtype == np.float32
    return values


def key(value: int | str, table: int = 3) -> int:
    if isinstance(value, str):
        low = xxhash.xxh3_64(value.encode()).intdigest() % 2**48
    elif not 0 <= value < 2**48:
        low = xxhash.xxh3_64((value % 2**64).to_bytes(8, "little")).intdigest() % 2**48
    else:
        low = value
    return table * 2**48 + low


def test_ids_are_exact_up_to_48_bits() -> None:
    values = [0, 7, 2**48 - 1]
    assert ids({}, values) == [key(v) for v in values]
    assert ids({"table": "b"}, np.array(values, dtype=np.uint64)) == [key(v, 7) for v in values]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i8"])
def test_ids_of_every_integer_type(dtype: str) -> None:
    assert ids({}, np.array([0, 5, 100], dtype=dtype)) == [key(v) for v in (0, 5, 100)]


def test_hashed_ids() -> None:
    wide = [5, -1, -128, 2**48, 2**63 - 1, -(2**63), -1]
    assert ids({"hashed": True}, wide) == [key(v) for v in wide]
    assert ids({"hashed": True}, np.array([-1, 3], dtype=np.int8)) == [key(-1), key(3)]
    assert ids({"hashed": True}, np.array([2**64 - 1, 3], dtype=np.uint64)) == [key(2**64 - 1), key(3)]
    words = ["full_active", "", "30-60", "é", "full_active"]
    assert ids({"hashed": True}, words) == [key(w) for w in words]
    assert ids({"hashed": True}, pa.array(words).dictionary_encode()[1:]) == [key(w) for w in words[1:]]


def test_null_ids_are_missing_where_allowed() -> None:
    assert ids({"nullable": True}, [4, None, 6]) == [key(4), MISSING, key(6)]
    assert ids({"nullable": True, "hashed": True}, ["a", None]) == [key("a"), MISSING]
    assert ids({"nullable": True, "hashed": True}, [None, None]) == [MISSING, MISSING]
    assert ids({"nullable": True}, pa.nulls(2)) == [MISSING, MISSING]
    assert ids({"nullable": True, "transform": "hour"}, [None, 3_600_000]) == [MISSING, key(1)]


INSTANTS = [0, 1, 3_599_999, 3_600_000, 1_650_816_014_743, 1_651_363_199_999, -1, -86_400_001, 951_782_399_999]


@pytest.mark.parametrize("offset", [0.0, 8.0, 5.5, -3.5, 14.0])
def test_hour_and_weekday(offset: float) -> None:
    zone = timedelta(hours=offset)
    local = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms) + zone for ms in INSTANTS]
    hour, weekday = ({"op": op, "utc_offset": offset} for op in ("hour", "weekday"))
    assert ids({"transform": hour}, INSTANTS) == [key(t.hour) for t in local]
    assert ids({"transform": weekday}, INSTANTS) == [key(t.weekday()) for t in local]
    assert dense({"transform": hour}, INSTANTS).tolist() == [t.hour for t in local]


def test_hour_at_the_ends_of_the_integers() -> None:
    ends = [2**63 - 1, -(2**63)]
    expected = [(ms + 8 * 3_600_000) // 3_600_000 % 24 for ms in ends]
    assert ids({"transform": {"op": "hour", "utc_offset": 8}}, ends) == [key(h) for h in expected]
    large = np.array([2**64 - 1], dtype=np.uint64)
    assert ids({"transform": {"op": "hour", "utc_offset": 8}}, large) == [
        key((2**64 - 1 + 8 * 3_600_000) // 3_600_000 % 24)
    ]
    assert ids({"transform": "hour"}, np.array([100], dtype=np.int8)) == [key(0)]


def test_bucketize() -> None:
    spec = {"transform": {"op": "bucketize", "boundaries": [0, 1.5, 10]}}
    values = [-5.0, 0.0, 1.4999, 1.5, 9.99, 10.0, 1e300]
    assert ids(spec, values) == [key(i) for i in (0, 1, 1, 2, 2, 3, 3)]
    assert ids(spec, [-1, 0, 1, 2, 10]) == [key(i) for i in (0, 1, 1, 2, 3)]
    assert dense(spec, values).tolist() == [0, 1, 1, 2, 2, 3, 3]


def test_bags() -> None:
    rows = [[1, 2, 3], [], [4], [5, 6, 7, 8, 9]]
    assert bag({}, rows) == [[key(v) for v in row] for row in rows]
    assert bag({"max_len": 3}, rows) == [[key(v) for v in row[-3:]] for row in rows]
    assert bag({"max_len": 9}, rows) == [[key(v) for v in row] for row in rows]
    assert bag({"hashed": True}, [["x", "y"], [], ["x"]]) == [[key("x"), key("y")], [], [key("x")]]
    assert bag({}, [[], []]) == [[], []]
    assert bag({}, []) == []


def test_nulls_in_bags_are_dropped_before_the_last_values_are_taken() -> None:
    rows = [[1, None, 2, 3, None], None, [None], [4]]
    assert bag({"nullable": True}, rows) == [[key(1), key(2), key(3)], [], [], [key(4)]]
    assert bag({"nullable": True, "max_len": 2}, rows) == [[key(2), key(3)], [], [], [key(4)]]
    assert bag({"nullable": True}, pa.nulls(2)) == [[], []]


def test_separated_texts() -> None:
    texts = ["39", "28, 7 ,39", "", " ", ",,5,", "00012"]
    numbers = [[39], [28, 7, 39], [], [], [5], [12]]
    assert bag({"separator": ","}, texts) == [[key(v) for v in row] for row in numbers]
    assert bag({"separator": ",", "max_len": 2}, texts) == [[key(v) for v in row[-2:]] for row in numbers]
    words = [["a b", "c"], [], ["c"]]
    assert bag({"separator": "::", "hashed": True}, ["a b:: c", "", "c"]) == [[key(w) for w in row] for row in words]
    assert bag({"separator": ",", "nullable": True}, ["1", None]) == [[key(1)], []]
    assert bag({"separator": ","}, pa.array(["9", "1,2", "3"]).dictionary_encode()[1:]) == [[key(1), key(2)], [key(3)]]


def test_dense_is_transformed_filled_normalised_in_this_order() -> None:
    spec = {"nullable": True, "fill": 7.0, "mean": 2.0, "std": 4.0, "transform": "log1p"}
    got = dense(spec, [0.0, None, -3.0, 1e9])
    raw = [0.0, 7.0, -math.log1p(3.0), math.log1p(1e9)]
    np.testing.assert_array_equal(got, np.array([(v - 2.0) / 4.0 for v in raw], dtype=np.float32))
    as_they_are = spec | {"mean": 0.0, "std": 1.0}
    np.testing.assert_array_equal(dense(as_they_are, [0.0, None]), np.array([0.0, 7.0], dtype=np.float32))


def test_dense_of_every_number_type() -> None:
    for data in (
        [1, 2],
        np.array([1, 2], dtype=np.float16),
        np.array([1, 2], dtype=">f4"),
        np.array([1, 2], dtype=np.uint8),
        [Decimal("1.0"), Decimal("2.0")],
    ):
        assert dense({}, data).tolist() == [1.0, 2.0]
    assert dense({}, [True, False]).tolist() == [1.0, 0.0]


def test_dense_does_not_alias_its_source() -> None:
    source = np.array([1.0, 2.0], dtype=np.float32)
    values = dense({}, source)
    values[:] = 0.0
    assert source.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("unfitted", ["mean", "std"])
def test_a_dense_field_that_is_not_fitted_is_refused(unfitted: str) -> None:
    with pytest.raises(SchemaError, match=r"schema.fields.x: expected mean and std, got none: train with the schema"):
        dense({"mean": 0.5, "std": 2.0, unfitted: None}, [1.0])


DOMAIN = ({"name": "page", "kind": "id", "inputs": ["domain"]}, {"name": "x", "kind": "id"})


def test_the_domain_is_checked_only_where_it_is_read() -> None:
    schema = schema_of(*DOMAIN)
    columns = read_columns({"page": [0, 5], "x": [1, 2]}, ["page", "x"])
    with pytest.raises(SchemaError, match=r"column 'page': expected a known domain \(0, 1\), got 5 at row 1"):
        Encoder(schema, {}).encode(columns)
    with pytest.raises(SchemaError, match="known domain"):
        Encoder(schema, {}, ["page"]).encode(columns)
    assert Encoder(schema, {}, ["x"]).encode(columns).ids["x"].tolist() == [key(1), key(2)]
    assert Encoder(schema, {}).columns == ("page", "x")
    assert Encoder(schema, {}, ["x"]).columns == ("x",)


def test_a_domain_that_is_no_field_is_checked_too() -> None:
    schema = schema_of(DOMAIN[1])
    assert Encoder(schema, {}).columns == ("x", "page")
    with pytest.raises(SchemaError, match="known domain"):
        Encoder(schema, {}).encode(read_columns({"page": [2], "x": [1]}, schema.columns))


def test_domains_of_strings() -> None:
    page = DOMAIN[0] | {"hashed": True}
    schema = schema_of(page, domains=["home", "search"])
    good = Encoder(schema, {}).encode(read_columns({"page": ["search", "home", "search"]}, ["page"]))
    assert good.ids["page"].tolist() == [key("search"), key("home"), key("search")]
    with pytest.raises(SchemaError, match=r"expected a known domain \('home', 'search'\), got 'Home' at row 1"):
        Encoder(schema, {}).encode(read_columns({"page": ["home", "Home"]}, ["page"]))


def test_bad_rows_are_told_from_good_ones() -> None:
    schema = schema_of(
        *DOMAIN,
        {"name": "b", "kind": "bag"},
        {"name": "t", "kind": "bag", "separator": ","},
        {"name": "d", "kind": "dense", "fill": 9.0},
    )
    batch = {
        "page": [0, 5, 1, None, 1, 0, 0, 0],
        "x": [1, 2, -3, 4, 5, None, 7, 8],
        "b": [[1], [2], [3], [4], [5, -5, 6], [6], [7], [None, 8]],
        "t": ["1", "2", "3", "4", "5", "6", "7,x", "8"],
        "d": [0.0, 1.0, math.nan, 3.0, math.inf, 5.0, 6.0, 7.0],
    }
    columns = read_columns(batch, schema.columns)
    result = Encoder(schema, {}).encode_rows(columns)
    features, bad = result.features, result.bad
    assert bad.tolist() == [False, True, True, True, True, True, True, True]
    assert features.ids["x"].tolist()[2] == MISSING
    assert as_lists(features.bags["b"])[4] == [key(5), key(6)]
    assert features.dense["d"].tolist() == [0.0, 1.0, 9.0, 3.0, 9.0, 5.0, 6.0, 7.0]
    assert sorted((e.column, e.rows, e.row) for e in result.errors) == [
        ("b", 1, 4),
        ("b", 1, 7),
        ("d", 2, 2),
        ("page", 1, 1),
        ("page", 1, 3),
        ("t", 1, 6),
        ("x", 1, 2),
        ("x", 1, 5),
    ]


def test_a_null_domain_is_not_also_an_unknown_one() -> None:
    for domains, page in (([3, 4], [3, None]), (["a", "b"], ["b", None])):
        schema = schema_of(DOMAIN[1], domains=domains)
        result = Encoder(schema, {}).encode_rows(read_columns({"page": page, "x": [1, 2]}, schema.columns))
        assert [str(error) for error in result.errors] == ["column 'page': expected no nulls, got null at row 1"]


def test_messy_numbers_that_are_no_ids_are_missing_once_collected() -> None:
    rule = ColumnRule("x", lenient=True)
    errors = RowErrors(5, collect=True)
    found, missing = decode_ids(rule, pa.array([4.0, 2.5, None, math.inf, -1.0]), errors)
    assert missing is not None
    assert missing.tolist() == [False, True, True, True, True]
    assert errors.bad.tolist() == [False, True, False, True, True]
    assert found[0] == 4


def test_errors_have_a_place() -> None:
    with pytest.raises(SchemaError) as caught:
        ids({}, [1, 2, -7])
    assert (caught.value.column, caught.value.row) == ("x", 2)


def test_fields_must_exist() -> None:
    schema = schema_of({"name": "x", "kind": "id"})
    with pytest.raises(SchemaError, match=r"expected fields of the schema \(x\), got 'y'"):
        Encoder(schema, {}, ["y"])


def test_a_transform_of_another_kind_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"\(x\): transform: expected one of none, .*, got 'log1p'"):
        schema_of({"name": "x", "kind": "id", "transform": "log1p"})


@pytest.mark.parametrize(
    ("options", "got"), [({"separator": ""}, "an empty one"), ({"transform": "hour"}, "transform 'hour'")]
)
def test_a_separator_that_cannot_be_used_is_refused(options: dict[str, str], got: str) -> None:
    with pytest.raises(SchemaError, match=rf"\(x\): separator: expected text and no transform, got {got}"):
        schema_of({"name": "x", "kind": "bag", "separator": ","} | options)


def test_columns_that_were_not_read_are_missing() -> None:
    schema = schema_of(*DOMAIN)
    with pytest.raises(SchemaError, match="column 'x': expected it in the batch, got columns 'page'"):
        Encoder(schema, {}).encode(Columns({"page": pa.array([0])}, 1))
