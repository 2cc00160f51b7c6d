"""The overhead of a call, on models whose way there and back takes a known time."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from pepnet_infer.bench.latency import overhead
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.engine import Engine


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "SECONDS", 0.1)


def test_the_model_at_both_sizes(toy_bundle: Path) -> None:
    rows = overhead.call_overhead(Bundle.open(toy_bundle), 1, lambda _: None)
    assert [row["batch"] for row in rows] == [1, 64]
    for row in rows:
        assert row["runs"] >= 50
        assert 0 < row["low_ms"] <= row["p50_ms"] <= row["high_ms"] <= row["p99_ms"]


def test_timed_calls_follow_each_other_without_a_pause(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two calls are neither untimed ones nor a look at the other threads."""
    done: list[str] = []
    score_dense = Engine.score_dense

    def counted(engine: Engine, *inputs: np.ndarray) -> np.ndarray:
        done.append("call")
        return score_dense(engine, *inputs)

    monkeypatch.setattr(Engine, "score_dense", counted)
    monkeypatch.setattr(overhead, "settle", lambda _: done.append("settle"))
    rows = overhead.call_overhead(Bundle.open(toy_bundle), 1, lambda _: None)
    warm = 64
    assert done == [step for row in rows for step in ("settle", *["call"] * (warm + row["runs"]))]


def test_what_python_adds_is_what_is_counted(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A millisecond more in Python is one more of overhead."""

    score_dense = Engine.score_dense

    def slow(engine: Engine, *inputs: np.ndarray) -> np.ndarray:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        return score_dense(engine, *inputs)

    monkeypatch.setattr(Engine, "score_dense", slow)
    for row in overhead.call_overhead(Bundle.open(toy_bundle), 1, lambda _: None):
        assert row["p50_ms"] > 1.0


def test_the_run_of_the_model_is_no_overhead(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is said to take all of the time leaves none."""

    class Slow:
        run_ns = 0

    clocked = Slow()

    def slow(engine: Engine, *inputs: np.ndarray) -> np.ndarray:
        clocked.run_ns += 10**9
        return np.zeros((len(inputs[0]), 2), np.float32)

    monkeypatch.setattr(Engine, "score_dense", slow)
    engine, _ = overhead.clocked_engine(Bundle.open(toy_bundle), 1)
    monkeypatch.setattr(overhead, "clocked_engine", lambda *_: (engine, clocked))
    for row in overhead.call_overhead(Bundle.open(toy_bundle), 1, lambda _: None):
        assert row["p50_ms"] < 0


def test_the_clocked_model_scores_as_the_bundle_does(toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    rows = normal_inputs(bundle.config.inputs, 9, 0)
    engine, model = overhead.clocked_engine(bundle, 2)
    with Engine.load(toy_bundle, backend="native") as plain:
        expected = plain.score_dense(rows.general, rows.domain, rows.prior)
    np.testing.assert_array_equal(engine.score_dense(rows.general, rows.domain, rows.prior), expected)
    assert model.run_ns > 0
