"""Columns of plain numbers are read many at a time: the same features, and the same errors, as one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pepnet_infer import _kernels
from pepnet_infer._kernels import NumberColumns, SideRows, signed_log1p
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.features import Features
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import MISSING_KEY

INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
LIMIT = 2**48


def shaped(values: np.ndarray, how: str) -> np.ndarray:
    """The same values with gaps, backwards in memory, at an odd address, or as they are."""
    if how == "gaps":
        wide = np.zeros(3 * len(values), values.dtype)
        wide[1::3] = values
        return wide[1::3]
    if how == "backwards":
        return values[::-1].copy()[::-1]
    if how == "odd":
        return np.frombuffer(b"x" + values.tobytes(), values.dtype, len(values), offset=1)
    return values


SHAPES = st.sampled_from(["plain", "gaps", "backwards", "odd"])


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_integers_become_keys_or_are_left_out(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(INTEGERS)))
    info = np.iinfo(dtype)
    low, high = data.draw(st.sampled_from([(0, min(int(info.max), LIMIT - 1)), (int(info.min), int(info.max))]))
    values = data.draw(st.lists(st.integers(low, high), max_size=40))
    tables = data.draw(st.lists(st.integers(0, 0xFFFE), min_size=1, max_size=3))
    column = shaped(np.array(values, dtype), data.draw(SHAPES))
    reader = NumberColumns(2, [(1, table) for table in tables], [])
    keys, dense, left, left_dense = reader.read([None, column], [], len(values))
    good = all(0 <= value < LIMIT for value in values)
    assert (left, dense, left_dense) == ([0] if good else [0, 1], [], [])
    if good:
        assert [key.tolist() for key in keys] == [[(table << 48) | value for value in values] for table in tables]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_numbers_are_scaled_or_left_out(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from([*INTEGERS, "f4", "f8"])))
    if dtype.kind == "f":
        numbers: st.SearchStrategy[Any] = st.floats(width=8 * dtype.itemsize)
    else:
        numbers = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    values = np.array(data.draw(st.lists(numbers, max_size=30)), dtype)
    scale = data.draw(st.just((0.0, 1.0)) | st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3)))
    log1p = data.draw(st.booleans())
    reader = NumberColumns(0, [], [(log1p, scale)])
    _, [got], _, left = reader.read([], [shaped(values, data.draw(SHAPES))], len(values))
    doubles = values.astype(np.float64)
    with np.errstate(all="ignore"):
        bent = _kernels.signed_log1p(doubles) if log1p and np.isfinite(doubles).all() else doubles
        wanted = ((bent - scale[0]) / scale[1]).astype(np.float32)
    good = bool(np.isfinite(doubles).all() and np.isfinite(wanted).all())
    assert left == ([] if good else [0])
    if good:
        np.testing.assert_array_equal(got, wanted)


def test_log1p_is_that_of_the_formula_and_one_value_has_one_result() -> None:
    random = np.random.default_rng(4)
    values = np.concatenate(
        [[0.0, -0.0, 1e308, -1e308, 5e-324], random.normal(size=500) * 10.0 ** random.integers(-300, 300, 500)]
    )
    got = _kernels.signed_log1p(values)
    assert signed_log1p(values).tobytes() == got.tobytes()
    for value, result in zip(values.tolist(), got.tolist(), strict=True):
        wanted = math.copysign(math.log1p(abs(value)), value)
        assert abs(result - wanted) <= 2.5 * math.ulp(wanted)
        assert math.copysign(1.0, result) == math.copysign(1.0, value)
    for size in (1, 2, 3, 500):
        assert _kernels.signed_log1p(values[-size:].copy()).tobytes() == got[-size:].tobytes()


def test_what_is_no_plain_array_is_left_out_or_refused() -> None:
    reader = NumberColumns(1, [(0, 3)], [(False, (0.0, 1.0))])
    for odd in (
        np.array([1, 2], ">i8"),
        np.array([True, False]),
        np.array(["a", "b"]),
        np.array([1, 2], object),
        np.array([1, 2], "M8[s]"),
        np.array([[1], [2]]),
        np.array([1, 2], np.float16),
        np.array([1, 2], np.longdouble),
    ):
        assert reader.read([odd], [odd], 2)[2:] == ([0], [0])
    assert reader.read([np.array([1.0, 2.0])], [np.array([1.0, 2.0])], 2)[2:] == ([0], [])
    with pytest.raises(ValueError, match=r"columns: expected 2 rows, got int64 \[3\]"):
        reader.read([np.arange(3)], [None], 2)
    with pytest.raises(TypeError, match="columns: expected arrays or None"):
        reader.read([[1, 2]], [None], 2)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="expected 1 columns of ids and 1 of dense values, got 0 and 1"):
        reader.read([], [None], 2)
    with pytest.raises(ValueError, match="uses: expected columns below 1, got 1"):
        NumberColumns(1, [(1, 0)], [])


SCHEMA: dict[str, Any] = {
    "name": "s",
    "tables": {"a": {"dim": 2}, "b": {"dim": 2}},
    "fields": [
        {"name": "user", "kind": "id", "side": "user", "table": "a", "hashed": True},
        {"name": "again", "kind": "id", "side": "user", "table": "b", "column": "user", "hashed": True},
        {"name": "item", "kind": "id", "side": "item", "table": "a", "nullable": True},
        {"name": "hour", "kind": "id", "side": "item", "table": "b", "column": "time", "transform": "hour"},
        {
            "name": "price",
            "kind": "dense",
            "side": "item",
            "transform": "log1p",
            "mean": 1.0,
            "std": 2.0,
            "nullable": True,
        },
        {"name": "age", "kind": "dense", "side": "user", "mean": 30.0, "std": 10.0, "fill": 7.0, "nullable": True},
    ],
    "domain": {"column": "tab", "values": [0, 1, 2]},
    "tasks": {"click": "click"},
}
Batch = dict[str, np.ndarray]


def batch_of(rows: int) -> Batch:
    random = np.random.default_rng(rows)
    return {
        "user": random.integers(0, 1000, rows).astype(np.int32),
        "item": random.integers(0, LIMIT, rows),
        "time": random.integers(0, 2**41, rows),
        "price": random.normal(size=rows) * 100,
        "age": random.integers(10, 90, rows).astype(np.uint8),
        "tab": random.integers(0, 3, rows).astype(np.int8),
    }


def encoded(schema: FeatureSchema, batch: object) -> Features:
    encoder = Encoder(schema, {})
    return encoder.encode(read_columns(batch, encoder.columns))


def flat(features: Features) -> list[tuple[str, bytes]]:
    return [(name, values.tobytes()) for part in (features.ids, features.dense) for name, values in part.items()]


@pytest.fixture(scope="module")
def schema() -> FeatureSchema:
    return FeatureSchema.from_json(SCHEMA)


LISTS: tuple[Callable[[Batch], object], ...] = (
    lambda batch: {name: values.tolist() for name, values in batch.items()},
    lambda batch: {name: np.ma.masked_array(values) for name, values in batch.items()},
    lambda batch: {name: values.astype(values.dtype.newbyteorder(">")) for name, values in batch.items()},
    lambda batch: pa.table(batch),
    lambda batch: pa.table({name: pa.chunked_array([values[:1], values[1:]]) for name, values in batch.items()}),
    pd.DataFrame,
)


@pytest.mark.parametrize("rows", [0, 1, 9, 2000])
def test_every_form_of_a_batch_has_the_same_features(schema: FeatureSchema, rows: int) -> None:
    batch = batch_of(rows)
    wanted = flat(encoded(schema, batch))
    assert [name for name, _ in wanted] == ["user", "again", "item", "hour", "price", "age"]
    for form in LISTS:
        if rows > 0 or form is not LISTS[0]:  # an empty list has no type
            assert flat(encoded(schema, form(batch))) == wanted


def test_one_odd_value_changes_its_own_row_alone(schema: FeatureSchema) -> None:
    """A null, a wide id or a long integer sends the whole column the other way; nobody else's bits may change."""
    batch = batch_of(50)
    before = encoded(schema, batch)
    odd = {
        "user": batch["user"].astype(np.int64),
        "item": pa.array([None, *batch["item"][1:]]),
        "price": pa.array([None, *batch["price"][1:]]),
        "age": pa.array([None, *batch["age"][1:]]),
    }
    odd["user"][0] = -5
    after = encoded(schema, batch | odd)
    for part in ("ids", "dense"):
        for name, values in getattr(after, part).items():
            assert values[1:].tobytes() == getattr(before, part)[name][1:].tobytes()
    assert after.ids["item"][0] == MISSING_KEY
    assert after.dense["age"][0] == np.float32((7.0 - 30.0) / 10.0)
    assert after.ids["user"][0] != before.ids["user"][0]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("item", -1, r"column 'item': expected ids in \[0, 2\^48\), got -1 at row 3"),
        ("item", LIMIT, r"column 'item': expected ids in \[0, 2\^48\), got 281474976710656 at row 3"),
        ("price", np.nan, "column 'price': expected finite numbers, got nan at row 3"),
        ("price", -np.inf, "column 'price': expected finite numbers, got -inf at row 3"),
        ("age", 1e300, r"column 'age': expected numbers within float32, got 1e\+300 at row 3"),
        ("tab", 7, r"column 'tab': expected a known domain \(0, 1, 2\), got 7 at row 3"),
        ("tab", -1, r"column 'tab': expected a known domain \(0, 1, 2\), got -1 at row 3"),
    ],
)
def test_a_bad_value_is_named(schema: FeatureSchema, column: str, value: float, message: str) -> None:
    batch = batch_of(1200)  # more than are worked on at once
    if isinstance(value, float):
        batch[column] = batch[column].astype(np.float64)
    batch[column][3] = value
    with pytest.raises(SchemaError, match=message):
        encoded(schema, batch)
    encoder = Encoder(schema, {})
    found = encoder.encode_rows(read_columns(batch, encoder.columns))
    assert np.flatnonzero(found.bad).tolist() == [3]


def test_a_column_of_the_wrong_type_is_named(schema: FeatureSchema) -> None:
    for column, values, message in (
        ("item", np.array([1.0, 2.0]), "column 'item': expected integer ids, got double"),
        ("tab", np.array([1.0, 2.0]), "column 'tab': expected integer domains, got double"),
        ("price", np.array(["a", "b"]), "column 'price': expected numbers, got string"),
    ):
        with pytest.raises(SchemaError, match=message):
            encoded(schema, batch_of(2) | {column: values})


def test_what_is_masked_is_a_null(schema: FeatureSchema) -> None:
    batch: dict[str, Any] = dict(batch_of(3))
    batch["age"] = np.ma.masked_array(batch["age"], [False, True, False])
    assert encoded(schema, batch).dense["age"][1] == np.float32((7.0 - 30.0) / 10.0)
    batch["user"] = np.ma.masked_array(batch["user"], [False, False, True])
    with pytest.raises(SchemaError, match="column 'user': expected no nulls, got null at row 2"):
        encoded(schema, batch)


def test_features_are_nobody_elses(schema: FeatureSchema) -> None:
    batch = batch_of(4)
    first = encoded(schema, batch)
    kept = flat(first)
    for values in batch.values():
        values[:] = 0
    encoded(schema, batch)
    assert flat(first) == kept


def test_side_rows_check_what_they_are_made_of() -> None:
    keys, bag = np.array([5, 9], np.uint64), (np.arange(3, dtype=np.uint64), np.array([0, 1, 3, 3]))
    ids, dense = np.arange(6, dtype=np.uint64).reshape(3, 2), np.zeros((3, 0), np.float32)
    rows = SideRows(keys, ids, dense, [bag])
    got, values, [(inside, offsets)] = rows.take(np.array([9, 7, 9], np.uint64), [1], [], [0])
    assert (got.tolist(), values.shape) == ([[3, 5, 3]], (0, 3))
    assert (inside.tolist(), offsets.tolist()) == ([1, 2, 1, 2], [0, 2, 2, 4])
    for arguments, message in (
        ((keys, ids[:2], dense, [bag]), r"ids: expected \[3, fields\] without gaps"),
        ((keys, ids.T, dense, [bag]), r"ids: expected \[3, fields\] without gaps"),
        ((keys, ids, dense[:1], [bag]), r"dense: expected \[3, fields\] without gaps"),
        ((keys, ids, dense, [(bag[0], bag[1][:3])]), r"bag offsets: expected \[4\]"),
        ((keys, ids, dense, [(bag[0][:2], bag[1])]), "offsets: expected ascending values"),
        ((keys, ids, dense, [(bag[0], bag[1][::-1].copy())]), "offsets: expected ascending values"),
    ):
        with pytest.raises(ValueError, match=message):
            SideRows(*arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ids: expected uint64"):
        SideRows(keys, ids.astype(np.int64), dense, [])  # type: ignore[arg-type]
    for places in (([2], [], []), ([], [0], []), ([], [], [1])):
        with pytest.raises(ValueError, match="expected fields below"):
            rows.take(keys, *places)
