"""Who scores the dense part, and what is made of it."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pepnet_infer.backends.create import BACKENDS
from pepnet_infer.backends.protocol import GPU_PRECISIONS, PRECISIONS
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.latency.dense import compare
from pepnet_infer.bench.latency.peers import PEERS, Peer, PeerSpec, own_peer, reference
from pepnet_infer.bench.latency.peers import QUICK as FIRST_LOOK
from pepnet_infer.bench.latency.run import BASELINES
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.engine import Engine
from pepnet_infer.errors import BackendError, ConfigError
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.storage.listing import describe_files

QUICK = Plan(runs=4, warm_calls=0, warm_s=0.0, settle_s=0.0)


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


@pytest.fixture(scope="module")
def inputs(bundle: Bundle) -> Inputs:
    return normal_inputs(bundle.config.inputs, 256, 0)


def fake(truth: np.ndarray, inputs: Inputs, off: float) -> Peer:
    """A peer that returns the truth, with `off` added."""
    places = {row.tobytes(): i for i, row in enumerate(inputs.general)}

    def scores(given: Inputs) -> np.ndarray:
        rows = [places[row.tobytes()] for row in given.general]
        return (truth[rows] + off).astype(np.float32)

    return Peer(scores, {"threads": 1})


# Compiling takes half a minute: test_torch_compile does that.
QUICK_PEERS = [spec for spec in PEERS.values() if spec.name != "torch-compile"]


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
        got = peer.scores(inputs.rows(rows))
        assert got.dtype == np.float32
        assert np.abs(got - truth[rows]).max() < bound
    assert peer.settings["threads"] == 1


@pytest.mark.slow
def test_torch_compile(bundle: Bundle, inputs: Inputs) -> None:
    peer = PEERS["torch-compile"].build(bundle, 256, 1)
    assert np.abs(peer.scores(inputs) - reference(bundle, inputs)).max() < 1e-5


def test_reference_is_the_formulas_in_float64(bundle: Bundle, inputs: Inputs, reference_scores: Any) -> None:
    expected = reference_scores(bundle.config, bundle.dense(), inputs.general, inputs.domain, inputs.prior)
    np.testing.assert_allclose(reference(bundle, inputs), expected, rtol=0, atol=1e-12)


def test_there_is_a_peer_for_every_backend_in_every_precision_it_has() -> None:
    names = {name: spec.precision for name, spec in PEERS.items()}
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

    def broken(*_: object) -> Peer:
        raise ImportError("no such library")

    specs = [
        PeerSpec("exact", "fp32", lambda *_: fake(truth, inputs, 0.0)),
        PeerSpec("near", "bf16", lambda *_: fake(truth, inputs, 0.01)),
        PeerSpec("far", "int8", lambda *_: fake(truth, inputs, 0.2 * truth.std())),
        PeerSpec("wrong", "fp32", lambda *_: fake(truth, inputs, 0.6 * truth.std())),
        PeerSpec("broken", "fp32", broken),
    ]
    for size, checked in ((1, 128), (8, 256)):
        got = compare(bundle, specs, inputs, truth, size, 1, QUICK)
        assert list(got.rows) == ["exact", "near", "far"]
        assert all(row["batch"] == size and row["rows_checked"] == checked for row in got.rows.values())
        assert got.rows["exact"]["max_abs"] < 1e-7
        assert got.rows["near"]["max_abs"] == pytest.approx(0.01, rel=1e-4)
        assert got.rows["near"]["rms"] == pytest.approx(0.01, rel=1e-4)
        assert got.rows["far"]["rms"] == pytest.approx(0.2 * truth.std(), rel=1e-4)  # shown, however far it is off
        assert set(got.rows["exact"]["speedups"]) == {"near", "far"}
        assert list(got.failed) == ["wrong", "broken"]
        assert got.failed["wrong"].startswith("ValueError: expected scores within ")
        assert got.failed["broken"] == "ImportError: no such library"


def test_a_precision_that_the_bundle_does_not_offer_has_a_figure_beside_its_errors(
    toy_bundle: Path, inputs: Inputs, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))
    parity, manifest = (json.loads((path / f"{name}.json").read_text()) for name in ("parity", "manifest"))
    for precision in ("bf16", "int8"):
        parity["native"][precision] |= {"offered": False, "why": "over its budget", "domain": None}
    (path / "parity.json").write_text(json.dumps(parity))
    manifest["files"]["parity.json"] = describe_files(path)["parity.json"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    bundle = Bundle.open(path)
    with pytest.raises(BackendError, match="int8"):
        Engine.load(path, backend="native", precision="int8")
    specs = [spec for spec in PEERS.values() if spec.name.startswith("engine-native")]
    got = compare(bundle, specs, inputs, reference(bundle, inputs), 64, 1, QUICK)
    assert got.failed == {}
    assert [(name, row["rms"] > 1e-4) for name, row in got.rows.items()] == [
        ("engine-native", False),
        ("engine-native-bf16", True),
        ("engine-native-int8", True),
    ]


def test_a_required_peer_that_is_missing_is_an_error(bundle: Bundle, inputs: Inputs) -> None:
    truth = reference(bundle, inputs)

    def refuses(*_: object) -> Peer:
        raise BackendError("precision: this one has fp32, got 'int8'")

    specs = [PeerSpec("refuses", "int8", refuses)]
    message = "peers: refuses was asked for and cannot run: BackendError: precision: this one has fp32, got 'int8'"
    with pytest.raises(BackendError, match=message):
        compare(bundle, specs, inputs, truth, 4, 1, QUICK, ["refuses"])
    got = compare(bundle, specs, inputs, truth, 4, 1, QUICK)
    assert (got.rows, list(got.failed)) == ({}, ["refuses"])


def test_a_peer_that_fails_while_timed_is_missing(bundle: Bundle, inputs: Inputs) -> None:
    truth = reference(bundle, inputs)

    def drifts(*_: object) -> Peer:
        exact, calls = fake(truth, inputs, 0.0), itertools.count(1)
        return Peer(lambda given: exact.scores(given) + np.float32(2.0 if next(calls) > 5 else 0.0), {})

    specs = [
        PeerSpec("exact", "fp32", lambda *_: fake(truth, inputs, 0.0)),
        PeerSpec("drifts", "fp32", drifts),
    ]
    got = compare(bundle, specs, inputs, truth, 64, 1, QUICK)
    assert list(got.rows) == ["exact"]
    assert got.failed["drifts"].startswith("ValueError: expected scores within ")
    with pytest.raises(BackendError, match="peers: drifts was asked for and cannot run: ValueError: expected scores"):
        compare(bundle, specs, inputs, truth, 64, 1, QUICK, ["drifts"])


def test_named_peers_exist() -> None:
    assert {*BASELINES, *FIRST_LOOK} <= set(PEERS)


def test_an_own_peer_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_peer.py").write_text(
        "def build(bundle, rows, threads):\n    return rows\nbuild.precision = 'bf16'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = own_peer("my_own_peer:build")
    assert (spec.name, spec.precision, spec.build(None, 7, 1)) == ("my_own_peer:build", "bf16", 7)  # type: ignore[arg-type]
    for text, said in (
        ("my_own_peer", "expected MODULE:BUILD, got 'my_own_peer'"),
        ("not_there:build", "No module named 'not_there'"),
        ("my_own_peer:made", "has no attribute 'made'"),
    ):
        with pytest.raises(ConfigError, match=said):
            own_peer(text)
