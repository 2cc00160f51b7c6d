"""Every accepted form of a column and of a batch gives the same values."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.errors import SchemaError

NUMBERS = [3, 1, 4, 1, 5]
WORDS = ["b", "a", "b", "", "é"]
BAGS = [[1, 2], [], [3], [4, 5, 6], []]
HOLES = [3, None, 4, None, 5]


def only(data: object) -> pa.Array:
    return read_columns({"x": data}, ["x"])["x"]


def strided(values: list[int]) -> np.ndarray:
    wide = np.zeros(2 * len(values), dtype=np.int64)
    wide[::2] = values
    return wide[::2]


@pytest.mark.parametrize(
    "data",
    [
        np.array(NUMBERS),
        np.array(NUMBERS, dtype=np.int8),
        np.array(NUMBERS, dtype=">i4"),
        np.array(NUMBERS, dtype=">u8"),
        np.array(NUMBERS[::-1])[::-1],
        strided(NUMBERS),
        np.array(NUMBERS, dtype=object),
        np.asfortranarray(np.array([NUMBERS, NUMBERS]))[1],
        NUMBERS,
        [np.int32(n) for n in NUMBERS],
        pa.array(NUMBERS, pa.uint16()),
        pa.array([9, *NUMBERS, 9])[1:6],
        pa.array(NUMBERS).dictionary_encode(),
        pa.chunked_array([NUMBERS[:2], [], NUMBERS[2:]]),
        pa.chunked_array([pa.array(NUMBERS[:2]).dictionary_encode(), pa.array(NUMBERS[2:]).dictionary_encode()]),
        pa.compute.run_end_encode(pa.array(NUMBERS)),
        pd.Series(NUMBERS, index=[4, 3, 2, 1, 0]),
        pd.Series(NUMBERS, dtype="Int64"),
        pd.Series(NUMBERS, dtype="int32[pyarrow]"),
        pd.Series(NUMBERS, dtype="category"),
        pd.Series(np.array(NUMBERS, dtype=">i8")),
        pd.array(NUMBERS, dtype="UInt8"),
        pd.Index(NUMBERS),
        pl.Series(NUMBERS),
        pl.Series(NUMBERS, dtype=pl.UInt8),
    ],
)
def test_integers_in_every_form(data: object) -> None:
    array = only(data)
    assert pa.types.is_integer(array.type)
    assert array.to_pylist() == NUMBERS
    assert array.null_count == 0


@pytest.mark.parametrize(
    "data",
    [
        np.array(WORDS),
        np.array(WORDS, dtype=">U4"),
        np.array(WORDS, dtype=object),
        np.array(WORDS, dtype=np.dtypes.StringDType()),
        WORDS,
        pa.array(WORDS),
        pa.array(WORDS, pa.large_string()),
        pa.array(WORDS, pa.string_view()),
        pa.array(WORDS).dictionary_encode(),
        pd.Series(WORDS),
        pd.Series(WORDS, dtype=object),
        pd.Series(WORDS, dtype="string[python]"),
        pd.Series(WORDS, dtype="string[pyarrow]"),
        pd.Series(WORDS, dtype="category"),
        pl.Series(WORDS),
        pl.Series(WORDS, dtype=pl.Categorical),
        pl.Series(WORDS, dtype=pl.Enum(["a", "b", "", "é"])),
    ],
)
def test_strings_in_every_form(data: object) -> None:
    array = only(data)
    assert pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    assert array.to_pylist() == WORDS


@pytest.mark.parametrize(
    "data",
    [
        BAGS,
        [np.array(bag, dtype=np.int32) for bag in BAGS],
        np.array([np.array(bag) for bag in BAGS], dtype=object),
        (np.arange(1, 7), [0, 2, 2, 3, 6, 6]),
        (list(range(1, 7)), np.array([0, 2, 2, 3, 6, 6], dtype=">i4")),
        (np.arange(-4, 20), np.array([5, 7, 7, 8, 11, 11], dtype=np.uint64)),  # starts late, ends early
        (pa.array(range(1, 7)).dictionary_encode(), pa.array([0, 2, 2, 3, 6, 6])),
        pa.array(BAGS),
        pa.array(BAGS, pa.large_list(pa.int16())),
        pa.array([[9, 9], *BAGS, [9]])[1:6],
        pa.array([[9, 9], *BAGS, [9]], pa.large_list(pa.int64()))[1:6],
        pa.array(BAGS, pa.list_view(pa.int64())),
        pa.array(BAGS, pa.large_list_view(pa.int64())),
        pa.ListViewArray.from_arrays(  # out of order and overlapping
            pa.array([4, 0, 6, 1, 0], pa.int32()),
            pa.array([2, 0, 1, 3, 0], pa.int32()),
            pa.array([0, 4, 5, 6, 1, 2, 3]),
        ),
        pa.ListArray.from_arrays(pa.array([0, 2, 2, 3, 6, 6], pa.int32()), pa.array(range(1, 7)).dictionary_encode()),
        pa.chunked_array([pa.array(BAGS[:2]), pa.array(BAGS[2:])]),
        pa.chunked_array([pa.array([[7], *BAGS[:2]])[1:], pa.array([[7], [8], *BAGS[2:]])[2:]]),
        pd.Series(BAGS),
        pd.Series([np.array(bag) for bag in BAGS]),
        pd.Series(BAGS, dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
        pl.Series(BAGS),
    ],
)
def test_bags_in_every_form(data: object) -> None:
    array = only(data)
    assert isinstance(array, pa.LargeListArray)
    assert array.to_pylist() == BAGS
    assert array.offsets.to_pylist() == [0, 2, 2, 3, 6, 6]
    assert array.values.to_pylist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "data",
    [
        np.array([[1, 2], [3, 4], [5, 6]]),
        np.array([[1, 3, 5], [2, 4, 6]], dtype=">i4").T,
        pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2)),
        pa.array([[9, 9], [1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2))[1:],
        pl.Series([[1, 2], [3, 4], [5, 6]], dtype=pl.Array(pl.Int64, 2)),
    ],
)
def test_bags_of_equal_length(data: object) -> None:
    array = only(data)
    assert isinstance(array, pa.LargeListArray)
    assert array.to_pylist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    "data",
    [
        HOLES,
        np.array(HOLES, dtype=object),
        np.ma.masked_array([3, 8, 4, 8, 5], [0, 1, 0, 1, 0]),
        pa.array(HOLES),
        pa.array([1, None, *HOLES])[2:],
        pd.Series(HOLES, dtype="Int64"),
        pd.Series(HOLES, dtype="int64[pyarrow]"),
        pl.Series(HOLES),
    ],
)
def test_nulls_are_kept(data: object) -> None:
    assert only(data).to_pylist() == HOLES


def test_nan_is_a_null_in_pandas_and_a_value_elsewhere() -> None:
    values = [1.5, float("nan")]
    assert only(pd.Series(values)).null_count == 1
    assert only(pd.Series(np.array(values, dtype=">f4"))).null_count == 1
    assert read_columns(pd.DataFrame({"x": values}), ["x"])["x"].null_count == 1
    for data in (np.array(values), values, pa.array(values), pl.Series(values)):
        assert only(data).null_count == 0


def test_null_lists_are_empty_whatever_lies_behind_them() -> None:
    hidden = pa.ListArray.from_arrays(pa.array([0, 2, 4, 5], pa.int32()), pa.array([1, 2, 3, 4, 5]))
    masked = pa.Array.from_buffers(
        hidden.type, 3, [pa.py_buffer(bytes([0b101])), hidden.buffers()[1]], children=[hidden.values]
    )
    fixed = pa.array([[1, 2], None, [5, 6]], pa.list_(pa.int64(), 2))
    for data, values in ((masked, [1, 2, 5]), (fixed, [1, 2, 5, 6]), (fixed[1:], [5, 6]), (masked[1:], [5])):
        array = only(data)
        assert array.to_pylist() == data.to_pylist()
        assert array.values.to_pylist() == values
        assert array.offsets.to_pylist()[-1] == len(values)


def test_the_upper_half_of_uint64() -> None:
    big = [2**64 - 1, 5]
    for data in (big, np.array(big, dtype=np.uint64), pa.array(big, pa.uint64()), pl.Series(big, dtype=pl.UInt64)):
        assert only(data).to_pylist() == big
    assert only([big, []]).to_pylist() == [big, []]


def test_numbers_are_not_copied() -> None:
    values = np.arange(1000, dtype=np.int64)
    assert only(values).buffers()[1].address == values.ctypes.data
    assert only((values, [0, 1000])).values.buffers()[1].address == values.ctypes.data


class Stream:
    """A stranger's table: nothing but the capsule."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


class Struct:
    """A stranger's record batch."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self._batch.__arrow_c_array__(requested_schema)


TABLE = pa.table({"n": NUMBERS, "unused": [{"a": 1}] * 5, "w": pa.array(WORDS).dictionary_encode(), "b": BAGS})
FRAME = {"n": NUMBERS, "unused": [{"a": 1}] * 5, "w": WORDS, "b": BAGS}


@pytest.mark.parametrize(
    "batch",
    [
        FRAME,
        TABLE,
        TABLE.to_batches()[0],
        pa.concat_tables([TABLE[:2], TABLE[2:2], TABLE[2:]]),
        pa.concat_tables([TABLE[3:], TABLE, TABLE[:2]])[2:7],
        pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches()),
        pd.DataFrame(FRAME, index=[5, 5, 5, 5, 5]),
        TABLE.to_pandas(types_mapper=pd.ArrowDtype),
        pl.DataFrame(FRAME),
        Stream(TABLE),
        Struct(TABLE.to_batches()[0]),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_batches_in_every_form(batch: Any) -> None:
    check(batch)


def test_a_relation_of_duckdb() -> None:
    with duckdb.connect() as connection:
        relation = connection.from_arrow(TABLE)
        check(relation)
        assert read_columns(relation.limit(0), ["n", "w", "b"]).num_rows == 0
        assert read_columns(connection.sql("SELECT n * 2 AS m FROM relation WHERE n > 3"), ["m"])["m"].to_pylist() == [
            8,
            10,
        ]


def check(batch: object) -> None:
    columns = read_columns(batch, ["w", "n", "b", "n"])
    assert columns.num_rows == 5
    with pytest.raises(SchemaError, match=r"^column 'unused': expected it in the batch, got columns 'w', 'n', 'b'$"):
        columns["unused"]
    assert columns["n"].to_pylist() == NUMBERS
    assert columns["w"].to_pylist() == WORDS
    assert columns["b"].to_pylist() == BAGS


def test_no_rows() -> None:
    empty = TABLE[:0]
    for batch in (
        {"n": [], "w": np.array([], dtype="U1"), "b": ([], [0])},
        {"n": np.array([]), "w": [], "b": []},
        empty,
        pa.table({"n": pa.chunked_array([], pa.int64()), "w": pa.array([], pa.string()), "b": pa.array([], pa.null())}),
        empty.to_pandas(),
        pl.DataFrame(FRAME)[:0],
    ):
        columns = read_columns(batch, ["n", "w", "b"])
        assert columns.num_rows == 0
        assert [len(columns[name]) for name in ("n", "w", "b")] == [0, 0, 0]


def test_strict_wants_exactly_the_named_columns() -> None:
    exact = {"n": NUMBERS, "w": WORDS}
    for batch in (exact, pa.table(exact), pd.DataFrame(exact), pl.DataFrame(exact)):
        assert read_columns(batch, ["n", "w"], strict=True).num_rows == 5
