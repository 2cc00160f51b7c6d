"""Requests and side tables: what reaches the dense part is what a batch with everything written out would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from counting_rows import CountingRows

from pepnet_infer import Engine, SchemaError
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.side_table import SideTable
from pepnet_infer.rows.protocols import DefaultCounts, RowRequest
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.inputs import Inputs

Batch = dict[str, Any]


@pytest.fixture(scope="module")
def engine(toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle, threads=2) as engine:
        yield engine


def as_lists(batch: Batch) -> Batch:
    """The same batch with every bag as a list of lists."""

    def lists(values: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
        return [values[a:b].tolist() for a, b in pairwise(offsets)]

    return {name: lists(*column) if isinstance(column, tuple) else column for name, column in batch.items()}


def request_of(batch: Batch, i: int) -> tuple[Batch, Batch, int]:
    lists = as_lists(batch)
    user = {name: lists[name][i] for name in ("user_id", "watched", "age")}
    items = {name: lists[name] for name in ("video_id", "tags", "duration")}
    return user, items, int(lists["tab"][i])


def repeated(user: Batch, items: Batch, domain: object) -> Batch:
    rows = len(items["video_id"])
    return {**items, **{name: [value] * rows for name, value in user.items()}, "tab": [domain] * rows}


class Recorder:
    """A backend that keeps what it is given and answers zeros."""

    name = "recorder"

    def __init__(self) -> None:
        self.seen: list[Inputs] = []

    def run(self, inputs: Inputs) -> np.ndarray:
        self.seen.append(inputs)
        return np.zeros((inputs.num_rows, 2), np.float32)

    def describe(self) -> dict[str, Any]:
        return {"backend": "recorder", "device": "none", "precision": "fp32", "threads": 1, "why": "a test"}


def test_rank_gives_the_backend_the_bits_that_score_gives_it(toy_bundle: Path, toy_batch: Callable[..., Batch]) -> None:
    bundle, backend = Bundle.open(toy_bundle), Recorder()
    rows = CountingRows(MmapStore(bundle.table_paths))
    engine = Engine(bundle, rows, backend)
    for seed in range(5):
        user, items, domain = request_of(toy_batch(33, seed), seed)
        engine.rank(user, items, domain)
        engine.score(repeated(user, items, domain))
        ranked, scored = backend.seen[-2:]
        for name in ("general", "domain", "prior"):
            one, other = getattr(ranked, name), getattr(scored, name)
            assert one.flags.c_contiguous
            assert one.tobytes() == other.tobytes(), name
    user, items, domain = request_of(toy_batch(500, 9), 3)
    rows.asked.clear()
    engine.rank(user, items, domain)
    tags = sum(len(bag) for bag in items["tags"])
    once = [("user", 1), ("video", min(8, len(user["watched"]))), ("page", 1)]
    assert sorted(rows.asked) == sorted([*once, ("video", 500), ("tag", tags)])


@pytest.mark.parametrize("form", [dict, pd.DataFrame, pa.table, pl.DataFrame])
def test_rank_takes_candidates_in_any_form(
    engine: Engine, toy_batch: Callable[..., Batch], form: Callable[[Batch], object]
) -> None:
    user, items, domain = request_of(toy_batch(20, 5), 7)
    expected = engine.score(repeated(user, items, domain)).values
    assert np.array_equal(engine.rank(user, form(items), domain).values, expected)
    assert np.array_equal(engine.rank(user=user, items=form(items), domain=np.int8(domain)).values, expected)
    context = {"age": user.pop("age")}
    assert np.array_equal(engine.rank(user, form(items), domain, context).values, expected)


def test_rank_takes_one_value_of_any_kind(engine: Engine, toy_batch: Callable[..., Batch]) -> None:
    user, items, domain = request_of(toy_batch(4, 6), 0)
    expected = engine.rank({**user, "watched": [1, 2], "age": None}, items, domain).values
    for watched in ((1, 2), np.array([1, 2]), np.array([1, 2], np.uint16)):
        for age in (None, 30.0, np.float32(30), 30):  # null counts as 30: the field's fill
            other = {**user, "user_id": np.uint32(user["user_id"]), "watched": watched, "age": age}
            assert np.array_equal(engine.rank(other, items, domain).values, expected)
    nothing = engine.rank({**user, "watched": []}, items, domain).values
    assert np.array_equal(nothing, engine.rank({**user, "watched": np.array([], np.int64)}, items, domain).values)
    assert not np.array_equal(nothing, expected)
    assert engine.rank(user, {name: [] for name in items}, domain).values.shape == (0, 2)


def test_rank_says_what_is_wrong_with_a_request(engine: Engine, toy_batch: Callable[..., Batch]) -> None:
    user, items, domain = request_of(toy_batch(4, 6), 0)
    without = {name: value for name, value in user.items() if name != "age"}
    cases: list[tuple[str, tuple[Any, ...]]] = [
        (
            "items: column 'age': expected it in the batch, got columns 'video_id', 'tags', 'duration'",
            (without, items, domain),
        ),
        (
            "items: column 'age': expected it once in a request, got it here as well",
            (user, {**items, "age": [1.0] * 4}, domain),
        ),
        ("context: column 'age': expected it once in a request, got it twice", (user, items, domain, {"age": 3.0})),
        ("domain: column 'tab': expected it once in a request, got it twice", ({**user, "tab": 0}, items, domain)),
        ("column 'tab': expected a known domain .*, got 3 at row 0", (user, items, 3)),
        ("column 'tab': expected no nulls", (user, items, None)),
        ("column 'user_id': expected ids in .*, got -1 at row 0", ({**user, "user_id": -1}, items, domain)),
        ("column 'user_id': expected integer ids, got", ({**user, "user_id": [5]}, items, domain)),
        ("items: column 'video_id': expected no nulls", (user, {**items, "video_id": [1, None, 2, 3]}, domain)),
        ("items: column 'tags': expected 4 rows", (user, {**items, "tags": [[1]]}, domain)),
        ("user: expected a dict with one value a column, got list", ([user], items, domain)),
        ("items: expected at least one column", ({**user, **{n: c[0] for n, c in items.items()}}, {}, domain)),
    ]
    for message, request in cases:
        with pytest.raises(SchemaError, match=message):
            engine.rank(*request)
    with pytest.raises(SchemaError, match="user: column 'city': expected one of the columns 'user_id'"):
        engine.rank({**user, "city": 1}, items, domain, strict=True)
    engine.rank({**user, "city": 1}, items, domain)


def test_rank_checks_a_domain_that_no_field_reads(toy_checkpoint: Checkpoint, toy_batch: Callable[..., Batch]) -> None:
    data = toy_checkpoint.schema.to_json()
    data["fields"] = [f for f in data["fields"] if f["side"] != "domain"]
    engine, backend = joined_engine(FeatureSchema.from_json(data), {})
    user, items, _ = request_of(toy_batch(4, 6), 0)
    engine.rank(user, items, 4)
    with pytest.raises(SchemaError, match=r"column 'tab': expected a known domain .*, got 3"):
        engine.rank(user, items, 3)
    assert len(backend.seen) == 1


class Counted:
    """Rows that are the id itself, in every column; ids of 1000 and more are unknown."""

    def answer(self, requests: Sequence[RowRequest]) -> list[DefaultCounts]:
        counts = []
        for _, _, keys, out, offsets, _ in requests:
            ids = (keys & np.uint64((1 << 48) - 1)).astype(np.float32)
            ends = range(len(keys) + 1) if offsets is None else offsets
            for row, (start, stop) in enumerate(pairwise(ends)):
                out[row] = ids[start:stop].sum()
            counts.append(DefaultCounts(int((ids >= 1000).sum()), 0))
        return counts


def joined_engine(schema: FeatureSchema, sides: dict[str, SideTable]) -> tuple[Engine, Recorder]:
    config = SimpleNamespace(inputs=None)
    bundle: Any = SimpleNamespace(
        config=config, schema=schema, tasks=schema.tasks, model_version=1, sides=lambda: sides
    )
    backend = Recorder()
    return Engine(bundle, Counted(), backend), backend


def test_side_tables_of_the_bundle_are_joined_by_id(toy_schema: FeatureSchema, toy_batch: Callable[..., Batch]) -> None:
    data = toy_schema.to_json()
    data["joins"] = {"people": {"column": "user_id", "key": "uid", "file": "people.parquet"}}
    for spec in data["fields"]:
        if spec["name"] in ("watched", "age"):
            spec["join"] = "people"
    schema = FeatureSchema.from_json(data)
    people = {"uid": [3, 5], "watched": [[1, 2], []], "age": [25.0, None]}
    join = schema.joins[0]
    side = SideTable.build(schema, join, read_columns(people, SideTable.columns(schema, join)))
    engine, backend = joined_engine(schema, {"people": side})
    plain, plain_backend = joined_engine(toy_schema, {})
    raw = {"user_id": [5, 3, 8], "video_id": [1, 2, 3], "tags": [[1], [], [2, 3]], "tab": [0, 1, 4]}
    raw["duration"] = [1.0, 2.0, 3.0]
    engine.score(raw)
    plain.score({**raw, "watched": [[], [1, 2], []], "age": [None, 25.0, None]})  # user 8 is in no side table
    assert backend.seen[0].general.tobytes() == plain_backend.seen[0].general.tobytes()
    items = {name: raw[name] for name in ("video_id", "tags", "duration")}
    engine.rank({"user_id": 3}, items, 1)
    plain.rank({"user_id": 3, "watched": [1, 2], "age": 25.0}, items, 1)
    assert backend.seen[1].general.tobytes() == plain_backend.seen[1].general.tobytes()
