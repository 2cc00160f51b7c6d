"""A graph that scores differently from the model is refused, and the message names the tensor."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.bundle.golden_rows import Reference, normal_inputs
from pepnet_infer.errors import BundleError, ConfigError
from pepnet_infer.export.bundle import write_bundle as module
from pepnet_infer.export.bundle.parity import ROWS, measure, reference
from pepnet_infer.export.bundle.simplify import check_folded, simplify
from pepnet_infer.export.bundle.to_onnx import check_graph, declare, to_onnx
from pepnet_infer.export.model.network import build_network, load_dense
from pepnet_infer.schema.network_config import InputWidths, ModelConfig

TASKS = ("click", "like")


@pytest.fixture(scope="module")
def network(toy_checkpoint: Checkpoint) -> torch.nn.Module:
    network = build_network(toy_checkpoint.config, 2)
    load_dense(network, toy_checkpoint.dense)
    return network


@pytest.fixture(scope="module")
def exported(network: torch.nn.Module, toy_checkpoint: Checkpoint) -> onnx.ModelProto:
    return to_onnx(network, toy_checkpoint.config, 2)


@pytest.fixture(scope="module")
def simplified(toy_bundle: Path) -> onnx.ModelProto:
    return onnx.load(toy_bundle / "dense.onnx")


@pytest.fixture(scope="module")
def sets(network: torch.nn.Module, toy_checkpoint: Checkpoint) -> dict[str, Reference]:
    return {"normal": reference(network, normal_inputs(toy_checkpoint.config.inputs, ROWS, 0))}


def changed(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """A copy of `model` with one initializer changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), name))
    return copy


def add_one(place: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[place] += 1.0
        return values

    return change


def test_an_intact_graph_passes(network, exported, simplified, sets) -> None:
    report = measure(network, TASKS, exported, simplified, sets)
    assert report["simplified"]["normal"]["max_abs"] <= 1e-5


def test_a_changed_weight_is_named(network, exported, simplified, sets) -> None:
    message = (
        r"^parity: simplified on normal rows, batch \d+: task '(click|like)': expected 0\.\d+ within 1e-05, got 0\.\d+ "
        r"at row \d+; tensor experts\.1\.w: 1 of 288 numbers are not the model's, the first is [-\d.]+ at \[2, 11, 7\]$"
    )
    broken = changed(simplified, "experts.1.w", add_one((2, 11, 7)))
    with pytest.raises(BundleError, match=message):
        measure(network, TASKS, exported, broken, sets)
    broken = changed(exported, "mix.b", add_one((0,)))
    with pytest.raises(BundleError, match=r"onnx on normal rows, batch 1: .*; tensor mix\.b: 1 of 6 numbers"):
        measure(network, TASKS, broken, simplified, sets)


def test_a_weight_folded_into_another_is_traced_back(network, exported, simplified, sets) -> None:
    names = {t.name for t in simplified.graph.initializer}
    folded = next(
        t.name
        for t in simplified.graph.initializer
        if t.data_type == 1 and list(t.dims) == [11 + 21, 12 + 8]  # both gates' first layers, side by side
    )
    assert "ppnet.0.gate.w1" not in names
    broken = changed(simplified, folded, add_one((5, 3)))
    with pytest.raises(BundleError, match=rf"; tensor {folded}, made of ppnet\.0\.gate\.w1: 1 of 640 numbers"):
        measure(network, TASKS, exported, broken, sets)


def test_weights_in_a_wrong_order_are_found_by_the_values_behind_them(network, exported, simplified, sets) -> None:
    broken = changed(simplified, "epnet.gate.w1", lambda w: w[::-1].copy())
    message = r"; tensor \w+, MatMul of \w+, epnet\.gate\.w1: [\d.]+ off after simplification$"
    with pytest.raises(BundleError, match=message):
        measure(network, TASKS, exported, broken, sets)


def test_scores_that_are_not_numbers_are_refused(network, exported, simplified, sets) -> None:
    broken = changed(simplified, "towers.1.b", lambda b: b * np.float32(np.nan))
    with pytest.raises(BundleError, match=r"got nan at row 0; tensor towers\.1\.b: 2 of 2 numbers"):
        measure(network, TASKS, exported, broken, sets)


def test_a_value_is_compared_after_simplification_alone(network, exported, simplified, sets) -> None:
    (constant, *_) = [t.name for t in exported.graph.initializer if t.data_type == 1 and not t.dims]
    broken = changed(exported, constant, lambda value: value * np.float32(np.nan))
    with pytest.raises(BundleError, match=r"^parity: onnx on normal rows, batch 1: [^;]* got nan at row 0$"):
        measure(network, TASKS, broken, simplified, sets)


def test_a_graph_that_fails_at_a_batch_size_is_refused(network, exported, simplified, sets) -> None:
    """The batch frozen inside the graph, where its signature does not show it."""
    broken = onnx.ModelProto()
    broken.CopyFrom(simplified)
    reshape = next(n for n in broken.graph.node if n.op_type == "Reshape")
    broken = changed(broken, reshape.input[1], lambda s: np.array([2, *s[1:]], np.int64))
    message = r"parity: simplified on normal rows, batch 1: expected scores, got: .*Reshape"
    with pytest.raises(BundleError, match=message):
        measure(network, TASKS, exported, broken, sets)


def test_no_bundle_is_left(toy_checkpoint, exported, simplified, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "to_onnx", lambda *_: exported)
    broken = changed(simplified, "mix.w", add_one((3, 4)))
    monkeypatch.setattr(module, "simplify", lambda *_: broken)
    with pytest.raises(BundleError, match=r"parity: simplified on normal rows.*tensor mix\.w: 1 of 126 numbers"):
        module.write_bundle(toy_checkpoint, tmp_path / "bundle")
    assert os.listdir(tmp_path) == []


def test_a_refused_export_ends_with_1(toy_checkpoint, exported, simplified, tmp_path, monkeypatch, capsys) -> None:
    from pepnet_infer.cli.main import main

    monkeypatch.setattr(module, "to_onnx", lambda *_: exported)
    monkeypatch.setattr(module, "simplify", lambda *_: changed(simplified, "mix.w", add_one((3, 4))))
    toy_checkpoint.save(tmp_path / "ckpt")
    monkeypatch.setattr(sys, "argv", ["pepnet-infer", "export", str(tmp_path / "ckpt"), "--out", str(tmp_path / "b")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "BundleError: parity: simplified on normal rows" in " ".join(said.err.split())
    assert "tensor mix.w: 1 of 126 numbers" in " ".join(said.err.split())
    assert os.listdir(tmp_path) == ["ckpt"]


def test_a_frozen_batch_is_seen_in_the_signature(exported, toy_checkpoint) -> None:
    frozen = onnx.ModelProto()
    frozen.CopyFrom(exported)
    dim = frozen.graph.input[0].type.tensor_type.shape.dim[0]
    dim.ClearField("dim_param")
    dim.dim_value = 2
    with pytest.raises(BundleError, match=r"here: general: expected \['batch', 21\], got \[2, 21\]"):
        check_graph(frozen, toy_checkpoint.config, 2, "here")
    with pytest.raises(BundleError, match="ONNX graph: general: expected any batch size, got 2 only"):
        declare(frozen, toy_checkpoint.config, 2)


def test_weights_reshaped_at_run_time_are_refused(exported, simplified) -> None:
    check_folded(simplified)
    unfolded = onnx.ModelProto()
    unfolded.CopyFrom(simplified)
    unfolded.graph.node.insert(0, onnx.helper.make_node("Transpose", ["mix.w"], ["turned"]))
    with pytest.raises(BundleError, match=r"onnxsim: expected folded weights, got Transpose of mix\.w"):
        check_folded(unfolded)


@pytest.mark.parametrize(
    ("worker", "timeout", "message"),
    [
        ("raise SystemExit('no such op')", 60, r"onnxsim: expected exit code 0, got exit code 1: no such op"),
        ("import os; os.kill(os.getpid(), 11)", 60, r"onnxsim: expected exit code 0, got signal 11"),
        ("import time; time.sleep(60)", 0.2, r"onnxsim: expected an answer within 0\.2 s, got none"),
        ("", 60, r"onnxsim: expected an ONNX file, got none"),
    ],
)
def test_a_simplifier_that_fails_is_refused(exported, toy_checkpoint, worker, timeout, message) -> None:
    with pytest.raises(BundleError, match=message):
        simplify(exported, toy_checkpoint.config, 2, timeout=timeout, worker=worker)


def test_inputs_the_network_does_not_read_stay_declared() -> None:
    """Width 0 as well; and the graph runs with them."""
    config = ModelConfig(InputWidths(5, 0, 3), (4,), (), experts=2, use_epnet=False, use_ppnet=False)
    network = build_network(config, 1)
    exported = to_onnx(network, config, 1)
    small = simplify(exported, config, 1)
    assert [v.name for v in small.graph.input] == ["general", "domain", "prior"]
    rows = reference(network, normal_inputs(config.inputs, ROWS, 0))
    report = measure(network, ("click",), exported, small, {"normal": rows})
    assert report["simplified"]["normal"]["rows"] == ROWS


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused_before_the_work(toy_checkpoint: Checkpoint, tmp_path: Path, seed: int) -> None:
    with pytest.raises(ConfigError, match=rf"seed: expected an integer from 0 to .*, got {seed}"):
        module.write_bundle(toy_checkpoint, tmp_path / "bundle", seed=seed)
    assert not list(tmp_path.iterdir())
