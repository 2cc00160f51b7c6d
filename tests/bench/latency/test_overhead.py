"""The overhead of a call, on models whose way there and back takes a known time."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from pepnet_infer.bench.harness.workloads import dense_rows
from pepnet_infer.bench.latency import overhead
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "CALLS", 60)
    monkeypatch.setattr(overhead, "SECONDS", 0.2)


@pytest.mark.usefixtures("quick")
def test_the_model_at_both_sizes(toy_bundle: Path) -> None:
    entries = overhead.call_overhead(Bundle.open(toy_bundle), 1, lambda _: None)
    assert [e["rows"] for e in entries] == [1, 64]
    for entry in entries:
        assert entry["calls"] == 60
        assert 0 < entry["low"] <= entry["overhead_us"] <= entry["high"] <= entry["p99_us"]
        assert 0 < entry["run_us"] < entry["score_dense_us"]
        # Medians of sums are near sums of medians only where the spread is small, as it is on a quiet machine.
        assert entry["overhead_us"] < entry["score_dense_us"]


@pytest.mark.usefixtures("quick")
def test_what_python_adds_is_what_is_counted(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A millisecond more in Python is one more of overhead, and none of the run."""

    score_dense = Engine.score_dense

    def slow(engine: Engine, *inputs: np.ndarray) -> np.ndarray:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        return score_dense(engine, *inputs)

    bundle = Bundle.open(toy_bundle)
    engine, model = overhead.clocked_engine(bundle, bundle.dense(), 1)
    monkeypatch.setattr(Engine, "score_dense", slow)
    entry = overhead._measure(engine, model, 1)
    assert entry["overhead_us"] > 1000
    assert entry["run_us"] < 500


def test_the_clocked_model_scores_as_the_bundle_does(toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    rows = dense_rows(bundle.config.inputs, 9, 0)
    engine, model = overhead.clocked_engine(bundle, bundle.dense(), 2)
    with Engine.load(toy_bundle, backend="native") as plain:
        expected = plain.score_dense(rows.general, rows.domain, rows.prior)
    np.testing.assert_array_equal(engine.score_dense(rows.general, rows.domain, rows.prior), expected)
    assert model.run_ns > 0
