"""Columns no model can be served: each is refused with the column, what was expected, what came, and the row."""

from __future__ import annotations

import math
import re
from collections import defaultdict
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


NAN, INF = math.nan, math.inf


Refused = Callable[..., SchemaError]


def test_missing_column(toy_schema: FeatureSchema, batch: Batch) -> None:
    del batch["age"]
    flat = {name: batch[name] for name in ("user_id", "video_id", "tab", "duration")}
    for data, present in (
        (batch, "columns 'user_id', 'video_id', 'watched', 'tags', 'tab', 'duration'"),
        (pd.DataFrame(flat), "columns 'user_id', 'video_id', 'tab', 'duration'"),
        (pl.DataFrame(flat), "columns 'user_id', 'video_id', 'tab', 'duration'"),
        (pa.table(flat), "columns 'user_id', 'video_id', 'tab', 'duration'"),
        ({}, "no columns"),
    ):
        expected = r"^column '\w+': expected it in the batch, got "
        with pytest.raises(SchemaError, match=f"{expected}{re.escape(present)}$"):
            read_columns(data, toy_schema.columns)


def test_a_mapping_is_asked_whether_it_has_a_column() -> None:
    batch = defaultdict(list, a=[1])
    with pytest.raises(SchemaError, match=r"^column 'b': expected it in the batch, got columns 'a'$"):
        read_columns(batch, ["a", "b"])
    assert list(batch) == ["a"]

    class Lazy(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise KeyError("the loader's own")

    with pytest.raises(KeyError, match="the loader's own"):
        read_columns(Lazy(a=None), ["a"])


def test_a_long_list_of_columns_is_cut() -> None:
    wide = pa.table({f"c{i}": [1] for i in range(30)})
    expected = r"^column 'x': expected it in the batch, got columns 'c0', .*'c19' and 10 more$"
    with pytest.raises(SchemaError, match=expected):
        read_columns(wide, ["x"])


def test_extra_column() -> None:
    data = {"a": [1], "b": [2], "c": [3]}
    for batch in (data, pa.table(data), pd.DataFrame(data), pl.DataFrame(data)):
        assert read_columns(batch, ["a"])["a"].to_pylist() == [1]
        with pytest.raises(SchemaError, match=r"^unexpected columns 'b', 'c'; expected only 'a'$"):
            read_columns(batch, ["a"], strict=True)


def test_duplicate_column() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "b", "a"])
    frame = pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"])
    for batch in (table, table.to_batches()[0], frame):
        assert read_columns(batch, ["b"])["b"].to_pylist() == [2]
        with pytest.raises(SchemaError, match=r"^column 'a': expected one of that name, got 2$"):
            read_columns(batch, ["a"])


@pytest.mark.parametrize("batch", [None, 3, "user_id", [{"a": 1}], np.zeros(3), pa.array([1]), pl.Series([1])])
def test_what_is_no_batch(batch: object) -> None:
    with pytest.raises(SchemaError, match=r"^expected a batch \(a dict of columns, .*\), got \w+"):
        read_columns(batch, ["a"])


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (3, "expected a column .*, got int"),
        (None, "expected a column .*, got NoneType"),
        ("12", "expected a column .*, got str"),
        ({1, 2}, "expected a column .*, got set"),
        ({"a": 1}, "expected a column .*, got dict"),
        (np.array(7), r"expected an array of one dimension, got a single value \(0 dimensions\)"),
        (np.int64(7), r"expected an array of one dimension, got a single value \(0 dimensions\)"),
        (np.zeros((2, 2, 2)), "expected an array of one dimension, got 3 dimensions"),
        (np.zeros(2, dtype=[("id", "i8")]), r"expected plain values, got a NumPy array of \[\('id', '<i8'\)\]"),
        (np.zeros(2, dtype=complex), "expected plain values, got a NumPy array of complex128"),
        (np.array([1, "a"], dtype=object), "Could not convert 'a' with type str: tried to convert to int64"),
        ([1, "a"], "Could not convert 'a' with type str: tried to convert to int64"),
        (pd.Series([1, "a"], dtype=object), "Could not convert 'a' with type str"),
        ([object()], "Could not convert <object object"),
        ([2**64], "expected integers that are all within int64 or uint64, got 18446744073709551616 to"),
        (["\ud800"], r"expected text in UTF-8, got '\\ud800' at row 0"),
        ([[1], 2], "cannot mix list and non-list, non-null values at row 1"),
    ],
)
def test_what_is_no_column(data: object, got: str) -> None:
    with pytest.raises(SchemaError, match=f"^column 'x': {got}"):
        read_columns({"x": data}, ["x"])


HALF = "a\ud83db"  # a character of two halves, of which one is lost


@pytest.mark.parametrize(
    ("data", "row"),
    [
        (["x", None, "y", HALF, HALF], 3),
        (np.array(["x", "y", HALF]), 2),
        (np.ma.array(np.array(["x", HALF, HALF], object), mask=[False, True, False]), 2),
        (pd.Series(["x", HALF], index=[7.5, 3.0], dtype=object), 1),
        ([["x"], [], ["y", HALF]], 2),
        (np.array([["x", "y"], ["z", HALF]]), 1),
        ((["x", "y", "z", HALF], np.array([0, 2, 2, 4])), 2),
    ],
    ids=["list", "texts", "masked", "series", "bags", "equal bags", "pair"],
)
def test_text_that_is_none_has_a_row(data: object, row: int) -> None:
    with pytest.raises(SchemaError) as caught:
        read_columns({"x": data}, ["x"])
    assert str(caught.value) == f"column 'x': expected text in UTF-8, got 'a\\ud83db' at row {row}"
    assert (caught.value.column, caught.value.row) == ("x", row)


@pytest.mark.parametrize(("data", "row"), [([1, 2, 2**70], 2), (([1, 2, "x"], [0, 1, 3]), 1), (([1, "x"], "?"), None)])
def test_a_value_that_fits_no_other_has_a_row(data: object, row: int | None) -> None:
    with pytest.raises(SchemaError) as caught:
        read_columns({"x": data}, ["x"])
    assert caught.value.row == row


def test_unequal_lengths(batch: Batch, toy_schema: FeatureSchema) -> None:
    for data in ([1.0] * 3, np.ones(3)):
        with pytest.raises(SchemaError, match=r"^column 'age': expected 4 rows as in column 'user_id', got 3$"):
            read_columns(batch | {"age": data}, toy_schema.columns)
    with pytest.raises(SchemaError, match=r"^column 'tags': expected 4 rows as in column 'user_id', got 5$"):
        read_columns(batch | {"tags": ([1, 2], [0, 0, 1, 1, 2, 2])}, toy_schema.columns)


@pytest.mark.parametrize(
    ("data", "got"),
    [
        ([1.0, NAN, 3.0, 4.0], "nan at row 1"),
        ([1.0, 2.0, INF, -INF], "inf at row 2 (and 1 more)"),
        (np.array([-INF, 0, 0, 0], dtype=">f4"), "-inf at row 0"),
        (np.array([0, 0, 0, NAN], dtype=np.float16), "nan at row 3"),
        (pa.array([1.0, NAN, None, 4.0]), "nan at row 1"),
        (pl.Series([1.0, NAN, None, 4.0]), "nan at row 1"),
    ],
)
def test_nan_and_infinity(refused: Refused, data: object, got: str) -> None:
    refused("age", data, f"column 'age': expected finite numbers, got {got}")


def test_dense_too_large_for_float32(refused: Refused) -> None:
    numbers = "column 'age': expected numbers within float32"
    refused("age", [0.0, 1e300, -1e39, 0.0], f"{numbers}, got 1e+300 at row 1")  # -1e39 / std 10 is within
    refused("age", [0.0, 1.0, -1e40, 1e40], f"{numbers}, got -1e+40 at row 2 (and 1 more)")


def test_dense_of_another_type(refused: Refused) -> None:
    refused("duration", list("1234"), "column 'duration': expected numbers, got string")
    refused("duration", [[1.0]] * 4, "column 'duration': expected numbers, got large_list<item: double>")
    refused("duration", np.zeros(4, "m8[s]"), "column 'duration': expected numbers, got duration[s]")
    refused("duration", [1.0, None, None, 3.0], "column 'duration': expected no nulls, got null at row 1 (and 1 more)")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([1, 2, 3], [0, 1, 2, 1, 3]), "expected offsets that never decrease, got 1 after 2 at row 2"),
        (([1, 2, 3], [0, 1, 2, 3, 4]), "expected offsets within the values, got 4 with 3 values at row 3"),
        (([1, 2, 3], [0, 9, 9, 9, 9]), "expected offsets within the values, got 9 with 3 values at row 0"),
        (([], [1, 1, 1, 1, 1]), "expected offsets within the values, got 1 with 0 values at row 0"),
        (([1, 2, 3], [-1, 1, 2, 3, 3]), "expected offsets from 0, got -1 at row 0"),
        (([1, 2, 3], []), "expected one offset more than rows, got no offsets"),
        (([1, 2, 3], [0.0, 1.0, 2.0, 3.0, 3.0]), "expected integer offsets, got double"),
        (([1, 2, 3], [0, 1, None, 3, 3]), "expected integer offsets, got int64 with 1 nulls"),
        (([[1], [2]], [0, 1, 2, 2, 2]), "expected flat values beside the offsets, got large_list<item: int64>"),
        (([1, 2, 3],), "expected a pair (values, offsets), got a tuple of 1"),
        ((1, 2, 3), "expected a pair (values, offsets), got a tuple of 3"),
    ],
)
def test_bad_offsets(refused: Refused, pair: object, message: str) -> None:
    refused("tags", pair, f"column 'tags': {message}")


@pytest.mark.parametrize(("kind", "width"), [(pa.list_(pa.int64()), "i4"), (pa.large_list(pa.int64()), "i8")])
def test_bad_offsets_inside_arrow(batch: Batch, kind: pa.DataType, width: str) -> None:
    def lists(offsets: list[int]) -> pa.Array:  # Arrow itself looks at the last offset only
        buffer = pa.py_buffer(np.array(offsets, dtype=width))
        return pa.Array.from_buffers(kind, len(offsets) - 1, [None, buffer], children=[pa.array([1, 2])])

    broken = [lists(offsets) for offsets in ([0, 1, 0, 1, 2], [0, 1, 2, 9, 2], [0, -1, 1, 2, 2])]
    broken += [lists([0, 1, 2, 9, 9, 2])[:4], lists([0, -1, 1, 2, 2, 2])[1:], pa.table({"t": broken[0]})["t"]]
    for array in broken:
        with pytest.raises(SchemaError, match=r"^column 'tags': expected valid Arrow data, got ") as caught:
            read_columns(batch | {"tags": array}, ["tags"])
        assert caught.value.column == "tags"


def test_offsets_too_large_for_int64(refused: Refused) -> None:
    with pytest.raises(SchemaError, match=r"^column 'x': Integer value 18446744073709551615 not in range"):
        read_columns({"x": ([1], np.array([0, 2**64 - 1], dtype=np.uint64))}, ["x"])


def test_bad_views() -> None:
    views = pa.ListViewArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array([2, 5], pa.int32()), pa.array([1, 2]))
    with pytest.raises(SchemaError, match=r"^column 'x': expected valid Arrow data, got .* size for slot 1 out"):
        read_columns({"x": views}, ["x"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2, 3, 4], "expected lists of integer ids, got int64"),
        (["1,2", "3", "", "4"], "expected lists of integer ids, got string"),
        ([[1.0], [], [2.0], []], "expected lists of integer ids, got double"),
        ([["a"], [], [], []], "expected lists of integer ids (texts need a field with hashed: true), got string"),
        ([[[1]], [], [], []], "expected lists of integer ids, got large_list<item: int64>"),
        ([[True], [], [], []], "expected lists of integer ids, got bool"),
        ([[1], None, [2], None], "expected no nulls, got null at row 1 (and 1 more)"),
        ([[1], [2, None], [None], []], "expected no nulls, got null at row 1 (and 1 more)"),
        ([None] * 4, "expected no nulls, got null at row 0 (and 3 more)"),
    ],
)
def test_bags_of_another_type(refused: Refused, data: object, message: str) -> None:
    refused("watched", data, f"column 'watched': {message}")


def test_no_rows(toy_schema: FeatureSchema, toy_batch: Callable[..., Batch]) -> None:
    for empty in (toy_batch(0), {name: [] for name in toy_schema.columns}):
        features = Encoder(toy_schema, {}).encode(read_columns(empty, toy_schema.columns))
        assert features.num_rows == 0
        assert {len(keys) for keys in features.ids.values()} == {0}
        assert {tuple(bag.offsets) for bag in features.bags.values()} == {(0,)}
        assert {len(values) for values in features.dense.values()} == {0}


def _in_lists(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def _in_itself(kind: type) -> object:
    if kind is dict:
        whole: dict[str, object] = {}
        whole["x"] = whole
        return whole
    if kind is np.ndarray:
        array = np.empty(1, object)
        array[0] = array
        return array
    inside: list[object] = []
    inside.append(inside)
    return inside if kind is list else (inside,)


@pytest.mark.parametrize(
    "value", [*map(_in_lists, (20, 1000, 100_000)), *map(_in_itself, (list, tuple, dict, np.ndarray))]
)
def test_containers_that_lie_too_deep_in_each_other(value: object) -> None:
    # whoever converts them recurses: the process ended, or it was a RecursionError
    array = np.empty(2, object)
    array[0] = array[1] = value
    for column in ([1, value], (value, [0]), array, array.reshape(1, 2), [array]):
        with pytest.raises(SchemaError, match="column 'x': "):
            read_columns({"x": column}, ["x"])


def test_types_that_lie_too_deep_in_each_other() -> None:
    kind: pa.DataType = pa.int64()
    for _ in range(500):
        kind = pa.list_(kind)
    for column in (pa.nulls(2, kind), pa.chunked_array([pa.nulls(1, kind)] * 2), pa.nulls(2, pa.struct({"a": kind}))):
        with pytest.raises(SchemaError, match="column 'x': expected types at most 16 deep"):
            read_columns({"x": column}, ["x"])


def test_names_whose_repr_raises() -> None:
    class Name:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(SchemaError, match="column 'x': expected it in the batch, got columns a Name without a repr"):
        read_columns({Name(): [1]}, ["x"])
