"""Arrow data whose offsets, indices, run ends, views or counts are wrong: refused before anything computes with it."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer import Engine
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.errors import SchemaError
from pepnet_infer.parquet import score_parquet

pytestmark = pytest.mark.hostile

INT, TEXT = pa.int64(), pa.string()
SECRET = b"what lies behind the buffer"
Make = Callable[[], pa.Array]


def numbers(values: list[int], dtype: str = "i4") -> pa.Buffer:
    return pa.py_buffer(np.array(values, dtype=dtype))


def build(kind: Any, length: int, buffers: list[Any], *children: pa.Array, nulls: int = -1) -> pa.Array:
    if pa.types.is_string_view(kind) and int(pa.__version__.split(".")[0]) < 20:
        pytest.skip("pyarrow before 20 makes no array of string views from buffers")
    return pa.Array.from_buffers(kind, length, buffers, null_count=nulls, children=list(children) or None)


def texts(offsets: list[int], kind: Any = TEXT, data: bytes = b"abc") -> pa.Array:
    width = "i4" if kind == TEXT else "i8"
    return build(kind, len(offsets) - 1, [None, numbers(offsets, width), pa.py_buffer(data)])


def view(length: int, prefix: bytes, buffer: int, start: int, data: bytes = b"abcd" * 5) -> pa.Array:
    entry = pa.py_buffer(struct.pack("<i4sii", length, prefix, buffer, start))
    return build(pa.string_view(), 1, [None, entry, pa.py_buffer(data)])


def views(starts: list[int], sizes: list[int]) -> pa.Array:
    return build(pa.list_view(INT), len(starts), [None, numbers(starts), numbers(sizes)], pa.array([1, 2]))


def runs(ends: list[int], length: int) -> pa.Array:
    kind = pa.run_end_encoded(pa.int32(), INT)
    return build(kind, length, [None], pa.array(ends, pa.int32()), pa.array(range(len(ends)), INT))


def coded(indices: list[int], values: pa.Array, kind: Any = INT) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(indices, kind), values, safe=False)


BAD: dict[str, Make] = {
    "texts descend": lambda: texts([0, 3, 1]),
    "texts leave and come back": lambda: texts([0, 1 << 30, 1, 2]),
    "texts start below": lambda: texts([0, -(1 << 30), 1, 2]),
    "large texts leave": lambda: texts([0, 1 << 60, 1, 2], pa.large_string()),
    "no UTF-8": lambda: texts([0, 1, 3], data=b"a\xff\xfe"),
    "half a letter": lambda: texts([0, 1, 2], data="é".encode()),
    "surrogates": lambda: texts([0, 3], data=b"\xed\xa0\x80"),
    "lists descend": lambda: build(pa.list_(INT), 2, [None, numbers([0, 2, 1])], pa.array([1, 2])),
    "lists leave": lambda: build(pa.list_(INT), 3, [None, numbers([0, 9, 1, 2])], pa.array([1, 2])),
    "texts in lists leave": lambda: build(pa.list_(TEXT), 1, [None, numbers([0, 3])], texts([0, 1 << 30, 1, 2])),
    "lists in lists leave": lambda: build(
        pa.list_(pa.list_(INT)),
        1,
        [None, numbers([0, 3])],
        build(pa.list_(INT), 3, [None, numbers([0, 9, 1, 2])], pa.array([1, 2])),
    ),
    "dictionary index above": lambda: coded([0, 5], pa.array(["a"])),
    "dictionary index below": lambda: coded([0, -5], pa.array(["a"])),
    "dictionary index of 64 bits": lambda: coded([0, 2**64 - 1], pa.array([1]), pa.uint64()),
    "texts of a dictionary leave": lambda: coded([0, 1], texts([0, 1 << 30, 1, 2])),
    "dictionary of a dictionary": lambda: coded([0, 1], coded([0, 7], pa.array(["a"]))),
    "indices in lists leave": lambda: pa.ListArray.from_arrays(pa.array([0, 2]), coded([0, 9], pa.array([1]))),
    "run end of 0": lambda: runs([0, 4], 4),
    "run ends below": lambda: runs([-1, 4], 4),
    "run ends descend": lambda: runs([3, 1, 4], 4),
    "list view leaves": lambda: views([0, 1], [1, 9]),
    "list view below": lambda: views([0, -1], [1, 1]),
    "list view of a negative size": lambda: views([0, 1], [1, -1]),
    "view into no buffer": lambda: view(20, b"abcd", 3, 0),
    "view leaves": lambda: view(20, b"abcd", 0, 8),
    "view below": lambda: view(20, b"abcd", 0, -8),
    "view of a negative size": lambda: view(-20, b"abcd", 0, 0),
    "view of no UTF-8": lambda: view(20, b"\xffbcd", 0, 0, b"\xffbcd" * 5),
    "too many nulls": lambda: build(INT, 8, [pa.py_buffer(b"\xff"), numbers(list(range(8)), "i8")], nulls=3),
    "an extension over bad texts": lambda: pa.ExtensionArray.from_storage(
        pa.opaque(TEXT, "kind", "maker"), texts([0, 1 << 30, 1, 2])
    ),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_damage_is_refused_in_every_form(make: Make) -> None:
    array = make()
    wrong = r"^column 'x': expected valid Arrow data, got "
    for batch in (
        {"x": array},
        {"x": pa.chunked_array([array, array])},
        {"x": array.slice(len(array) - 1) if len(array) == 1 else array},
        pa.table({"x": array}),
        pa.record_batch({"x": array}),
    ):
        with pytest.raises(SchemaError, match=wrong) as caught:
            read_columns(batch, ["x"])
        assert caught.value.column == "x"
    assert read_columns(pa.table({"x": array, "y": pa.array([1] * len(array))}), ["y"])["y"].to_pylist()


def test_damage_behind_pandas_is_refused() -> None:
    series = pd.Series(pd.arrays.ArrowExtensionArray(texts([0, 1 << 30, 1, 2], pa.large_string())))
    for batch in ({"x": series}, pd.DataFrame({"x": series})):
        with pytest.raises(SchemaError, match=r"^column 'x': expected valid Arrow data, got "):
            read_columns(batch, ["x"])


def test_values_and_offsets_of_a_pair_are_looked_at_as_well() -> None:
    with pytest.raises(SchemaError, match=r"^column 'x': expected valid Arrow data, got "):
        read_columns({"x": (texts([0, 1 << 30, 1, 2]), [0, 3])}, ["x"])


@pytest.mark.parametrize("wrong", [1 << 30, -(1 << 30), 40])
def test_a_message_with_a_wrong_offset(wrong: int) -> None:
    batch = pa.record_batch({"x": ["ab", "cd", "ef"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    message = bytearray(sink.getvalue().to_pybytes())
    at = message.index(struct.pack("<4i", 0, 2, 4, 6))
    message[at + 12 : at + 16] = struct.pack("<i", wrong)
    received = pa.ipc.open_stream(bytes(message) + SECRET).read_all()
    with pytest.raises(SchemaError, match=r"^column 'x': expected valid Arrow data") as caught:
        read_columns(received, ["x"])
    assert "behind" not in str(caught.value)


def nothing(length: int) -> pa.Array:
    return build(pa.null(), length, [None])


def run(length: int, value: object = 1) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([length], INT), pa.array([value]))


BOMBS: dict[str, Make] = {
    "nulls": lambda: nothing(10**15),
    "fewer nulls": lambda: nothing(10**7),
    "lists of no length": lambda: build(pa.list_(INT, 0), 10**15, [None], pa.array([], INT)),
    "lists of many nulls": lambda: build(pa.list_(pa.null(), 10**6), 10**6, [None], nothing(10**12)),
    "a list of nulls": lambda: build(pa.list_(pa.null()), 1, [None, numbers([0, 2**31 - 1])], nothing(2**31 - 1)),
    "a run": lambda: runs([2**31 - 1], 2**31 - 1),
    "a run of a text": lambda: pa.RunEndEncodedArray.from_arrays([5000], pa.array(["a" * 10**5])),
    "a part of it": lambda: pa.RunEndEncodedArray.from_arrays([5000], pa.array(["a" * 10**5]))[7:4000],
    "a run in a dictionary": lambda: coded([0, 1], run(1 << 40)),
    "a run of an empty text in a dictionary": lambda: coded([0, 1], run(1 << 40, "")),
    "a run in views of lists": lambda: pa.ListViewArray.from_arrays([0, 5], [2, 3], run((1 << 31) - 1)),
    "lists of no length in a dictionary": lambda: coded(
        [0, 1], build(pa.list_(INT, 0), 1 << 40, [None], pa.array([], INT))
    ),
    "one text again and again": lambda: coded([0] * 5000, pa.array(["a" * 10**5])),
    "one list": lambda: coded([0] * 5000, pa.array([[1] * 10**5])),
    "one list of texts": lambda: coded([0] * 5000, pa.array([["a" * 10**4] * 10])),
    "one view of a list": lambda: pa.ListViewArray.from_arrays(
        pa.array([0] * 5000, pa.int32()), pa.array([10**5] * 5000, pa.int32()), pa.array([1] * 10**5, pa.int8())
    ),
    "one view of a list of texts": lambda: pa.ListViewArray.from_arrays(
        pa.array([0] * 5000, pa.int32()), pa.array([10] * 5000, pa.int32()), pa.array(["a" * 10**4] * 10)
    ),
    "one view of a text": lambda: build(
        pa.string_view(),
        5000,
        [None, pa.py_buffer(struct.pack("<i4sii", 10**5, b"aaaa", 0, 0) * 5000), pa.py_buffer(b"a" * 10**5)],
    ),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_few_bytes_for_any_number_of_values(make: Make) -> None:
    data = make()
    with pytest.raises(SchemaError, match=r"^column 'x': expected at most .* (rows a byte|bytes of decoded values)"):
        read_columns({"x": data}, ["x"])
    with pytest.raises(SchemaError, match=r"^column 'x': expected at most"):
        read_columns(pa.table({"x": data}), ["x"])


def test_many_rows_are_fine_where_their_data_is_there() -> None:
    rows = (1 << 20) + 8
    ids = np.zeros(rows, dtype=np.int8)
    for batch in ({"n": ids, "x": pa.nulls(rows)}, pa.table({"n": ids, "x": pa.nulls(rows)})):
        columns = read_columns(batch, ["n", "x"])
        assert len(columns["x"]) == rows
    assert len(read_columns({"x": pa.array(np.ones(rows, dtype=bool))}, ["x"])["x"]) == rows
    assert len(read_columns({"x": pa.array(["a"] * 2).dictionary_encode().take(pa.array(ids))}, ["x"])["x"]) == rows


def test_names_that_are_no_utf8() -> None:
    batch = pa.record_batch({"name": [1]})
    schema = batch.schema.serialize().to_pybytes() + batch.serialize().to_pybytes()
    with pytest.raises(SchemaError, match=r"^expected names of columns in UTF-8, got "):
        read_columns(pa.ipc.open_stream(schema.replace(b"name", b"n\xffme")).read_all(), ["name"])


@pytest.fixture(scope="module")
def engine(toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle, check="sizes") as engine:
        yield engine


def test_the_engine_goes_on_after_it(engine: Engine, toy_table: Callable[..., pa.Table]) -> None:
    table = toy_table(3)
    bad = build(pa.list_(INT), 3, [None, numbers([0, 1 << 30, 1, 2])], pa.array([1, 2]))
    before = engine.score(table).values
    broken = table.set_column(table.column_names.index("tags"), "tags", bad)
    for refused in (engine.score, engine.encode, engine.encode_rows):
        with pytest.raises(SchemaError, match=re.escape("column 'tags': expected valid Arrow data")):
            refused(broken)
    np.testing.assert_array_equal(engine.score(table).values, before)


def test_parquet_carries_text_as_it_is(engine: Engine, toy_table: Callable[..., pa.Table], tmp_path: Path) -> None:
    note = texts([0, 1, 2, 3], data=b"a\xffb")
    pq.write_table(toy_table(3).append_column("note", note), tmp_path / "in.parquet")
    assert score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out", columns="all").rows == 3
    carried = pq.read_table(tmp_path / "out" / "in.parquet")["note"].cast(pa.binary())
    assert carried.to_pylist() == [b"a", b"\xff", b"b"]
