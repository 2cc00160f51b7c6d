"""Python values in a list, an object array, or an object series of pandas are read alike."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.features import Features
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import MISSING_KEY, hash_integers, make_keys

WIDE = [1, 1 << 48, 1 << 63, (1 << 64) - 1]
NOTHING = np.array([])


def objects(values: list[Any]) -> npt.NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        array[place] = value
    return array


def series(values: list[Any]) -> pd.Series[Any]:
    return pd.Series(objects(values), dtype=object)


FORMS: list[Callable[[list[Any]], object]] = [list, objects, series]


@pytest.fixture(scope="module")
def encode() -> Callable[[str, object], Features]:
    """Returns `encode(field, column)` of one field, whose column may hold nulls."""
    fields = [
        {"name": "id", "kind": "id", "side": "item", "table": "t", "nullable": True},
        {"name": "hashed", "kind": "id", "side": "item", "table": "t", "hashed": True, "nullable": True},
        {"name": "bag", "kind": "bag", "side": "item", "table": "t", "nullable": True},
        {"name": "hashed_bag", "kind": "bag", "side": "item", "table": "t", "hashed": True, "nullable": True},
        {"name": "dense", "kind": "dense", "side": "item", "mean": 0.0, "std": 1.0, "nullable": True, "fill": 7.0},
        {"name": "page", "kind": "id", "side": "domain", "table": "t", "column": "tab", "inputs": ["domain"]},
    ]
    data = {"name": "s", "tables": {"t": {"dim": 4}}, "fields": fields, "tasks": {"click": "c"}}
    schema = FeatureSchema.from_json(data | {"domain": {"column": "tab", "values": [0]}})
    encoders = {spec.name: Encoder(schema, {}, [spec.name]) for spec in schema.fields if spec.name != "page"}
    return lambda field, column: encoders[field].encode(read_columns({field: column}, [field]))


Encode = Callable[[str, object], Features]


@pytest.mark.parametrize("form", FORMS)
def test_integers_up_to_64_bits(encode: Encode, form: Callable[[list[Any]], object]) -> None:
    expected = make_keys(0, hash_integers(np.array(WIDE, dtype=np.uint64)))
    np.testing.assert_array_equal(encode("hashed", form(WIDE)).ids["hashed"], expected)
    np.testing.assert_array_equal(encode("hashed", pl.Series(WIDE)).ids["hashed"], expected)
    found = encode("hashed", form([*WIDE, None])).ids["hashed"]
    assert found.tolist() == [*expected.tolist(), int(MISSING_KEY)]
    bags = encode("hashed_bag", form([WIDE[:1], None, [], WIDE[1:]])).bags["hashed_bag"]
    np.testing.assert_array_equal(bags.keys, expected)
    assert bags.offsets.tolist() == [0, 1, 1, 1, 4]
    assert encode("dense", form([1 << 63, 1.5])).dense["dense"].tolist() == [2.0**63, 1.5]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("rows", "keys", "offsets"),
    [
        ([np.array([1]), NOTHING, np.array([2, 3])], [1, 2, 3], [0, 1, 1, 3]),
        ([NOTHING, NOTHING], [], [0, 0, 0]),
        ([[], NOTHING, [4]], [4], [0, 0, 0, 1]),
        ([NOTHING, None, np.array([5])], [5], [0, 0, 0, 1]),
        ([np.array([1], dtype=np.uint64), np.array([2], dtype=np.int8), (3,)], [1, 2, 3], [0, 1, 2, 3]),
        ([[np.int8(1), np.uint64(2)], [3, None]], [1, 2, 3], [0, 2, 3]),
        ([[1, pd.NA], [2]], [1, 2], [0, 1, 2]),
    ],
)
def test_bags(
    encode: Encode, form: Callable[[list[Any]], object], rows: list[Any], keys: list[int], offsets: list[int]
) -> None:
    bag = encode("bag", form(rows)).bags["bag"]
    assert (bag.keys & np.uint64((1 << 48) - 1)).tolist() == keys
    assert bag.offsets.tolist() == offsets


@pytest.mark.parametrize("form", FORMS)
def test_texts_beside_an_array_of_nothing(encode: Encode, form: Callable[[list[Any]], object]) -> None:
    expected = encode("hashed_bag", [["a"], [], ["b"]]).bags["hashed_bag"]
    for rows in ([["a"], NOTHING, ["b"]], [np.array(["a"]), NOTHING, np.array(["b"])]):
        found = encode("hashed_bag", form(rows)).bags["hashed_bag"]
        np.testing.assert_array_equal(found.keys, expected.keys)
        np.testing.assert_array_equal(found.offsets, expected.offsets)


@pytest.mark.parametrize("form", FORMS)
def test_nulls_of_pandas(encode: Encode, form: Callable[[list[Any]], object]) -> None:
    for null in (None, pd.NA, pd.NaT):
        assert encode("id", form([1, null])).ids["id"].tolist() == [1, int(MISSING_KEY)]
        assert encode("dense", form([1.0, null])).dense["dense"].tolist() == [1.0, 7.0]


def test_nan_is_a_null_in_pandas_only(encode: Encode) -> None:
    assert encode("id", series([1, np.nan])).ids["id"].tolist() == [1, int(MISSING_KEY)]
    assert encode("bag", series([[1, np.nan], np.nan, [1 << 47]])).bags["bag"].offsets.tolist() == [0, 1, 1, 2]
    for form in (list, objects):
        with pytest.raises(SchemaError, match=r"^column 'id': expected integer ids, got double \(1 NaN\)$"):
            encode("id", form([1, np.nan]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("hashed", [-1, 1 << 63], "expected integers that are all within int64 or uint64, got -1 to 92233720"),
        ("hashed_bag", [[-1], [1 << 63]], "expected integers that are all within int64 or uint64, got -1 to"),
        ("hashed", [1, 1 << 64], "expected integers that are all within int64 or uint64, got 1 to 18446744"),
        ("hashed", [1, 1 << 5000], "expected integers that are all within .*, got 1 to an integer of 5001 bits"),
        ("id", [1, 1 << 63], r"expected ids in \[0, 2\^48\), got 9223372036854775808 at row 1"),
        ("hashed", ["a", 1], "Expected bytes, got a 'int' object"),
        ("id", [True, False], "expected integer ids, got bool"),
        ("id", [1, True], "Expected integer, got bool"),
        ("id", [b"1", b"2"], "expected integer ids, got binary"),
        ("id", [Decimal(1)], "expected integer ids, got decimal"),
        ("id", [np.float32(1), 2], "expected integer ids, got double"),
        ("bag", [[1.0], [2]], "expected lists of integer ids, got double"),
        ("bag", [[1], 2], "cannot mix list and non-list"),
        ("dense", [1 + 2j], r"Could not convert \(1\+2j\)"),
        ("dense", [True, 1.0], "Could not convert 1.0 with type float"),
    ],
)
def test_the_same_error(
    encode: Encode, form: Callable[[list[Any]], object], field: str, values: list[Any], message: str
) -> None:
    with pytest.raises(SchemaError, match=rf"^column '{field}': {message}"):
        encode(field, form(values))


@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_several_kinds(encode: Encode, form: Callable[[list[Any]], object]) -> None:
    assert encode("dense", form([Decimal("1.5"), 2])).dense["dense"].tolist() == [1.5, 2.0]
    assert encode("dense", form([np.float32(1), np.float64(2), 3])).dense["dense"].tolist() == [1.0, 2.0, 3.0]
    assert encode("id", form([np.int8(1), np.int64(2), 3, np.uint64(4)])).ids["id"].tolist() == [1, 2, 3, 4]


def test_masked_objects(encode: Encode) -> None:
    masked = np.ma.MaskedArray(objects([1, 1 << 63]), mask=[True, False])
    assert encode("hashed", masked).ids["hashed"][0] == MISSING_KEY


@pytest.mark.parametrize("form", FORMS)
def test_what_a_mask_hides_in_a_bag_is_a_null(encode: Encode, form: Callable[[list[Any]], object]) -> None:
    rows = [np.ma.array([1, 2, 3], mask=[False, True, False]), np.array([4]), [np.ma.masked, 5]]
    bag = encode("bag", form(rows)).bags["bag"]
    assert (bag.keys & np.uint64((1 << 48) - 1)).tolist() == [1, 3, 4, 5]
    assert bag.offsets.tolist() == [0, 2, 3, 4]
    with pytest.raises(SchemaError, match=r"column 'bag': expected lists in all rows or in none, got single values"):
        encode("bag", form([np.ma.array([1]), 2]))


@pytest.mark.parametrize("form", FORMS)
def test_dates_of_numpy_end_no_process(encode: Encode, form: Callable[[list[Any]], object]) -> None:
    date, dates = np.datetime64(1, "s"), np.array([1], "M8[s]")
    for field, values in (
        ("id", [date, np.uint64(1)]),
        ("bag", [dates, np.array([1])]),
        ("bag", [[[], dates], np.array([1])]),
        ("bag", [[date], np.array([1])]),
        ("bag", [objects([date]), np.array([1])]),
        ("bag", [{"a": dates}, {"a": np.array([1])}]),
        ("bag", [np.array([1]), np.array([5], "M8[ns]")]),  # whose list is one of integers
        ("bag", [np.array([5], "m8[ns]"), np.array([1])]),
        ("dense", [np.timedelta64(5, "ns"), 1 << 63]),
    ):
        with pytest.raises(
            SchemaError, match=rf"^column '{field}': expected numbers, .*got dates or durations of NumPy"
        ):
            encode(field, form(values))
    for nothing in (dates[:0], np.array([], "m8[s]"), np.array([], "S"), np.array([], "c16")):
        assert encode("bag", form([nothing, np.array([1])])).bags["bag"].offsets.tolist() == [0, 0, 1]


def test_lists_without_an_end(encode: Encode) -> None:
    itself: list[Any] = []
    itself.append(itself)
    array = objects([None])
    array[0] = array
    mapping: dict[str, Any] = {}
    mapping["a"] = mapping
    deep: list[Any] = [1]
    for _ in range(100_000):
        deep = [deep]
    for column in (itself, array, [mapping], deep):
        with pytest.raises(SchemaError, match=r"^column 'bag': expected lists at most 16 deep, got deeper ones"):
            encode("bag", column)
    nested = pa.array([1])
    for _ in range(1000):
        nested = pa.LargeListArray.from_arrays(pa.array([0, len(nested)], pa.int64()), nested)
    with pytest.raises(SchemaError, match=r"^column 'bag': expected types at most 16 deep in each other"):
        encode("bag", nested)


def test_an_array_of_nothing_has_any_type(encode: Encode) -> None:
    assert encode("id", NOTHING).num_rows == 0
    assert encode("hashed", pd.Series(NOTHING)).num_rows == 0
    assert encode("bag", np.empty((3, 0))).bags["bag"].offsets.tolist() == [0, 0, 0, 0]
    assert encode("bag", (NOTHING, [0, 0])).bags["bag"].offsets.tolist() == [0, 0]
    with pytest.raises(SchemaError, match="expected integer ids, got double"):  # a typed column says what it will hold
        encode("id", pa.array([], pa.float64()))
