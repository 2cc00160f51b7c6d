"""What is measured: dense rows, and requests drawn from a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pepnet_infer.bench.harness import workloads
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.schema.network_config import InputWidths


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


def test_dense_rows_are_standard_normal_and_follow_the_seed() -> None:
    widths = InputWidths(30, 4, 0)
    rows = workloads.dense_rows(widths, 2000, 3)
    assert (rows.general.shape, rows.domain.shape, rows.prior.shape) == ((2000, 30), (2000, 4), (2000, 0))
    assert abs(rows.general.mean()) < 0.02
    assert abs(rows.general.std() - 1) < 0.02
    np.testing.assert_array_equal(rows.domain, workloads.dense_rows(widths, 2000, 3).domain)
    assert (rows.domain != workloads.dense_rows(widths, 2000, 4).domain).all()


def test_batches_are_views_without_overlap() -> None:
    rows = workloads.dense_rows(InputWidths(3, 2, 1), 100, 0)
    parts = workloads.batches(rows, 7)
    assert len(parts) == 14
    assert all(np.shares_memory(part.general, rows.general) and part.general.flags.c_contiguous for part in parts)
    np.testing.assert_array_equal(np.concatenate([part.prior for part in parts]), rows.prior[:98])


def test_rotating_rows_exceed_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "last_level_cache", lambda: 32 << 20)
    widths = InputWidths(1216, 48, 120)
    assert workloads.rows_beyond_caches(widths, 1) * 4 * 1384 > 2 * (32 << 20) - 4 * 1384
    assert workloads.rows_beyond_caches(widths, 50_000) == 100_000
    assert workloads.rows_beyond_caches(InputWidths(1, 0, 0), 1) == 65_536


def test_traffic_is_scored_with_no_unknown_id(bundle: Bundle) -> None:
    traffic = workloads.Traffic(bundle, seed=1)
    with Engine.load(bundle.path) as engine:
        for rows in (1, 2, 300):
            scores = engine.score(traffic.columns(rows), strict=True)
            assert scores.values.shape == (rows, 2)
            assert scores.unknown == {}


def test_hot_ids_are_those_with_the_highest_scores(bundle: Bundle) -> None:
    from safetensors.numpy import load_file

    drawn = workloads.Traffic(bundle, seed=2).columns(20_000)["user_id"]
    counts = np.bincount(np.asarray(drawn), minlength=40)
    by_score = np.argsort(-load_file(bundle.table_paths["user"])["scores"], kind="stable")  # ids are 0 to 39 in order
    expected = np.arange(1, 41, dtype=np.float64) ** -1.05
    np.testing.assert_allclose(counts[by_score] / 20_000, expected / expected.sum(), atol=0.01)


def test_without_a_zipf_law_all_ids_are_equally_likely(bundle: Bundle) -> None:
    drawn = workloads.Traffic(bundle, seed=2, zipf=0.0).columns(20_000)["user_id"]
    counts = np.bincount(np.asarray(drawn), minlength=40)
    np.testing.assert_allclose(counts / 20_000, 1 / 40, atol=0.005)


def test_sliced_columns_are_scored_as_the_rows_they_are(bundle: Bundle) -> None:
    columns = workloads.Traffic(bundle, seed=6).columns(20)
    parts = [workloads.slice_columns(columns, begin, end) for begin, end in ((0, 1), (1, 13), (13, 20))]
    with Engine.load(bundle.path) as engine:
        whole = engine.score(columns).values
        np.testing.assert_array_equal(np.concatenate([engine.score(part).values for part in parts]), whole)
    text = workloads.slice_columns({"tags": ["1,2", "", "3"]}, 1, 3)
    assert text == {"tags": ["", "3"]}


def test_a_request_is_its_rows_with_the_first_user(bundle: Bundle) -> None:
    columns = workloads.Traffic(bundle, seed=4).columns(5)
    request = workloads.as_request(bundle, columns)
    assert set(request.user) == {"user_id", "watched", "age"}
    assert set(request.items) == {"video_id", "tags", "duration"}
    assert request.context == {}
    repeated = dict(columns)
    for name in ("user_id", "age", "tab"):
        repeated[name] = np.repeat(np.asarray(columns[name])[:1], 5)
    values, offsets = columns["watched"]
    repeated["watched"] = [values[: offsets[1]].tolist()] * 5
    with Engine.load(bundle.path) as engine:
        ranked = engine.rank(request.user, request.items, request.domain, request.context, strict=True)
        np.testing.assert_array_equal(ranked.values, engine.score(repeated).values)


def test_a_request_as_rows_has_the_same_scores(bundle: Bundle) -> None:
    columns = workloads.Traffic(bundle, seed=5).columns(7)
    request = workloads.as_request(bundle, columns)
    rows = workloads.as_rows(bundle, request, 7)
    with Engine.load(bundle.path) as engine:
        ranked = engine.rank(request.user, request.items, request.domain, request.context, strict=True)
        np.testing.assert_array_equal(engine.score(rows, strict=True).values, ranked.values)
