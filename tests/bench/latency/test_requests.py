"""Whole requests: calls, stages, hit rates and what sharing a user saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.latency import requests
from pepnet_infer.bench.latency.requests import end_to_end
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.protocols import DefaultCounts, RowRequest
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch

QUICK = Plan(runs=14, warm_calls=0, warm_s=0.0, settle_s=0.0)
DENSE, LOOKUP = "score_dense fp32", "lookup fp32"


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


@pytest.mark.parametrize("size", [1, 40])
def test_every_call_has_stages_that_add_up_and_the_hit_rate_that_was_asked_for(bundle: Bundle, size: int) -> None:
    rows = end_to_end(bundle, size, 1, QUICK, seed=0).rows
    precisions = ("fp32", "bf16", "int8")
    assert list(rows) == [
        *(f"{call} {precision}" for call in ("score", "rank") for precision in precisions),
        *(DENSE, LOOKUP, "score fp32, no cache", "score fp32, hit rate 0.9", "score fp32, hit rate 0.5"),
    ]
    for name, row in rows.items():
        assert (row["batch"], row["backend"], row["runs"]) == (size, "native", QUICK.runs)
        assert 0 < row["low_ms"] <= row["p50_ms"] <= row["high_ms"]
        if name == LOOKUP:  # no call of the engine
            assert row["hit_rate"] == 1.0
            assert "stages_ms" not in row
            continue
        stages = row["stages_ms"]
        assert stages["dense"] > 0
        assert (stages["encode"] > 0) == (stages["lookup"] > 0) == (name != DENSE)
        # The stages are parts of the call, so their means cannot exceed the mean by more than the clocks' rounding.
        assert sum(stages.values()) < row["mean_ms"] + 0.01
        assert ("over_score" in row) == name.startswith("rank")
        asked = {"score fp32, hit rate 0.9": 0.9, "score fp32, hit rate 0.5": 0.5}.get(name, 1.0)
        if name in (DENSE, "score fp32, no cache"):
            assert row["hit_rate"] is None
        else:
            ids = QUICK.runs * (100 if size > 1 else 5)  # fewer than were asked for
            assert abs(row["hit_rate"] - asked) <= 5 * np.sqrt(asked * (1 - asked) / ids)
    assert rows["rank bf16"]["over_score"] == rows["rank bf16"]["speedups"]["score bf16"]


def test_wrong_rows_of_a_look_up_are_no_figure(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    right = CachedRows.answer

    def wrong(self: CachedRows, wanted: Sequence[RowRequest]) -> list[DefaultCounts]:
        counts = right(self, wanted)
        wanted[0].out[0] += 1
        return counts

    monkeypatch.setattr(requests, "score", lambda engine, case: case.scores)
    monkeypatch.setattr(requests, "rank", lambda engine, case: case.scores)
    monkeypatch.setattr(CachedRows, "answer", wrong)
    with pytest.raises(RuntimeError, match=r"lookup fp32 failed: .* the rows that the tables hold, got others"):
        end_to_end(bundle, 32, 1, QUICK, seed=0)


def test_wrong_rows_are_no_figure(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    right = MmapStore.get_many

    def wrong(self: MmapStore, keys: Keys, dim: int) -> RowBatch:
        fetched = right(self, keys, dim)
        fetched.rows[:] *= 2
        return fetched

    monkeypatch.setattr(MmapStore, "get_many", wrong)
    with pytest.raises(
        RuntimeError, match=r"end to end, batch 32: score fp32.* failed: .* that an engine without a cache"
    ):
        end_to_end(bundle, 32, 1, QUICK, seed=0)
