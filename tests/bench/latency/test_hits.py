"""`bench latency` at given hit rates: ids that miss each time, a store that has them, and the rates that come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.workloads import Traffic
from pepnet_infer.bench.latency import hits
from pepnet_infer.bench.latency.hits import hit_rates
from pepnet_infer.bench.latency.new_ids import Mixer, NewIds, NewIdStore, open_columns
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.rows.protocols import TableShape
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import Keys, make_keys, split_keys
from pepnet_infer.schema.row_batch import RowBatch

QUICK = Plan(runs=6, warm_calls=2, warm_s=0.0, settle_s=0.0)


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


@pytest.fixture(scope="module")
def store(bundle: Bundle) -> MmapStore:
    return MmapStore(bundle.table_paths, bundle.schema.table_by_name)


class Tables:
    """Stands for a store whose only table has `keys`."""

    def __init__(self, keys: Keys) -> None:
        self.tables = {"only": TableShape(0, 4, len(keys))}
        self._keys = keys

    def scored_keys(self, _: str) -> tuple[Keys, np.ndarray]:
        return self._keys, np.zeros(len(self._keys), np.float32)


def test_new_ids_are_in_no_table_and_never_the_same(store: MmapStore) -> None:
    new = NewIds(store)
    taken = np.concatenate([new.take(7), new.take(0), new.take(500)])
    assert len(np.unique(taken)) == 507
    assert (taken >= 0).all()
    keys = make_keys(1, taken.astype(np.uint64))
    assert new.which(keys).all()
    for name in store.tables:
        held = store.scored_keys(name)[0]
        assert not new.which(np.array(held)).any()
        np.testing.assert_array_equal(new.stand_ins(np.array(held)), held)


def test_new_ids_avoid_every_block_that_has_an_id() -> None:
    last = np.uint64((1 << 48) - 1)
    new = NewIds(Tables(np.array([5, last], np.uint64)))  # type: ignore[arg-type]
    block = int(new.take(1)[0]) >> 31
    assert block == (1 << 17) - 2
    full = np.arange(1 << 17, dtype=np.uint64) << np.uint64(31)
    with pytest.raises(ValueError, match=r"tables: expected 2\^31 consecutive ids that none has, got none"):
        NewIds(Tables(full))  # type: ignore[arg-type]


def test_the_store_has_new_ids_with_the_rows_they_stand_for_and_no_others(bundle: Bundle, store: MmapStore) -> None:
    new = NewIds(store)
    number = bundle.schema.table_by_name["video"].number
    taken = make_keys(number, new.take(90).astype(np.uint64))
    stand_ins = new.stand_ins(taken)
    np.testing.assert_array_equal(split_keys(stand_ins)[1], np.arange(90) % 40)  # ids of the table are 0 to 39
    known, unknown = make_keys(number, np.array([3], np.uint64)), make_keys(number, np.array([45], np.uint64))
    got = NewIdStore(store, new).get_many(np.concatenate([taken, known, unknown]), 5)
    assert got.found.tolist() == [True] * 91 + [False]
    np.testing.assert_array_equal(got.rows[:90], store.get_many(stand_ins, 5).rows)
    assert (got.scores[:90] == 0).all()
    assert got.scores[90] == store.get_many(known, 5).scores[0] > 0


def test_open_columns_are_those_where_any_integer_is_an_id(bundle: Bundle) -> None:
    schema, full = bundle.schema, {"user": 40, "video": 40, "tag": 40, "page": 40}
    assert open_columns(schema, full) == ("user_id", "video_id", "watched", "tags")  # not the domain's
    assert open_columns(schema, {**full, "video": 0}) == ("user_id", "tags")
    data = schema.to_json()
    for spec in data["fields"]:
        if spec["name"] == "tags":
            spec["separator"] = ","
    assert open_columns(FeatureSchema.from_json(data), full) == ("user_id", "video_id", "watched")


def test_mixed_columns_have_as_many_new_ids_as_were_asked_for(bundle: Bundle, store: MmapStore) -> None:
    new = NewIds(store)
    mixer = Mixer.of(bundle, store, new, seed=1)
    columns = Traffic(bundle, seed=1, zipf=0.0).columns(3000)
    before = {name: np.array(column[0] if isinstance(column, tuple) else column) for name, column in columns.items()}
    some, none, every = (mixer.mixed(columns, share) for share in (0.3, 0.0, 1.0))
    for name in ("user_id", "video_id", "watched", "tags"):
        old, values = before[name], {}
        for share, batch in ((0.3, some), (0.0, none), (1.0, every)):
            column = batch[name]
            values[share] = np.asarray(column[0] if isinstance(column, tuple) else column)
        is_new = {share: new.which(ids.astype(np.uint64)) for share, ids in values.items()}
        assert abs(is_new[0.3].mean() - 0.3) < 4 * np.sqrt(0.21 / len(old))
        assert is_new[1.0].all()
        np.testing.assert_array_equal(values[0.0], old)
        np.testing.assert_array_equal(values[0.3][~is_new[0.3]], old[~is_new[0.3]])
        original = columns[name]
        np.testing.assert_array_equal(np.asarray(original[0] if isinstance(original, tuple) else original), old)
    assert some["tab"] is columns["tab"]
    assert some["watched"][1] is columns["watched"][1]


def test_the_rates_come_out_as_asked_and_misses_are_fetched(bundle: Bundle) -> None:
    about, by_size = hit_rates(bundle, [64], 1, QUICK, seed=0)
    rows = list(by_size[64].rows.values())
    assert [(row["call"], row["asked_hit_rate"]) for row in rows] == [
        *((call, rate) for call in ("score", "lookup") for rate in (1.0, 0.9, 0.5, None)),
        *[("dense", None)] * 3,
    ]
    assert {row["precision"] for row in rows if row["call"] == "dense"} == {"fp32", "bf16", "int8"}
    calls = QUICK.runs * (1 + QUICK.warm_calls)
    for row in rows:
        assert (row["runs"], row["batch"]) == (QUICK.runs, 64)
        asked = row["asked_hit_rate"]
        if asked is None:
            assert row["hit_rate"] is None
            assert (row["ids_a_call"], row["fetched_a_call"]) == (0, None)
            continue
        ids = row["ids_a_call"] * calls
        assert ids > 64 * calls * 3  # two id fields, a domain's and the bags
        # A hit may have been evicted when the cache was filled: a set of 8 with more than its share of the rows.
        assert abs(row["hit_rate"] - asked) <= 5 * np.sqrt(asked * (1 - asked) / ids) + 0.002
        assert row["fetched_a_call"] == pytest.approx((1 - row["hit_rate"]) * row["ids_a_call"], rel=0.02, abs=0.5)
    assert set(by_size) == {64}
    fastest = min((row for row in rows if row["call"] == "dense"), key=lambda row: float(row["p50_ms"]))
    for row in rows:
        assert row["fastest_dense"] == fastest["precision"]
        assert row["over_dense"] == pytest.approx(row["p50_ms"] / fastest["p50_ms"])
        assert row["low"] <= row["over_dense"] * 1.001
        assert row["enough"] == ""
    assert about["cache_rows"] > about["table_rows"] == 160


def test_the_verdict_is_on_lookups_that_all_hit(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits, "ASKED_BATCH", 8)
    for most, enough in ((1e9, "yes"), (0.0, "no")):
        monkeypatch.setattr(hits, "ASKED", most)
        _, by_size = hit_rates(bundle, [8], 1, structs.replace(QUICK, runs=1), seed=0)
        given = {name: row["enough"] for name, row in by_size[8].rows.items()}
        assert given.pop("lookup at hit rate 1") == enough
        assert set(given.values()) == {""}


def test_wrong_rows_are_no_figure(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    right = NewIdStore.get_many

    def wrong(self: NewIdStore, keys: Keys, dim: int) -> RowBatch:
        fetched = right(self, keys, dim)
        fetched.rows[self._new.which(keys)] *= 2
        return fetched

    monkeypatch.setattr(NewIdStore, "get_many", wrong)
    message = "batch 32: lookup at hit rate 0.[59] failed: ValueError: general: expected the rows that the store has"
    with pytest.raises(RuntimeError, match=message):
        hit_rates(bundle, [32], 1, QUICK, seed=0)


def test_new_ids_are_scored_as_what_they_stand_for(bundle: Bundle, store: MmapStore) -> None:
    new = NewIds(store)
    mixed = Mixer.of(bundle, store, new, seed=2).mixed(Traffic(bundle, seed=2).columns(50), 0.5)
    numbers = {
        spec.column: bundle.schema.table_by_name[spec.table].number for spec in bundle.schema.fields if spec.table
    }
    old: dict[str, Any] = dict(mixed)
    for name in ("user_id", "video_id", "watched", "tags"):
        column = mixed[name]
        ids = np.asarray(column[0] if isinstance(column, tuple) else column)
        stand_ins = split_keys(new.stand_ins(make_keys(numbers[name], ids.astype(np.uint64))))[1].astype(np.int64)
        old[name] = (stand_ins, column[1]) if isinstance(column, tuple) else stand_ins
    behind = NewIdStore(store, new)
    with (
        Engine.load(bundle.path, cache=CacheConfig(capacity="1MiB"), store=behind) as cached,
        Engine.load(bundle.path, cache=None) as plain,
    ):
        np.testing.assert_array_equal(cached.score(mixed).values, plain.score(old).values)
        assert cached.stats()["cache"]["total"]["misses"] > 50
