"""What the script for a GPU machine compares with, and what it makes of its figures; the GPU itself is not asked."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from pepnet_infer import _kernels
from pepnet_infer.bench import gpu_check
from pepnet_infer.bench.gpu import peers, timing
from pepnet_infer.bench.gpu.peers import Case, IdsCall, Network
from pepnet_infer.bench.gpu.timing import compare, ratios, table
from pepnet_infer.network import network as lists
from pepnet_infer.schema.network_config import InputWidths, ModelConfig


def test_torchs_network_with_weights_packed_ahead(reference_scores: Callable[..., np.ndarray]) -> None:
    config = ModelConfig(InputWidths(19, 5, 7), layers=(17, 9), towers=(6,), experts=4)
    random, tensors = np.random.default_rng(2), {}
    for name, shape in lists.Network.derived(config, 3).tensors.items():
        tensors[name] = (0.4 * random.standard_normal(shape)).astype(np.float32)
    inputs = [random.standard_normal((11, width), dtype=np.float32) for width in (19, 5, 7)]
    network = Network(torch, config, tensors, torch.float32, "cpu")
    scores = network.eager(Case(None, inputs, list(map(torch.from_numpy, inputs))))()
    expected = reference_scores(config, tensors, *inputs)
    assert expected.std() > 0.02
    np.testing.assert_allclose(scores.numpy(), expected, atol=2e-6)


def test_a_library_without_the_extension_is_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "_source_tree", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--library", "libpepnet_cuda.so"])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert ended.value.code == 2
    assert "--library: expected the package's extension too, got none" in capsys.readouterr().err


SCORES = np.full((8, 3), 0.5, np.float32)
CASES = [Case(None, [np.zeros((8, 1), np.float32)], ())] * timing.SETS
TRUTH = [SCORES] * timing.SETS


def test_peers_are_timed_by_both_clocks_in_turn() -> None:
    taken: list[tuple[str, str]] = []
    called: list[str] = []

    def peer_of(name: str, scores: np.ndarray = SCORES) -> Callable[[Case], Callable[[], np.ndarray]]:
        def call() -> np.ndarray:
            called.append(name)
            return scores

        return lambda case: call

    def clock_of(kind: str, nanoseconds: float) -> Callable[..., tuple[float, Any]]:
        def clock(call: Callable[[int], Any], item: int) -> tuple[float, Any]:
            scores = call(item)
            taken.append((kind, called[-1]))
            return nanoseconds * (1 if called[-1] == "a" else 3), scores

        return clock

    def broken(case: Case) -> Callable[[], np.ndarray]:
        raise RuntimeError("no room")

    clocks = clock_of("device", 1000.0), clock_of("call", 5000.0)
    peers = {name: peer_of(name) for name in ("a", "b", "b-ids")}
    peers |= {"off": peer_of("off", SCORES + np.float32(1e-3)), "broken": broken}
    peers["cuda-broken"] = broken
    notes: list[tuple[str, str]] = []
    a, b, ids = compare(torch, clocks, peers, CASES, TRUTH, 0.0, lambda _: None, lambda *note: notes.append(note))
    assert [round(1e3 * row["p50_ms"], 6) for row in (a, b, ids)] == [5.0, 15.0, 15.0]
    assert [round(1e3 * row["device"]["p50_ms"], 6) for row in (a, b)] == [1.0, 3.0]
    assert "device" not in ids  # which begins and ends on the host
    assert (a["name"], a["batch"], a["precision"], a["rms"]) == ("a", 8, "fp32", 0.0)
    assert [kind for kind, _ in taken] == ["device"] * 10 + ["call"] * 15
    assert {name for _, name in taken[:2]} == {"a", "b"}
    assert notes == [
        ("failed", "off at 8 rows: scores off by rms 1.0e-03, max 1.0e-03"),
        ("left out", "broken at 8 rows: RuntimeError: no room"),
        ("failed", "cuda-broken at 8 rows: RuntimeError: no room"),
    ]


def test_ids_are_lost_before_each_timed_call_and_its_scores_compared() -> None:
    done: list[str] = []

    def clock(call: Callable[[int], Any], item: int) -> tuple[float, Any]:
        return 1000.0, call(item)

    notes: list[tuple[str, str]] = []

    def timed(by_ids: np.ndarray) -> list[str]:
        def score() -> np.ndarray:
            done.append("score")
            return by_ids

        call = IdsCall(score)
        call.lose = lambda: done.append("lose")
        peers = {"a": lambda case: lambda: SCORES, "a-host": lambda case: lambda: SCORES, "a-ids": lambda case: call}

        def note(kind: str, what: str) -> None:
            notes.append((kind, what))

        rows = compare(torch, (clock, clock), peers, CASES, TRUTH, 0.0, lambda _: None, note)
        return [row["name"] for row in rows]

    assert timed(SCORES) == ["a", "a-host", "a-ids"]
    assert notes == []
    assert done.count("lose") == 10  # a warm call and a timed one of each of five rounds
    assert all(after == "score" for before, after in pairwise(done) if before == "lose")
    assert timed(np.nextafter(SCORES, np.float32(1))) == ["a", "a-host"]
    assert notes == [("failed", "a-ids at 8 rows: ValueError: other scores than with inputs from the host")]


def test_a_peer_that_one_clock_alone_fails_has_no_row() -> None:
    names = ("cuda-bf16", "torch-compile-bf16", "onnxruntime-fp32", "cuda-bf16-ids")
    called: list[str] = []

    def peer_of(name: str) -> Callable[[Case], Callable[[], np.ndarray]]:
        def call() -> np.ndarray:
            called.append(name)
            return SCORES

        return lambda case: call

    def clock_that_fails(lost: str) -> Callable[..., tuple[float, Any]]:
        def clock(call: Callable[[int], Any], item: int) -> tuple[float, Any]:
            scores = call(item)
            if called[-1] == lost:
                raise RuntimeError("no time")
            return 1000.0, scores

        return clock

    def timed(on_device: str, to_scores: str) -> tuple[list[str], list[str], list[tuple[str, str]]]:
        notes: list[tuple[str, str]] = []
        rows = compare(
            torch, (clock_that_fails(on_device), clock_that_fails(to_scores)), {name: peer_of(name) for name in names},
            CASES, TRUTH, 0.0, lambda _: None, lambda *note: notes.append(note),
        )  # fmt: skip
        found = {
            "timings": rows,
            "limits": {"copy_gb_per_s": 3000.0, "bf16_tflops": 800.0},
            "kernels": {"bf16": {"products": [{"flops_a_row": 20e6, "weight_bytes": 21e6}]}},
        }
        return [row["name"] for row in rows], list(ratios(found)), notes

    left, said, notes = timed("onnxruntime-fp32", "")
    assert left == ["cuda-bf16", "torch-compile-bf16", "cuda-bf16-ids"]
    assert "as fast as torch-compile-bf16" in said[0]
    assert "onnxruntime" not in said[0]
    assert notes == [("failed", "onnxruntime-fp32 at 8 rows: RuntimeError: no time")]
    left, said, notes = timed("cuda-bf16", "torch-compile-bf16")
    assert (left, said) == (["onnxruntime-fp32", "cuda-bf16-ids"], [])
    assert len(notes) == 2


def test_launches_without_a_graph_are_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(library: object, tensors: object, network: object, bf16: bool, graphs: bool = True) -> tuple[bool, bool]:
        return bf16, graphs

    monkeypatch.setattr(_kernels, "CudaModel", model)
    monkeypatch.setattr(peers, "Network", MagicMock())
    monkeypatch.setattr(peers, "rows_on_gpu", MagicMock())
    monkeypatch.setattr(peers, "on_device", lambda torch, model, tasks: model)
    config = ModelConfig(InputWidths(8, 2, 3), layers=(4,))
    named: dict[str, Any] = dict(peers.all_peers(torch, None, None, None, config, {}, 3, None, lambda *note: None))
    made = {name: named[name] for name in ("cuda-fp32", "cuda-bf16", "cuda-bf16-no-graph")}
    assert made == {"cuda-fp32": (False, True), "cuda-bf16": (True, True), "cuda-bf16-no-graph": (True, False)}


def test_what_is_left_out_is_said_beside_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "_source_tree", lambda: None)
    monkeypatch.setattr(gpu_check, "_checks", lambda library, few: ["all"])
    monkeypatch.setattr(_kernels, "CudaLibrary", lambda path: MagicMock(emulated=True))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--library", "libpepnet_cuda.so"])
    assert gpu_check.main() == 0
    after = capsys.readouterr().out.partition("no timings\n")[2].splitlines()
    assert after == ["left out: timings: no GPU", "left out: compute-sanitizer: no GPU"]


def test_figures_as_text() -> None:
    def row(name: str, batch: int, p50_us: float) -> dict[str, Any]:
        device = {"p50_ms": p50_us / 1e3, "p99_ms": p50_us / 1e3}
        return {"name": name, "batch": batch, "p50_ms": 0.13, "p99_ms": 0.15, "device": device, "rms": 1e-4}

    found = {
        "gpu": "a GPU",
        "torch": "2",
        "noise": "quiet",
        "timings": [
            *(row("cuda-bf16", 1024, 100.0), row("torch-compile-bf16", 1024, 250.0), row("cuda-bf16", 1, 20.0)),
            {"name": "cuda-bf16-ids", "batch": 1024, "p50_ms": 0.14},
        ],
        "limits": {"copy_gb_per_s": 3000.0, "bf16_tflops": 800.0},
        "kernels": {"bf16": {"products": [{"flops_a_row": 20e6, "weight_bytes": 21e6}]}},
    }
    # 1024 · 20e6 / 800e12 s = 25.6 us; 21e6 / 3e12 s = 7 us
    assert list(ratios(found)) == [
        "cuda-bf16, 1024 rows: 100.0 us, 2.50 x as fast as torch-compile-bf16, 3.9 x its bound of 25.6 us, "
        "ids -> scores 1.40 x that",
        "cuda-bf16, 1 rows: 20.0 us, 2.9 x its bound of 7.0 us",
    ]
    assert table(found).cells()[1][:6] == ["torch-compile-bf16", "1024", "250.0", "250.0", "130.0", "150.0"]
    assert table(found).cells()[3][:5] == ["cuda-bf16-ids", "1024", "–", "–", "140.0"]
    assert list(ratios({})) == []
