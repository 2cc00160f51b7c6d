"""OpenVINO compiles the graphs as they are, with a dynamic batch, and agrees with torch.

It refuses products that broadcast over the experts when the batch is dynamic: the model's grouped layers are written
around that, and this is where it would show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_networks import reading

from pepnet_infer.export.bundle.simplify import simplify
from pepnet_infer.export.bundle.to_onnx import to_onnx
from pepnet_infer.export.model.network import build_network, load_dense
from pepnet_infer.export.model.pepnet import GroupedLinear
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.schema.network_config import InputWidths, ModelConfig

pytestmark = pytest.mark.parity

WIDTHS = InputWidths(general=19, domain=5, prior=7)
TASKS = 3
NETWORKS: dict[str, dict[str, Any]] = {
    "mmoe output layer": {"layers": (12, 17, 8), "backbone": "mmoe"},
    "mmoe input group": {"layers": (13, 9), "gate_position": "input", "gate_scope": "group", "towers": ()},
    "towers input group": {"layers": (13, 9), "backbone": "towers"},
    "towers output layer": {"layers": (13,), "backbone": "towers", "gate_position": "output", "gate_scope": "layer"},
    "ple": {"layers": (13, 9), "model": "ple", "extra": {"levels": 2, "shared": 2, "specific": 2}},
    "deepfm": {"layers": (13, 9), "model": "deepfm", "extra": {"field_width": 4, "slots": [4, 3, 5]}},
}


QUICK = ("mmoe output layer", "towers input group", "ple")


@pytest.mark.parametrize(
    "flags",
    [pytest.param(f, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, f in NETWORKS.items()],
)
def test_openvino_agrees_at_any_batch(flags: dict[str, Any]) -> None:
    openvino = pytest.importorskip("openvino")
    config = reading(WIDTHS, experts=4, **flags)
    torch.manual_seed(0)
    network = build_network(config, TASKS)
    if config.model == "pepnet":
        load_dense(network, random_dense(config, TASKS, seed=1))
    graph = simplify(to_onnx(network, config, TASKS), config, TASKS)
    core = openvino.Core()
    wanted = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", wanted)
    names = {port.any_name for port in compiled.inputs}  # OpenVINO drops an input that nothing reads
    for batch in (1, 2, 7, 1000):
        source = torch.Generator().manual_seed(batch)
        rows = {
            name: torch.randn(batch, getattr(WIDTHS, name), generator=source) for name in ("general", "domain", "prior")
        }
        with torch.no_grad():
            expected = network(**rows).numpy()
        got = compiled({name: value.numpy() for name, value in rows.items() if name in names})[0]
        assert got.shape == (batch, TASKS)
        assert np.abs(got - expected).max() < 1e-5


def test_weights_of_a_grouped_layer_are_folded() -> None:
    """No node of the graph reads the expert tensors but the products themselves."""
    config = ModelConfig(WIDTHS, (13, 9), (6,), 4)
    network = build_network(config, TASKS)
    graph = simplify(to_onnx(network, config, TASKS), config, TASKS).graph
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer if len(tensor.dims) > 1}
    assert [19, 4 * 13] in weights.values(), "experts' first layers are one wide product"
    assert [7 + 19, 13 + 9] in weights.values(), "the gates' first layers are one wide product"
    readers = {node.op_type for node in graph.node if any(w in weights and weights[w][0] != 1 for w in node.input)}
    assert readers <= {"MatMul", "Gemm", "Add"}
    assert sum(isinstance(module, GroupedLinear) for module in network.modules()) == 4
