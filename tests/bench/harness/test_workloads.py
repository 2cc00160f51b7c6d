"""What is measured: dense rows, and requests drawn from a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pepnet_infer.bench.harness import workloads
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.engine import Engine
from pepnet_infer.schema.network_config import InputWidths


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


def test_batches_are_views_without_overlap() -> None:
    rows = normal_inputs(InputWidths(3, 2, 1), 100, 0)
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


def test_a_request_and_its_rows_have_the_same_scores(bundle: Bundle) -> None:
    request = workloads.Traffic(bundle, seed=4).request(7)
    assert set(request.user) == {"user_id", "watched", "age"}
    assert set(request.items) == {"video_id", "tags", "duration"}
    assert request.context == {}
    assert len(np.unique(np.asarray(request.items["duration"]))) > 1
    with Engine.load(bundle.path) as engine:
        ranked = engine.rank(request.user, request.items, request.domain, request.context, strict=True)
        assert ranked.values.shape == (7, 2)
        np.testing.assert_array_equal(engine.score(request.rows, strict=True).values, ranked.values)
