"""Whole requests: calls, stages and what sharing a user saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.latency import requests
from pepnet_infer.bench.latency.requests import end_to_end, one_request
from pepnet_infer.bundle.bundle import Bundle

QUICK = Plan(runs=10, warm_calls=0, warm_s=0.0, settle_s=0.0)


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


def test_end_to_end_rows_add_up(bundle: Bundle) -> None:
    rows = [row for size in (1, 16) for row in end_to_end(bundle, size, 1, QUICK, seed=0).rows.values()]
    assert [(row["call"], row["batch"]) for row in rows] == [
        (call, size) for size in (1, 16) for call in ("score", "rank", "score_dense")
    ]
    for row in rows:
        assert set(row["speedups"]) == {"score", "rank", "score_dense"} - {row["call"]}
        check_stages(row, dense_only=row["call"] == "score_dense")


def check_stages(row: dict[str, Any], dense_only: bool) -> None:
    stages = row["stages_ms"]
    assert stages["dense"] > 0
    assert (stages["encode"] > 0) == (stages["lookup"] > 0) == (not dense_only)
    # The stages are parts of the call, so their means cannot exceed the mean by more than the clocks' rounding.
    assert sum(stages.values()) < row["mean_ms"] + 0.01
    assert row["unknown_ids_a_row"] == 0


def test_one_request_is_measured_both_ways_in_each_precision(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "CANDIDATES", 50)
    figures = one_request(bundle, 1, QUICK, seed=0)
    rows = list(figures.rows.values())
    assert [(row["call"], row["backend"], row["precision"]) for row in rows] == [
        (call, "native", precision) for precision in ("fp32", "bf16") for call in ("score request", "rank request")
    ]
    for row in rows:
        assert row["batch"] == 50
        assert ("over_score" in row) == (row["call"] == "rank request")
        check_stages(row, dense_only=False)
    assert 0 <= figures.others_busy <= 1
