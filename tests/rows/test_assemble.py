from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_rows import CountingRows

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.features import Bag, Features
from pepnet_infer.errors import SchemaError, StoreError
from pepnet_infer.rows.assemble import Assembler
from pepnet_infer.rows.protocols import DefaultCounts, RowRequest
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import MISSING_KEY, make_keys
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.storage.tensorfile import write_tensors

Tables = dict[str, dict[int, np.ndarray]]
#: Ids the tables hold; the toy batch asks for 0 to 49, so that some are unknown.
KNOWN = range(45)


@pytest.fixture
def tables(toy_schema: FeatureSchema) -> Tables:
    """Table → id → row in float64; -1 is the default row."""
    rng = np.random.default_rng(11)
    return {
        spec.name: {id: rng.normal(size=spec.dim).astype(np.float32).astype(np.float64) for id in (-1, *KNOWN)}
        for spec in toy_schema.tables
    }


@pytest.fixture
def store(toy_schema: FeatureSchema, tables: Tables, tmp_path: Path) -> MmapStore:
    paths = {}
    for spec in toy_schema.tables:
        paths[spec.name] = tmp_path / f"{spec.name}.safetensors"
        ids = np.array(KNOWN, dtype=np.uint64)
        rows = np.array([tables[spec.name][int(id)] for id in ids], dtype=np.float32)
        tensors = {"keys": make_keys(spec.number, ids), "rows": rows, "scores": np.zeros(len(ids), np.float32)}
        write_tensors(paths[spec.name], tensors | {"default": tables[spec.name][-1].astype(np.float32)})
    return MmapStore(paths, toy_schema.table_by_name)


def truth(schema: FeatureSchema, tables: Tables, batch: dict[str, Any], rows: int) -> dict[str, np.ndarray]:
    """The inputs in float64, row by row from the raw batch, written out by hand for the toy schema."""

    def row_of(table: str, id: int) -> np.ndarray:
        return tables[table].get(id, tables[table][-1])

    def bag_of(column: str, row: int, longest: int) -> list[int]:
        values, offsets = batch[column]
        return [int(v) for v in values[offsets[row] : offsets[row + 1]]][-longest:]

    def watched(row: int) -> np.ndarray:
        ids = bag_of("watched", row, 8)
        return np.mean([row_of("video", id) for id in ids], axis=0) if ids else np.zeros(5)

    def tags(row: int) -> np.ndarray:
        return np.sum([row_of("tag", id) for id in bag_of("tags", row, 99)] or [np.zeros(3)], axis=0)

    general, domain, prior = [], [], []
    for row in range(rows):
        user, video = row_of("user", int(batch["user_id"][row])), row_of("video", int(batch["video_id"][row]))
        duration = (np.log1p(batch["duration"][row]) - 2.0) / 1.5
        age = (batch["age"][row] - 35.0) / 10.0
        general.append(np.concatenate([user, video, watched(row), tags(row), [duration, age]]))
        domain.append(row_of("page", int(batch["tab"][row])))
        prior.append(np.concatenate([user, video]))
    shape = {name: (rows, schema.widths[name]) for name in ("general", "domain", "prior")}
    return {
        name: np.array(values).reshape(shape[name])
        for name, values in (("general", general), ("domain", domain), ("prior", prior))
    }


def features_of(schema: FeatureSchema, batch: dict[str, Any]) -> Features:
    return Encoder(schema, {}).encode(read_columns(batch, schema.columns))


def check(inputs: Inputs, expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        matrix = getattr(inputs, name)
        assert matrix.dtype == np.float32
        assert matrix.flags.c_contiguous
        np.testing.assert_allclose(matrix, values, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("rows", [0, 1, 2, 17, 300])
def test_inputs_agree_with_float64(
    rows: int, toy_schema: FeatureSchema, toy_batch: Callable[..., Any], tables: Tables, store: MmapStore
) -> None:
    batch = toy_batch(rows, seed=rows)
    inputs = Assembler(toy_schema, store).inputs(features_of(toy_schema, batch))
    assert inputs.num_rows == rows
    check(inputs, truth(toy_schema, tables, batch, rows))


def test_a_field_in_two_inputs_is_looked_up_once(
    toy_schema: FeatureSchema, toy_batch: Callable[..., Any], store: MmapStore
) -> None:
    source = CountingRows(store)
    features = features_of(toy_schema, toy_batch(10))
    inputs = Assembler(toy_schema, source).inputs(features)
    assert [table for table, _ in source.asked].count("user") == 1  # in general and prior
    assert [table for table, _ in source.asked].count("video") == 2  # video_id, and watched as a bag
    np.testing.assert_array_equal(inputs.prior, inputs.general[:, :11])


def test_unknown_ids_are_counted_by_field(
    toy_schema: FeatureSchema, toy_batch: Callable[..., Any], store: MmapStore
) -> None:
    batch = toy_batch(200)
    batch["user_id"][:] = 3
    batch["user_id"][:7] = 46
    features = features_of(toy_schema, batch)
    features.ids["page"][:5] = MISSING_KEY
    inputs = Assembler(toy_schema, store).inputs(features)
    values, offsets = batch["watched"]
    kept = np.concatenate([values[max(b, e - 8) : e] for b, e in pairwise(offsets)])
    assert inputs.unknown["user_id"] == 7
    assert inputs.unknown["video_id"] == (batch["video_id"] >= 45).sum()
    assert inputs.unknown["watched"] == (kept >= 45).sum() > 0
    assert inputs.unknown["page"] == 5
    assert "tags" not in inputs.unknown  # every tag is known


@pytest.mark.parametrize("items", [0, 1, 2, 65])
@pytest.mark.parametrize("shared", [("user_id", "watched", "age"), ("user_id", "watched", "age", "page"), ("age",)])
def test_a_ranked_request_equals_its_rows_written_out(
    items: int, shared: tuple[str, ...], toy_schema: FeatureSchema, toy_batch: Callable[..., Any], store: MmapStore
) -> None:
    one, many = features_of(toy_schema, toy_batch(1, 1)), features_of(toy_schema, toy_batch(items, 2))

    def only(features: Features, names: Any) -> Features:
        return Features(
            features.num_rows,
            {name: keys for name, keys in features.ids.items() if name in names},
            {name: bag for name, bag in features.bags.items() if name in names},
            {name: values for name, values in features.dense.items() if name in names},
        )

    theirs = set(toy_schema.field_by_name) - set(shared)
    source = CountingRows(store)
    assembler = Assembler(toy_schema, source)
    ranked = assembler.inputs(only(many, theirs), only(one, shared))
    asked = sum(count for table, count in source.asked if table == "user")
    assert asked == (1 if "user_id" in shared else items)
    written_out = only(many, theirs).with_shared(only(one, shared))
    expected = assembler.inputs(written_out)
    for name in ("general", "domain", "prior"):
        np.testing.assert_array_equal(getattr(ranked, name), getattr(expected, name))
        assert getattr(ranked, name).flags.c_contiguous


def test_a_source_is_not_asked_for_nothing(
    toy_schema: FeatureSchema, toy_batch: Callable[..., Any], store: MmapStore
) -> None:
    class Asked(CountingRows):
        def answer(self, requests: Sequence[RowRequest]) -> list[DefaultCounts]:
            assert requests
            return super().answer(requests)

    features = features_of(toy_schema, toy_batch(3))
    age = features.dense.pop("age")
    inputs = Assembler(toy_schema, Asked(store)).inputs(features, Features(1, {}, {}, {"age": age[:1]}))
    assert inputs.general[:, -1].tolist() == [age[0]] * 3


def test_features_that_do_not_fit_the_schema_are_refused(
    toy_schema: FeatureSchema, toy_batch: Callable[..., Any], store: MmapStore
) -> None:
    assembler = Assembler(toy_schema, store)
    features = features_of(toy_schema, toy_batch(3))
    page = features.ids.pop("page")
    missing = "^features: column 'page': expected every field of the schema, got none of that name$"
    for shared in (None, Features(1)):
        with pytest.raises(SchemaError, match=missing) as caught:
            assembler.inputs(features, shared)
        assert caught.value.column == "page"
    features.ids["page"] = page
    with pytest.raises(SchemaError, match="shared features: expected 1 row, got 3"):
        assembler.inputs(Features(3), features)
    with pytest.raises(SchemaError, match="column 'user_id': expected each field once, got it on both sides") as caught:
        assembler.inputs(features, Features(1, {"user_id": page[:1]}))
    assert caught.value.column == "user_id"
    features.dense["height"] = features.dense["age"]
    with pytest.raises(SchemaError, match="column 'height': expected fields of the schema, got another") as caught:
        assembler.inputs(features)
    assert caught.value.column == "height"
    store.close()
    features.dense.pop("height")
    with pytest.raises(StoreError, match="got one that was closed"):
        assembler.inputs(features)


def test_a_schema_without_domain_or_prior_gives_inputs_of_width_0(store: MmapStore, toy_schema: FeatureSchema) -> None:
    spec = toy_schema.to_json()
    spec["fields"] = [dict(field, inputs=["general"]) for field in spec["fields"] if field["name"] in ("tags", "age")]
    narrow = FeatureSchema.from_json(spec)
    bag = Bag(make_keys(2, np.array([1, 2], np.uint64)), np.array([0, 2, 2]))
    inputs = Assembler(narrow, store).inputs(Features(2, {}, {"tags": bag}, {"age": np.array([1, 2], np.float32)}))
    assert inputs.general.shape == (2, 4)
    assert inputs.domain.shape == inputs.prior.shape == (2, 0)
    assert inputs.general[:, 3].tolist() == [1, 2]


def test_one_assembler_serves_many_threads(
    toy_schema: FeatureSchema, toy_batch: Callable[..., Any], tables: Tables, store: MmapStore
) -> None:
    assembler = Assembler(toy_schema, store)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            batch = toy_batch(40, seed)
            features, expected = features_of(toy_schema, batch), truth(toy_schema, tables, batch, 40)
            for _ in range(20):
                check(assembler.inputs(features), expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
