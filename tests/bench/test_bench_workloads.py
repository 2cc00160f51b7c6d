"""What is measured: dense rows, requests drawn from a bundle, the peers, the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from pepnet_infer.backends.create import BACKENDS
from pepnet_infer.backends.protocol import GPU_PRECISIONS, PRECISIONS
from pepnet_infer.bench import end_to_end as whole_requests
from pepnet_infer.bench import machine, workloads
from pepnet_infer.bench.compare import compare
from pepnet_infer.bench.end_to_end import end_to_end, one_request
from pepnet_infer.bench.latency import Plan
from pepnet_infer.bench.peers import PeerSpec, all_peers
from pepnet_infer.bench.peers.torch_cpu import reference
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.errors import BackendError
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths

QUICK = Plan(runs=4, warm_calls=0, warm_s=0.0, settle_s=0.0)


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


@pytest.fixture(scope="module")
def inputs(bundle: Bundle) -> Inputs:
    return workloads.dense_rows(bundle.config.inputs, 256, 0)


class Fake:
    """A peer that returns the truth, with `off` added."""

    def __init__(self, truth: np.ndarray, inputs: Inputs, off: float) -> None:
        self._rows = {row.tobytes(): i for i, row in enumerate(inputs.general)}
        self._truth, self._off = truth, off

    def scores(self, inputs: Inputs) -> np.ndarray:
        rows = [self._rows[row.tobytes()] for row in inputs.general]
        return (self._truth[rows] + self._off).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        return {"threads": 1}


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


# Compiling takes half a minute: test_torch_compile does that.
QUICK_PEERS = [spec for spec in all_peers() if spec.name != "torch-compile"]


@pytest.mark.parametrize("spec", QUICK_PEERS, ids=lambda spec: spec.name)
def test_every_peer_scores_the_same_bundle(bundle: Bundle, inputs: Inputs, spec: PeerSpec) -> None:
    if spec.name.startswith("openvino"):
        pytest.importorskip("openvino")
    try:
        peer = spec.build(bundle, 64, 1)
    except BackendError as error:
        if spec.name.startswith(("engine-cuda", "openvino-bf16")):
            pytest.skip(str(error))  # no GPU, or a CPU without bf16
        raise
    truth = reference(bundle, inputs)
    bound = {"fp32": 1e-5, "bf16": 0.05, "int8": 0.1}[spec.precision]
    for part in range(4):
        rows = slice(64 * part, 64 * part + 64)
        got = peer.scores(Inputs(inputs.general[rows], inputs.domain[rows], inputs.prior[rows]))
        assert got.dtype == np.float32
        assert np.abs(got - truth[rows]).max() < bound
    assert peer.describe()["threads"] == 1


@pytest.mark.slow
def test_torch_compile(bundle: Bundle, inputs: Inputs) -> None:
    (spec,) = [s for s in all_peers() if s.name == "torch-compile"]
    peer = spec.build(bundle, 256, 1)
    assert np.abs(peer.scores(inputs) - reference(bundle, inputs)).max() < 1e-5


def test_reference_is_the_formulas_in_float64(bundle: Bundle, inputs: Inputs, reference_scores: Any) -> None:
    expected = reference_scores(bundle.config, bundle.dense(), inputs.general, inputs.domain, inputs.prior)
    np.testing.assert_allclose(reference(bundle, inputs), expected, rtol=0, atol=1e-12)


def test_there_is_a_peer_for_every_backend_in_every_precision_it_has() -> None:
    names = {spec.name: spec.precision for spec in all_peers()}
    assert list(names)[:6] == ["torch", "torch-bf16", "torch-compile", "onnxruntime", "openvino", "openvino-bf16"]
    ours = {name: precision for name, precision in names.items() if name.startswith("engine-")}
    assert ours == {
        "engine-onnxruntime": "fp32",
        "engine-native": "fp32",
        "engine-native-bf16": "bf16",
        "engine-native-int8": "int8",
        "engine-cuda": "fp32",
        "engine-cuda-bf16": "bf16",
    }
    assert set(BACKENDS) == set(PRECISIONS) == set(GPU_PRECISIONS) == {"onnxruntime", "native"}


def test_comparison_reports_speed_accuracy_and_who_is_missing(bundle: Bundle, inputs: Inputs) -> None:
    truth = reference(bundle, inputs)

    def broken(*_: object) -> Fake:
        raise ImportError("no such library")

    specs = [
        PeerSpec("exact", "fp32", "fake", lambda *_: Fake(truth, inputs, 0.0)),
        PeerSpec("near", "bf16", "fake", lambda *_: Fake(truth, inputs, 0.01)),
        PeerSpec("wrong", "fp32", "fake", lambda *_: Fake(truth, inputs, 0.2)),
        PeerSpec("broken", "fp32", "fake", broken),
    ]
    got = compare(bundle, specs, inputs, truth, [1, 8], 1, QUICK)
    assert [(row["peer"], row["batch"]) for row in got.rows] == [("exact", 1), ("near", 1), ("exact", 8), ("near", 8)]
    assert got.rows[0]["max_abs"] < 1e-7
    assert got.rows[1]["max_abs"] == pytest.approx(0.01, rel=1e-4)
    assert got.rows[3]["rms"] == pytest.approx(0.01, rel=1e-4)
    assert got.rows[0]["rows_checked"] == 128
    assert got.rows[2]["rows_checked"] == 256
    assert set(got.rows[0]["speedups"]) == {"near"}
    assert [(m["peer"], m["batch"]) for m in got.missing] == [("wrong", 1), ("broken", 1), ("wrong", 8), ("broken", 8)]
    assert got.missing[0]["reason"] == ("ValueError: expected scores within 0.1 of float64, got a difference of 0.2")
    assert got.missing[1]["reason"] == "ImportError: no such library"
    assert set(got.others_busy) == {1, 8}


def test_a_required_peer_that_is_missing_is_an_error(bundle: Bundle, inputs: Inputs) -> None:
    truth = reference(bundle, inputs)

    def refuses(*_: object) -> Fake:
        raise BackendError("precision: this one has fp32, got 'int8'")

    specs = [PeerSpec("refuses", "int8", "fake", refuses)]
    message = "peers: refuses was asked for and cannot run: BackendError: precision: this one has fp32, got 'int8'"
    with pytest.raises(BackendError, match=message):
        compare(bundle, specs, inputs, truth, [4], 1, QUICK, required=True)
    got = compare(bundle, specs, inputs, truth, [4], 1, QUICK)
    assert (got.rows, len(got.missing)) == ([], 1)


def test_a_peer_that_fails_while_timed_is_missing(bundle: Bundle, inputs: Inputs) -> None:
    truth = reference(bundle, inputs)

    class Drifts(Fake):
        calls = 0

        def scores(self, inputs: Inputs) -> np.ndarray:
            self.calls += 1
            return super().scores(inputs) + np.float32(0.5 if self.calls > 4 else 0.0)

    specs = [
        PeerSpec("exact", "fp32", "fake", lambda *_: Fake(truth, inputs, 0.0)),
        PeerSpec("drifts", "fp32", "fake", lambda *_: Drifts(truth, inputs, 0.0)),
    ]
    got = compare(bundle, specs, inputs, truth, [64], 1, QUICK)
    assert [row["peer"] for row in got.rows] == ["exact"]
    assert got.missing[0]["reason"].startswith("ValueError: timed call: expected scores within 0.1 of float64, got")
    with pytest.raises(BackendError, match="peers: drifts was asked for and cannot run: ValueError: timed call"):
        compare(bundle, specs, inputs, truth, [64], 1, QUICK, required=True)


def test_end_to_end_rows_add_up(bundle: Bundle) -> None:
    rows, busy = end_to_end(bundle, [1, 16], 1, structs.replace(QUICK, runs=30), seed=0)
    assert [(row["call"], row["batch"]) for row in rows] == [
        (call, size) for size in (1, 16) for call in ("score", "rank", "score_dense")
    ]
    assert set(busy) == {1, 16}
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
    monkeypatch.setattr(whole_requests, "CANDIDATES", 50)
    rows, busy = one_request(bundle, 1, structs.replace(QUICK, runs=30), seed=0)
    assert [(row["call"], row["backend"], row["precision"]) for row in rows] == [
        (call, "native", precision) for precision in ("fp32", "bf16") for call in ("score request", "rank request")
    ]
    for row in rows:
        assert row["batch"] == 50
        (other,) = row["speedups"]
        assert {other, row["call"]} == {"score request", "rank request"}
        check_stages(row, dense_only=False)
    assert 0 <= busy <= 1


def test_a_request_as_rows_has_the_same_scores(bundle: Bundle) -> None:
    columns = workloads.Traffic(bundle, seed=5).columns(7)
    request = workloads.as_request(bundle, columns)
    rows = workloads.as_rows(bundle, request, 7)
    with Engine.load(bundle.path) as engine:
        ranked = engine.rank(request.user, request.items, request.domain, request.context, strict=True)
        np.testing.assert_array_equal(engine.score(rows, strict=True).values, ranked.values)


def test_machine_facts_hold_no_name_of_the_machine() -> None:
    facts = machine.facts()
    text = json.dumps(facts)
    assert platform.node() not in text
    assert os.getcwd() not in text
    assert facts["cpus"]["usable"] == len(os.sched_getaffinity(0))
    assert facts["memory_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts["libraries"]["numpy"] == np.__version__


def test_others_are_told_apart_from_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(100.0, 50.0, 20.0), (200.0, 120.0, 60.0), (200.0, 50.0, 60.0), (100.0, 50.0, 20.0)])
    monkeypatch.setattr(machine, "_cpu_seconds", lambda: next(readings))
    meter = machine.BusyMeter()
    assert meter.others() == pytest.approx(0.3)  # 70 of 100 s busy, 40 of them ours
    assert meter.others() == 0.0  # ticks may lag behind our own clock
    assert meter.others() == 0.0  # no time has passed


def test_another_process_is_seen_at_work() -> None:
    meter = machine.BusyMeter()
    subprocess.run([sys.executable, "-c", "import time\nt=time.time()+.7\nwhile time.time()<t: pass"], check=True)
    assert meter.others() > 0.4 / (os.cpu_count() or 1)
