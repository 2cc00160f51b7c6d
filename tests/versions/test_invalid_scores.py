"""Scores that are no numbers in [0, 1]: never without a sign, and only in the rows that they come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pepnet_infer import Engine, _kernels
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.versions.scoring import Scoring

Batch = dict[str, Any]


@pytest.mark.parametrize("rows", [0, 1, 5, 1000])
def test_probabilities_are_taken_for_such(rows: int) -> None:
    scores = np.random.default_rng(0).random((rows, 3), np.float32)
    if rows:
        scores[0, 0], scores[-1, -1] = 0.0, 1.0
    assert _kernels.rows_without_probability(scores) is None
    assert _kernels.rows_without_probability(scores[:, :2]) is None


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, -1e-30, np.nextafter(np.float32(1), 2)])
def test_whatever_is_no_probability_is_found_in_its_row(value: float) -> None:
    scores = np.full((70, 3), 0.5, np.float32)
    scores[4, 1] = scores[69, 2] = value
    for given in (scores, np.hstack([scores, scores])[:, :3]):
        mask = _kernels.rows_without_probability(given)
        assert mask is not None
        assert np.flatnonzero(mask).tolist() == [4, 69]


def test_warnings_about_them_are_few(caplog: pytest.LogCaptureFixture, toy_schema: FeatureSchema) -> None:
    scoring = Scoring()
    with caplog.at_level(logging.WARNING, "pepnet_infer.engine"):
        for _ in range(5):
            invalid = scoring.invalid(np.array([[np.nan], [0.5], [2.0], [-1.0]], np.float32))
            assert invalid is not None
            assert invalid.tolist() == [True, False, True, True]
    assert scoring.counts(toy_schema)["invalid"] == 15
    assert len(caplog.records) == 1
    assert "3 rows have scores that are no numbers in [0, 1], of 3 so far" in caplog.text


@pytest.fixture(params=["native fp32", "native bf16", "native int8", "onnxruntime fp32"])
def engine(request: pytest.FixtureRequest, toy_bundle: Path) -> Iterator[Engine]:
    backend, precision = request.param.split()
    options = {"unchecked": True} if precision == "int8" else {}
    with Engine.load(toy_bundle, backend=backend, precision=precision, threads=1, options=options) as engine:
        yield engine


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_row_whose_embedding_overflows_is_flagged(
    engine: Engine, toy_batch: Callable[..., Batch], value: float
) -> None:
    batch = toy_batch(40, 3)
    batch["user_id"][:] = np.arange(40) % 20
    good = engine.score(batch)
    assert good.invalid is None
    assert engine.cache is not None
    engine.cache.apply("user", [7], np.full((1, 6), value, np.float32), np.array([1 << 40], np.uint64))
    before = engine.stats()["invalid"]
    scores = engine.score(batch)
    wrong = ~np.isfinite(scores.values).all(axis=1)
    assert np.array_equal(wrong, batch["user_id"] == 7)
    assert scores.invalid is not None
    assert np.array_equal(scores.invalid, wrong)
    assert np.array_equal(scores.values[~wrong], good.values[~wrong])
    assert engine.score_features(engine.encode(batch)).invalid is not None
    assert engine.stats()["invalid"] == before + 4
    assert f"pepnet_invalid_rows_total {before + 4}" in engine.metrics()


def test_a_request_of_such_a_user_is_flagged_whole(engine: Engine, toy_batch: Callable[..., Batch]) -> None:
    assert engine.cache is not None
    engine.cache.apply("user", [7], np.full((1, 6), np.nan, np.float32), np.array([1 << 40], np.uint64))
    items = {name: column for name, column in toy_batch(5).items() if name in ("video_id", "tags", "duration")}
    scores = engine.rank({"user_id": 7, "watched": [1, 2], "age": 30.0}, items, 1)
    assert scores.invalid is not None
    assert scores.invalid.all()


def test_matrices_are_computed_with_as_they_are_and_counted(engine: Engine) -> None:
    inputs = normal_inputs(engine.bundle.config.inputs, 6, 0)
    inputs.general[2, 3] = np.nan
    before = engine.stats()["invalid"]
    scores = engine.score_dense(inputs.general, inputs.domain, inputs.prior)
    assert np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist() == [2]
    assert engine.stats()["invalid"] == before + 1
