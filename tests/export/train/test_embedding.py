"""Embedding rows in training: laid out as they are served, updated as AdaGrad says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs

from pepnet_infer.encode.columns import read_columns
from pepnet_infer.encode.encoder import Encoder
from pepnet_infer.encode.features import Features
from pepnet_infer.export.data.codes import BagCodes, CodedIds
from pepnet_infer.export.run_config import Split, TrainConfig
from pepnet_infer.export.train.embedding import Embeddings
from pepnet_infer.schema.feature_schema import INPUTS, FeatureSchema

ROWS = 200
SETTINGS = TrainConfig(Split(test=2), init_std=0.5)


@pytest.fixture
def features(toy_schema: FeatureSchema, toy_batch: Callable[..., Any]) -> Features:
    return Encoder(toy_schema, {}).encode(read_columns(toy_batch(ROWS), toy_schema.columns))


def embeddings(schema: FeatureSchema, features: Features, settings: TrainConfig, min_count: int = 1) -> Embeddings:
    ids = CodedIds.of(schema, features)
    known = ids.known(np.arange(ROWS), min_count)
    return Embeddings(schema, ids, features.dense, known, settings, seed=0)


def expected(schema: FeatureSchema, features: Features, tables: Embeddings, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The three inputs by plain Python: one dict of rows per table, one row at a time."""
    held = {t.name: tables.table(t.name) for t in schema.tables}
    row_of = {name: dict(zip(keys.tolist(), values, strict=True)) for name, (keys, values, _) in held.items()}
    result = {}
    for name in INPUTS:
        lines = []
        for row in rows:
            line: list[np.ndarray] = []
            for spec in (slot.field for slot in schema.layout[name]):
                if spec.kind == "dense":
                    line.append(features.dense[spec.name][row : row + 1])
                    continue
                assert spec.table is not None
                default = held[spec.table][2]
                if spec.kind == "id":
                    line.append(row_of[spec.table].get(int(features.ids[spec.name][row]), default))
                else:
                    bag = features.bags[spec.name]
                    keys = bag.keys[bag.offsets[row] : bag.offsets[row + 1]].tolist()
                    values = [row_of[spec.table].get(key, default) for key in keys]
                    pool = np.mean if spec.pooling == "mean" else np.sum
                    line.append(pool(values, axis=0) if values else np.zeros_like(default))
            lines.append(np.concatenate(line) if line else np.empty(0, np.float32))
        result[name] = np.array(lines)
    return result


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("min_count", [1, 5])
def test_inputs_are_the_schemas(toy_schema: FeatureSchema, features: Features, training: bool, min_count: int) -> None:
    tables = embeddings(toy_schema, features, SETTINGS, min_count)
    rows = np.random.default_rng(0).integers(0, ROWS, 50)
    got = tables.inputs(rows, training)
    for name, wanted in expected(toy_schema, features, tables, rows).items():
        assert got[name].shape == (50, toy_schema.widths[name])
        np.testing.assert_allclose(got[name].detach().numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_steps_are_torchs_adagrad(toy_schema: FeatureSchema, features: Features, l2: float) -> None:
    """One torch parameter per table and torch.optim.Adagrad over all its rows, against the touched rows alone."""
    settings = structs.replace(SETTINGS, l2_embedding=l2, accumulator=0.1)
    tables = embeddings(toy_schema, features, settings, min_count=5)
    weights = {name: torch.nn.Parameter(_block(tables, name)) for name in toy_schema.table_by_name}
    optimizer = torch.optim.Adagrad(
        weights.values(), lr=settings.lr_embedding, initial_accumulator_value=0.1, eps=1e-10
    )
    ids = CodedIds.of(toy_schema, features)
    place = {}
    for name, codes in tables.known.items():
        place[name] = np.zeros(len(ids.keys[name]), np.int64)
        place[name][codes] = 1 + np.arange(len(codes))
    target = torch.randn(ROWS, sum(toy_schema.widths.values()), generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(3)
    for _ in range(5):
        batch = rng.integers(0, ROWS, 20)
        mine = torch.cat(list(tables.inputs(batch, training=True).values()), 1)
        (mine.sigmoid() * target[batch]).sum().backward()
        tables.step()

        values: dict[str, torch.Tensor] = {}
        touched = {name: torch.zeros(len(w), 1) for name, w in weights.items()}
        for spec in toy_schema.fields:
            if spec.table is None:
                values[spec.name] = torch.from_numpy(features.dense[spec.name][batch])[:, None]
            elif spec.kind == "id":
                at = torch.from_numpy(place[spec.table][ids.ids[spec.name][batch]])
                touched[spec.table][at] = 1.0
                values[spec.name] = weights[spec.table][at]
            else:
                bag = ids.bags[spec.name].take(batch)
                at = torch.from_numpy(place[spec.table][bag.codes])
                touched[spec.table][at] = 1.0
                parts = torch.split(weights[spec.table][at], np.diff(bag.offsets).tolist())
                sums = torch.stack([p.sum(0) for p in parts])
                sizes = torch.from_numpy(np.maximum(np.diff(bag.offsets), 1))[:, None]
                values[spec.name] = sums / sizes if spec.pooling == "mean" else sums
        theirs = torch.cat([values[s.field.name] for name in INPUTS for s in toy_schema.layout[name]], 1)
        loss = (theirs.sigmoid() * target[batch]).sum()
        loss = loss + sum(l2 / 2 * (w * touched[name]).square().sum() for name, w in weights.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, weight in weights.items():
        torch.testing.assert_close(_block(tables, name), weight.detach(), atol=1e-5, rtol=1e-4)


def _block(tables: Embeddings, name: str) -> torch.Tensor:
    _, rows, default = tables.table(name)
    return torch.from_numpy(np.concatenate([default[None], rows]))


def test_rare_ids_share_and_train_the_default_row(toy_schema: FeatureSchema, features: Features) -> None:
    tables = embeddings(toy_schema, features, SETTINGS, min_count=6)
    before = tables.table("user")
    counts = dict(zip(*np.unique(features.ids["user_id"], return_counts=True), strict=True))
    rare = [row for row in range(ROWS) if counts[features.ids["user_id"][row]] < 6]
    assert 0 < len(rare) < ROWS
    assert set(before[0].tolist()) == {key for key, count in counts.items() if count >= 6}
    inputs = tables.inputs(np.array(rare), training=True)
    inputs["general"].sum().backward()
    tables.step()
    after = tables.table("user")
    assert (after[2] != before[2]).all()
    np.testing.assert_array_equal(after[1], before[1])


def test_dropped_ids_train_the_default_row(toy_schema: FeatureSchema, features: Features) -> None:
    tables = embeddings(toy_schema, features, structs.replace(SETTINGS, id_dropout=0.5))
    rows = np.arange(ROWS)
    default = tables.table("user")[2]
    slot = next(s for s in toy_schema.layout["general"] if s.field.name == "user_id")

    def share(training: bool) -> float:
        seen = tables.inputs(rows, training)["general"].detach().numpy()[:, slot.offset : slot.offset + slot.width]
        return float((seen == default).all(1).mean())

    assert share(True) == pytest.approx(0.5, abs=0.1)
    assert share(False) == 0.0


def test_bags_of_some_rows() -> None:
    bag = BagCodes(np.arange(6, dtype=np.int32), np.array([0, 2, 2, 6]))
    some = bag.take(np.array([2, 1, 0, 2]))
    assert some.codes.tolist() == [2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert some.offsets.tolist() == [0, 4, 4, 6, 10]


def test_rows_that_grow_begin_as_the_default_row(toy_schema: FeatureSchema, features: Features) -> None:
    ids = CodedIds.of(toy_schema, features)
    known = ids.known(np.arange(ROWS), 2)
    tables = Embeddings(toy_schema, ids, features.dense, known, SETTINGS, seed=0, grows=True)
    batch = np.arange(ROWS)
    assert all(len(tables.table(t.name)[0]) == 0 for t in toy_schema.tables)
    before = tables.inputs(batch)
    tables.admit("video", known["video"][::2])
    np.testing.assert_array_equal(tables.table("video")[0], ids.keys["video"][known["video"][::2]])
    for name, values in tables.inputs(batch).items():
        np.testing.assert_array_equal(values, before[name])
        np.testing.assert_array_equal(values, expected(toy_schema, features, tables, batch)[name])
    touched = tables.touched()
    assert set(touched) == {"video"}
    np.testing.assert_array_equal(touched["video"][0], known["video"][::2])
    assert touched["video"][1] is None
    assert tables.touched() == {}


def test_touched_is_what_a_step_read(toy_schema: FeatureSchema, features: Features) -> None:
    tables = embeddings(toy_schema, features, SETTINGS, min_count=3)
    before = {t.name: tables.table(t.name) for t in toy_schema.tables}
    batch = np.arange(12)
    torch.autograd.backward(sum(values.sum() for values in tables.inputs(batch, training=True).values()))
    tables.step()
    touched = tables.touched()
    read = set(features.ids["user_id"][batch].tolist())
    key_of = CodedIds.of(toy_schema, features).keys
    codes, new_default = touched["user"]
    assert set(key_of["user"][codes].tolist()) == read & set(before["user"][0].tolist())
    assert (new_default is not None) == bool(read - set(before["user"][0].tolist()))
    for name, (codes, new_default) in touched.items():
        changed = key_of[name][codes]
        keys, rows, default = tables.table(name)
        np.testing.assert_array_equal(tables.rows(name, changed), rows[np.searchsorted(keys, changed)])
        other = ~np.isin(keys, changed)
        np.testing.assert_array_equal(rows[other], before[name][1][other])
        assert (rows[~other] != before[name][1][~other]).any(axis=1).all()
        np.testing.assert_array_equal(default, before[name][2] if new_default is None else new_default)
