"""Side tables: lenient values in, the right entity's features out, and the same arrays through a file and back."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from safetensors.numpy import load, save

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.features import Features
from pepnet_infer.encode.request import RequestReader
from pepnet_infer.encode.side_table import SideTable
from pepnet_infer.errors import BundleError, SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import MISSING_KEY

MISSING = int(MISSING_KEY)
SCHEMA: dict[str, Any] = {
    "name": "s",
    "tables": {"user": {"dim": 4}, "video": {"dim": 4}, "degree": {"dim": 2}},
    "joins": {"users": {"key": "uid", "column": "user_id", "file": "users.parquet"}},
    "fields": [
        {"name": "user_id", "kind": "id", "side": "user", "table": "user"},
        {"name": "level", "kind": "id", "side": "user", "table": "degree", "join": "users"},
        {"name": "degree", "kind": "id", "side": "user", "table": "degree", "join": "users", "hashed": True},
        {"name": "seen", "kind": "bag", "side": "user", "table": "video", "join": "users", "max_len": 2},
        {"name": "days", "kind": "dense", "side": "user", "join": "users", "fill": 4.0, "mean": 2.0, "std": 2.0},
    ],
    "domain": {"column": "tab", "values": [0, 1]},
    "tasks": {"click": "click"},
}
USERS: dict[str, Any] = {
    "uid": [30, 10, 20],
    "level": [3, 1, 2],
    "degree": ["c", "a", "b"],
    "seen": [[7, 8, 9], [], [5]],
    "days": [30.0, 10.0, 20.0],
}


@pytest.fixture
def schema() -> FeatureSchema:
    return FeatureSchema.from_json(SCHEMA)


def build(schema: FeatureSchema, data: object) -> SideTable:
    join = schema.joins[0]
    return SideTable.build(schema, join, read_columns(data, SideTable.columns(schema, join)))


def taken_of(side: SideTable, ids: np.ndarray) -> Features:
    return side.reader(["level", "degree", "seen", "days"])(ids)


def ids_of(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def text(value: str) -> int:
    return 2 * 2**48 + xxhash.xxh3_64(value.encode()).intdigest() % 2**48


def rows(features: Features) -> list[tuple[int, int, list[int], float]]:
    bag = features.bags["seen"]
    bags = [[int(k) - 2**48 for k in bag.keys[a:b]] for a, b in zip(bag.offsets, bag.offsets[1:], strict=False)]
    ids = features.ids
    return list(zip(ids["level"].tolist(), ids["degree"].tolist(), bags, features.dense["days"].tolist(), strict=True))


LEVEL = 2 * 2**48


def test_take_finds_the_entity_or_what_stands_for_none(schema: FeatureSchema) -> None:
    side = build(schema, USERS)
    assert SideTable.columns(schema, schema.joins[0]) == ("uid", "level", "degree", "seen", "days")
    assert len(side) == 3
    assert side.ids.tolist() == [10, 20, 30]
    assert rows(side.features) == [
        (LEVEL + 1, text("a"), [], 4.0),
        (LEVEL + 2, text("b"), [5], 9.0),
        (LEVEL + 3, text("c"), [8, 9], 14.0),
    ]
    absent = (MISSING, MISSING, [], 1.0)
    taken = taken_of(side, ids_of(20, 11, 30, MISSING, 20, 0))
    assert rows(taken) == [rows(side.features)[i] if i is not None else absent for i in (1, None, 2, None, 1, None)]
    some = side.reader(["days", "seen"])(ids_of(20, 11))
    assert (some.ids, set(some.bags), some.dense["days"].tolist()) == ({}, {"seen"}, [9.0, 1.0])
    assert rows(taken_of(side, ids_of())) == []


def test_the_last_row_of_a_repeated_key_counts(schema: FeatureSchema) -> None:
    data = {name: values + values[::-1] for name, values in USERS.items()} | {"level": [9, 9, 9, 2, 1, 3]}
    assert rows(build(schema, data).features) == rows(build(schema, USERS).features)


def test_messy_values(schema: FeatureSchema) -> None:
    data = {
        "uid": [1, 2, 3, 4],
        "level": [3.0, math.nan, 2.0, 0.0],
        "degree": [-1.0, 2.0, math.nan, 2.0**50],
        "seen": pa.array([[1.0, None, 2.0, math.nan], None, [], [3.0]]),
        "days": [10.0, math.nan, None, 2.0],
    }
    wide = [xxhash.xxh3_64(n.to_bytes(8, "little")).intdigest() % 2**48 for n in (2**64 - 1, 2**50)]
    assert rows(build(schema, data).features) == [
        (LEVEL + 3, LEVEL + wide[0], [1, 2], 4.0),
        (MISSING, LEVEL + 2, [], 1.0),
        (LEVEL + 2, MISSING, [], 1.0),
        (LEVEL, LEVEL + wide[1], [3], 0.0),
    ]
    assert rows(
        build(
            schema,
            pd.DataFrame({n: pd.Series(v) for n, v in data.items() if n != "seen"} | {"seen": [[1, 2], [], [], [3]]}),
        ).features
    ) == rows(build(schema, data).features)


@pytest.mark.parametrize(
    ("column", "data", "message"),
    [
        ("uid", [1, None, 3], "expected no nulls, got null at row 1"),
        ("uid", [1.0, 2.0, 3.0], "expected integer ids, got double"),
        ("uid", ["a", "b", "c"], "expected integer ids (texts need a field with hashed: true), got string"),
        ("uid", [1, -2, 3], "expected ids in [0, 2^48), got -2 at row 1"),
        ("level", [1.0, 2.5, 3.0], "expected whole numbers up to 2^53, got 2.5 at row 1"),
        ("level", [1.0, math.inf, 3.0], "expected whole numbers up to 2^53, got inf at row 1"),
        ("level", [1.0, -1.0, 3.0], "expected ids in [0, 2^48), got -1.0 at row 1"),
        ("level", [1, 2**48, 3], f"expected ids in [0, 2^48), got {2**48} at row 1"),
        ("level", ["1", "2", "3"], "expected integer ids (texts need a field with hashed: true), got string"),
        ("degree", [1.0, 1e18, 3.0], "expected whole numbers up to 2^53, got 1e+18 at row 1"),
        ("degree", [True, False, True], "expected integer ids, got bool"),
        ("seen", [1, 2, 3], "expected lists of integer ids, got int64"),
        ("seen", [[1], [2, -1], [3]], "expected ids in [0, 2^48), got -1 at row 1"),
        ("days", [1.0, math.inf, -math.inf], "expected finite numbers, got inf at row 1 (and 1 more)"),
        ("days", ["1", "2", "3"], "expected numbers, got string"),
    ],
)
def test_too_messy(schema: FeatureSchema, column: str, data: object, message: str) -> None:
    with pytest.raises(SchemaError, match=f"^side table 'users': column '{column}': {re.escape(message)}$") as caught:
        build(schema, USERS | {column: data})
    assert caught.value.column == column


def test_a_side_table_of_fields_that_are_not_fitted_is_refused(schema: FeatureSchema) -> None:
    tensors = build(schema, USERS).to_tensors()
    data = schema.to_json()
    for field in data["fields"]:
        field |= {"mean": None} if field["name"] == "days" else {}
    unfitted = FeatureSchema.from_json(data)
    with pytest.raises(SchemaError, match=r"schema.fields.days: expected mean and std, got none"):
        build(unfitted, USERS)
    with pytest.raises(SchemaError, match=r"schema.fields.days: expected mean and std, got none"):
        SideTable.from_tensors(unfitted, unfitted.joins[0], tensors)


def test_a_joined_batch(schema: FeatureSchema) -> None:
    sides = {"users": build(schema, USERS)}
    encoder = Encoder(schema, sides)
    assert encoder.columns == ("user_id", "tab")
    features = encoder.encode(read_columns({"user_id": [20, 99, 10], "tab": [0, 1, 0]}, encoder.columns))
    assert rows(features) == rows(taken_of(sides["users"], ids_of(20, 99, 10)))
    assert features.ids["user_id"].tolist() == [20, 99, 10]
    assert Encoder(schema, sides, ["days"]).columns == ("user_id",)
    assert Encoder(schema, {}, ["user_id"]).columns == ("user_id",)
    with pytest.raises(SchemaError, match="side table 'users': expected it for field 'level', got none"):
        Encoder(schema, {})


def test_a_bad_join_id_is_a_bad_row(schema: FeatureSchema) -> None:
    sides = {"users": build(schema, USERS)}
    columns = read_columns({"user_id": [20, -1, None], "tab": [0, 1, 0]}, schema.columns)
    result = Encoder(schema, sides).encode_rows(columns)
    assert result.bad.tolist() == [False, True, True]
    assert rows(result.features) == rows(taken_of(sides["users"], ids_of(20, MISSING, MISSING)))


@pytest.mark.parametrize("nullable", [False, True])
def test_a_join_follows_the_field_of_its_column(nullable: bool) -> None:
    first = SCHEMA["fields"][0] | {"hashed": True, "nullable": nullable}
    schema = FeatureSchema.from_json(SCHEMA | {"fields": [first, *SCHEMA["fields"][1:]]})
    sides = {"users": build(schema, USERS | {"uid": ["u3", "u1", "u2"]})}
    columns = read_columns({"user_id": ["u2", "nobody", None], "tab": [0, 0, 0]}, schema.columns)
    if nullable:
        features = Encoder(schema, sides).encode(columns)
        assert features.ids["user_id"].tolist()[2] == MISSING
        assert [row[0] for row in rows(features)] == [LEVEL + 2, MISSING, MISSING]
    else:
        with pytest.raises(SchemaError, match="column 'user_id': expected no nulls, got null at row 2"):
            Encoder(schema, sides).encode(columns)


def test_no_entities(schema: FeatureSchema) -> None:
    side = build(schema, {name: [] for name in USERS})
    assert len(side) == 0
    assert rows(taken_of(side, ids_of(3))) == [(MISSING, MISSING, [], 1.0)]
    assert len(SideTable.from_tensors(schema, schema.joins[0], side.to_tensors())) == 0


def test_through_a_file_and_back(schema: FeatureSchema) -> None:
    side = build(schema, USERS)
    tensors = side.to_tensors()
    assert {name: (str(t.dtype), t.shape) for name, t in tensors.items()} == {
        "ids": ("uint64", (3,)),
        "id.level": ("uint64", (3,)),
        "id.degree": ("uint64", (3,)),
        "bag.seen.keys": ("uint64", (3,)),
        "bag.seen.offsets": ("int64", (4,)),
        "dense.days": ("float32", (3,)),
    }
    again = SideTable.from_tensors(schema, schema.joins[0], load(save(tensors)))
    asked = ids_of(10, 20, 30, 40)
    assert rows(taken_of(again, asked)) == rows(taken_of(side, asked))


def alter(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], None]:
    def apply(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = change(tensors[name].copy())

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("ids"), "missing tensor 'ids'"),
        (lambda t: t.pop("bag.seen.offsets"), "missing tensor 'bag.seen.offsets'"),
        (lambda t: t.update({"id.other": t["ids"]}), "unexpected tensor 'id.other'"),
        (alter("ids", lambda a: a[::-1]), "tensor 'ids': expected ascending ids below 2^48, got others"),
        (alter("ids", lambda a: a[[0, 0, 1]]), "tensor 'ids': expected ascending ids below 2^48, got others"),
        (alter("ids", lambda a: a + 2**48), "tensor 'ids': expected ascending ids below 2^48, got others"),
        (alter("ids", lambda a: a.astype(np.int64)), "tensor 'ids': expected uint64 [n], got int64 [3]"),
        (alter("id.level", lambda a: a[:2]), "tensor 'id.level': expected uint64 [3], got uint64 [2]"),
        (alter("id.level", lambda a: a + 2**48), "tensor 'id.level': expected keys of table 'degree' (number 2)"),
        (alter("bag.seen.keys", lambda a: a * 0), "tensor 'bag.seen.keys': expected keys of table 'video' (number 1)"),
        (alter("bag.seen.keys", lambda a: a.reshape(3, 1)), "tensor 'bag.seen.keys': expected uint64 [n], got uint64"),
        (alter("bag.seen.offsets", lambda a: a[[0, 2, 1, 3]]), "expected offsets that ascend from 0 to 3, got others"),
        (alter("bag.seen.offsets", lambda a: a + 1), "expected offsets that ascend from 0 to 3, got others"),
        (alter("bag.seen.offsets", lambda a: np.maximum(a, 1)), "expected offsets that ascend from 0 to 3, got others"),
        (alter("bag.seen.offsets", lambda a: a * 9), "expected offsets that ascend from 0 to 3, got others"),
        (alter("bag.seen.offsets", lambda a: a[1:]), "expected int64 [4], got int64 [3]"),
        (alter("dense.days", lambda a: a * np.nan), "tensor 'dense.days': expected finite values, got NaN or infinity"),
        (alter("dense.days", lambda a: a.astype(np.float64)), "expected float32 [3], got float64 [3]"),
    ],
)
def test_damaged_tensors(schema: FeatureSchema, damage: Callable[[dict[str, np.ndarray]], Any], message: str) -> None:
    tensors = build(schema, USERS).to_tensors()
    damage(tensors)
    with pytest.raises(BundleError, match=f"^side table 'users': .*{re.escape(message)}"):
        SideTable.from_tensors(schema, schema.joins[0], tensors)


def test_the_constructor_checks_what_it_is_given(schema: FeatureSchema) -> None:
    features = build(schema, USERS).features
    with pytest.raises(ValueError, match=r"fills: expected one for each of \['days'\], got \[\]"):
        SideTable(ids_of(1, 2, 3), features, {})
    for ids in (ids_of(3, 2, 1), ids_of(1, 2), ids_of(1, 1, 2)):
        with pytest.raises(ValueError, match="ids: expected 3 ascending ids, one a row"):
            SideTable(ids, features, {"days": 0.0})


KUAIRAND = os.environ.get("PEPNET_KUAIRAND", "")


@pytest.mark.kuairand
@pytest.mark.skipif(not KUAIRAND, reason="PEPNET_KUAIRAND names no folder")
def test_kuairand_joined_by_hand() -> None:
    """The real user, video and history files, against a join in pandas."""
    spec = {"kind": "id", "side": "user", "table": "t"}
    schema = FeatureSchema.from_json(
        {
            "name": "kuairand",
            "tables": {"t": {"dim": 4, "number": 1}, "video": {"dim": 4, "number": 2}},
            "joins": {
                "users": {"key": "user_id", "file": "user_features.parquet"},
                "videos": {"key": "video_id", "file": "video_features_basic.parquet"},
                "history": {"key": "user_id", "file": "user_history_to_20220424.parquet"},
            },
            "fields": [
                spec | {"name": "user_active_degree", "join": "users", "hashed": True},
                spec | {"name": "onehot_feat4", "join": "users", "nullable": True},
                spec | {"name": "author_id", "join": "videos"},
                spec | {"name": "music_id", "join": "videos", "hashed": True},
                spec | {"name": "hour", "column": "time_ms", "transform": {"op": "hour", "utc_offset": 8}},
                {"name": "register_days", "kind": "dense", "side": "user", "join": "users", "mean": 500, "std": 200},
                {"name": "video_duration", "kind": "dense", "side": "item", "join": "videos", "mean": 0, "std": 1},
                spec | {"name": "tag", "kind": "bag", "join": "videos", "separator": ","},
                spec | {"name": "watch_seq", "kind": "bag", "table": "video", "join": "history", "max_len": 20},
            ],
            "domain": {"column": "tab", "values": list(range(15))},
            "tasks": {"click": "is_click"},
        }
    )
    root = Path(KUAIRAND)
    sides = {
        join.name: SideTable.build(
            schema, join, read_columns(pq.read_table(root / join.file), SideTable.columns(schema, join))
        )
        for join in schema.joins
    }
    log = pq.read_table(root / "interactions.parquet").slice(100_000, 5_000)
    features = Encoder(schema, sides).encode(read_columns(log, schema.columns))

    frame = log.to_pandas()[["user_id", "video_id", "time_ms"]]
    for join in schema.joins:
        frame = frame.merge(pd.read_parquet(root / join.file), on=join.key, how="left", validate="many_to_one")
    assert len(frame) == features.num_rows == 5_000

    def keys(column: pd.Series, low: Callable[[Any], int]) -> list[int]:
        return [MISSING if pd.isna(v) else 2**48 + low(v) for v in column]

    def hashed(value: str) -> int:
        return xxhash.xxh3_64(value.encode()).intdigest() % 2**48

    assert features.ids["user_active_degree"].tolist() == keys(frame.user_active_degree, hashed)
    assert features.ids["onehot_feat4"].tolist() == keys(frame.onehot_feat4, int)
    assert features.ids["author_id"].tolist() == keys(frame.author_id, int)
    assert features.ids["music_id"].tolist() == keys(frame.music_id, int)
    local = pd.to_datetime(frame.time_ms, unit="ms", utc=True).dt.tz_convert("Asia/Shanghai")
    assert features.ids["hour"].tolist() == keys(local.dt.hour, int)
    np.testing.assert_allclose(
        features.dense["register_days"], (frame.register_days.fillna(0.0) - 500) / 200, rtol=1e-6
    )
    np.testing.assert_allclose(features.dense["video_duration"], frame.video_duration.fillna(0.0), rtol=1e-6)
    for name, table, expected in (
        ("tag", 1, [[int(t) for t in tags.split(",")] if isinstance(tags, str) else [] for tags in frame.tag]),
        ("watch_seq", 2, [list(s[-20:]) if isinstance(s, np.ndarray) else [] for s in frame.watch_seq]),
    ):
        bag = features.bags[name]
        got = [bag.keys[a:b].tolist() for a, b in zip(bag.offsets, bag.offsets[1:], strict=False)]
        assert got == [[table * 2**48 + int(v) for v in row] for row in expected]
        assert max(map(len, got)) > 1


def test_a_domain_that_a_join_alone_reads_is_checked_in_a_request_too() -> None:
    tables = {name: {"dim": 4} for name in ("user", "item", "kind")}
    fields = [{"name": f"{name}_id", "kind": "id", "side": name, "table": name} for name in ("user", "item")]
    page = {"name": "page_kind", "kind": "id", "side": "domain", "table": "kind", "join": "pages", "inputs": ["domain"]}
    schema = FeatureSchema.from_json(
        {
            "name": "pages",
            "domain": {"column": "tab", "values": [0, 1, 2]},
            "tasks": {"click": "c"},
            "tables": tables,
            "joins": {"pages": {"key": "tab", "file": "pages"}},
            "fields": [*fields, page],
        }
    )
    join = schema.joins[0]
    pages = read_columns({"tab": [0, 1, 2], "page_kind": [5, 6, 7]}, SideTable.columns(schema, join))
    reader = RequestReader(schema, {"pages": SideTable.build(schema, join, pages)})
    reader.read({"user_id": 1}, {"item_id": [2]}, 1)
    with pytest.raises(SchemaError, match=r"expected a known domain \(0, 1, 2\), got 9"):
        reader.read({"user_id": 1}, {"item_id": [2]}, 9)
