"""Whatever form a batch comes in and however it is cut, its features are those that plain Python finds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.features import Features
from pepnet_infer.encode.side_table import SideTable
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import MISSING_KEY

pytestmark = pytest.mark.property

MISSING = int(MISSING_KEY)
LIMIT = 2**48
MOST = 3  # values kept of a bag

SCHEMA = FeatureSchema.from_json(
    {
        "name": "property",
        "tables": {"a": {"dim": 2, "number": 1}, "b": {"dim": 2, "number": 2}},
        "joins": {"side": {"key": "user", "file": "side.parquet"}},
        "fields": [
            {"name": "user", "kind": "id", "side": "user", "table": "a"},
            {"name": "item", "kind": "id", "side": "item", "table": "b", "hashed": True, "nullable": True},
            {"name": "word", "kind": "id", "side": "item", "table": "b", "hashed": True, "nullable": True},
            {"name": "bag", "kind": "bag", "side": "user", "table": "b", "max_len": MOST, "nullable": True},
            {"name": "tags", "kind": "bag", "side": "item", "table": "a", "separator": ","},
            {"name": "level", "kind": "id", "side": "user", "table": "b", "join": "side"},
            {"name": "seen", "kind": "bag", "side": "user", "table": "b", "join": "side"},
            {"name": "score", "kind": "dense", "side": "item", "nullable": True, "fill": 1, "mean": 3, "std": 2},
        ],
        "domain": {"column": "page", "values": ["home", "search"]},
        "tasks": {"click": "click"},
    }
)
SIDE = SideTable.build(
    SCHEMA,
    SCHEMA.joins[0],
    read_columns({"user": [1, 2, 5], "level": [10, None, 30], "seen": [[4], [], [5, 6]]}, ["user", "level", "seen"]),
)
ENCODER = Encoder(SCHEMA, {"side": SIDE})

row = st.fixed_dictionaries(
    {
        "user": st.integers(0, 6) | st.integers(0, LIMIT - 1),
        "item": st.none() | st.integers(-(2**63), 2**63 - 1),
        "word": st.none() | st.text(max_size=4),
        "bag": st.none() | st.lists(st.none() | st.integers(0, LIMIT - 1), max_size=6),
        "tags": st.lists(st.integers(0, 99).map(str) | st.sampled_from(["", " ", " 7"]), max_size=4).map(",".join),
        "score": st.none() | st.floats(-1e30, 1e30),
        "page": st.sampled_from(["home", "search"]),
    }
)
batches = st.lists(row, min_size=1, max_size=12)
Rows = list[dict[str, Any]]

ARROW = pa.schema(
    {
        "user": pa.int64(),
        "item": pa.int64(),
        "word": pa.string(),
        "bag": pa.list_(pa.int64()),
        "tags": pa.string(),
        "score": pa.float64(),
        "page": pa.string(),
    }
)
PANDAS = {"user": "int64", "item": "Int64", "word": "string", "tags": "object", "score": "float64", "page": "category"}
POLARS = {"bag": pl.List(pl.Int64), "word": pl.String, "item": pl.Int64, "score": pl.Float64}


def table(rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(rows, ARROW)


def forms(rows: Rows) -> dict[str, object]:
    columns = {name: [r[name] for r in rows] for name in ARROW.names}
    whole = table(rows)
    cut = len(rows) // 2
    padded = table([*rows[:1], *rows, *rows[:1]])
    coded = [whole[name].combine_chunks() for name in whole.column_names]
    coded = [
        column.dictionary_encode() if name != "bag" else column for name, column in zip(ARROW.names, coded, strict=True)
    ]
    return {
        "lists": columns,
        "numpy": columns | {"user": np.array(columns["user"], ">i8"), "word": np.array(columns["word"], object)},
        "arrow": whole,
        "batch": whole.to_batches()[0],
        "chunks": pa.concat_tables([table(rows[:cut]), table(rows[cut:])]),
        "slice": padded[1:-1],
        "dictionaries": pa.table(coded, names=ARROW.names),
        "pandas": pd.DataFrame({n: pd.Series(v, dtype=PANDAS.get(n, "object")) for n, v in columns.items()}),
        "arrow-backed pandas": whole.to_pandas(types_mapper=pd.ArrowDtype),
        "polars": pl.DataFrame(columns, schema_overrides=POLARS),
    }


def encode(batch: object) -> Features:
    return ENCODER.encode(read_columns(batch, ENCODER.columns))


def key(number: int, value: int | str) -> int:
    raw = value.encode() if isinstance(value, str) else (value % 2**64).to_bytes(8, "little")
    exact = isinstance(value, int) and 0 <= value < LIMIT
    return number * LIMIT + (int(value) if exact else xxhash.xxh3_64(raw).intdigest() % LIMIT)


def expected(r: dict[str, Any]) -> dict[str, Any]:
    def optional(value: int | str | None) -> int:
        return MISSING if value is None else key(2, value)

    seen = {1: (10, [4]), 2: (None, []), 5: (30, [5, 6])}
    level, watched = seen.get(r["user"], (None, []))
    return {
        "user": key(1, r["user"]),
        "item": optional(r["item"]),
        "word": optional(r["word"]),
        "bag": [key(2, v) for v in (r["bag"] or []) if v is not None][-MOST:],
        "tags": [key(1, int(t)) for t in r["tags"].split(",") if t.strip()],
        "level": optional(level),
        "seen": [key(2, v) for v in watched],
        "score": float(np.float32(((1.0 if r["score"] is None else r["score"]) - 3.0) / 2.0)),
    }


def found(features: Features) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{} for _ in range(features.num_rows)]
    for name, values in {**features.ids, **features.dense}.items():
        for position, value in enumerate(values.tolist()):
            rows[position][name] = value
    for name, bag in features.bags.items():
        assert bag.offsets[0] == 0
        assert bag.offsets[-1] == len(bag.keys)
        for position in range(features.num_rows):
            rows[position][name] = bag.keys[bag.offsets[position] : bag.offsets[position + 1]].tolist()
    return rows


@settings(max_examples=60, deadline=None)
@given(batches)
def test_every_form_gives_what_plain_python_finds(rows: Rows) -> None:
    wanted = [expected(r) for r in rows]
    for name, batch in forms(rows).items():
        assert found(encode(batch)) == wanted, name


@settings(max_examples=60, deadline=None)
@given(batches, st.lists(st.integers(0, 12), max_size=4))
def test_a_batch_may_be_cut_anywhere(rows: Rows, cuts: list[int]) -> None:
    batch = table(rows)
    bounds = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    parts = [encode(batch[a:b]) for a, b in pairwise(bounds)]
    assert [row for part in parts for row in found(part)] == found(encode(batch))


@settings(max_examples=60, deadline=None)
@given(batches, st.data())
def test_select_is_taking_rows(rows: Rows, data: st.DataObject) -> None:
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    whole = found(encode(table(rows)))
    assert found(encode(table(rows)).select(picked)) == [whole[i] for i in picked]


@settings(max_examples=60, deadline=None)
@given(batches, st.data())
def test_bad_rows_leave_the_good_ones_as_they_were(rows: Rows, data: st.DataObject) -> None:
    faults = {"user": st.sampled_from([-1, LIMIT]), "page": st.sampled_from(["", "Home", None])}
    faults |= {"score": st.sampled_from([float("inf"), 1e39]), "tags": st.just("1,x"), "bag": st.just([1, -1])}
    broken, bad = [], []
    for r in rows:
        column = data.draw(st.none() | st.sampled_from(sorted(faults)))
        broken.append(r if column is None else r | {column: data.draw(faults[column])})
        bad.append(column is not None)
    result = ENCODER.encode_rows(read_columns(table(broken), ENCODER.columns))
    assert result.bad.tolist() == bad
    good = np.flatnonzero(~result.bad)
    assert found(result.features.select(good)) == [expected(rows[i]) for i in good]
    assert bool(result.errors) == any(bad)


lists = st.lists(st.lists(st.integers(0, LIMIT - 1), max_size=5), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(lists, st.integers(0, 3), st.integers(0, 3), st.randoms(use_true_random=False))
def test_bag_forms_are_equal(bags: list[list[int]], before: int, after: int, random: Any) -> None:
    flat = [v for bag in bags for v in bag]
    offsets = np.concatenate([[0], np.cumsum([len(bag) for bag in bags])]).astype(np.int64)
    spare = [[7, 8]] * before
    padded = [*spare, *bags, *([[9]] * after)]
    order = list(range(len(bags)))
    random.shuffle(order)  # views may hold their rows in any order
    places = {row: sum(len(bags[o]) for o in order[:i]) for i, row in enumerate(order)}
    views = pa.ListViewArray.from_arrays(
        pa.array([places[i] for i in range(len(bags))], pa.int32()),
        pa.array([len(bag) for bag in bags], pa.int32()),
        pa.array([v for i in order for v in bags[i]], pa.int64()),
    )
    forms: list[object] = [
        bags,
        (np.array(flat, np.int64), offsets),
        (np.array([1] * before + flat + [2] * after, np.uint64), offsets + before),
        pa.array(bags, pa.list_(pa.int64())),
        pa.array(padded, pa.large_list(pa.uint64()))[before : before + len(bags)],
        views,
        pd.Series([np.array(bag, np.int64) for bag in bags]),
        pl.Series(bags, dtype=pl.List(pl.UInt64)),
    ]
    encoder = Encoder(SCHEMA, {}, ["bag"])
    wanted = [{"bag": [key(2, v) for v in bag[-MOST:]]} for bag in bags]
    for form in forms:
        assert found(encoder.encode(read_columns({"bag": form}, ["bag"]))) == wanted
