"""Torch in float64 and float32 against the formulas in NumPy float64, for every combination of flags."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import reading

from pepnet_infer.export.model.network import build_network, load_dense
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.schema.network_config import BACKBONES, GATE_POSITIONS, GATE_SCOPES, InputWidths, ModelConfig

pytestmark = pytest.mark.parity

Reference = Callable[..., np.ndarray]
TASKS = 3
WIDTHS = InputWidths(general=19, domain=5, prior=7)
# No two widths of a case are equal, so that a swapped axis or a gate on the wrong side cannot pass.
DEPTHS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (((11,), (6,)), ((13, 9), ()), ((12, 17, 8), (6, 10)))


def flags() -> list[Any]:
    cases = []
    for backbone, position, scope in itertools.product(BACKBONES, GATE_POSITIONS, GATE_SCOPES):
        for general, epnet, ppnet in itertools.product((True, False), repeat=3):
            for hidden, (layers, towers) in itertools.product((None, 14), DEPTHS):
                config = reading(
                    WIDTHS,
                    layers=layers,
                    towers=towers,
                    experts=4,
                    backbone=backbone,
                    gate_position=position,
                    gate_scope=scope,
                    epnet_general=general,
                    use_epnet=epnet,
                    use_ppnet=ppnet,
                    gamma=2.0 if hidden is None else 1.5,
                    gate_hidden=hidden,
                )
                name = f"{backbone}-{position}-{scope}-v{3 if general else 1}-ep{epnet:d}-pp{ppnet:d}-{hidden}-{layers}"
                cases.append(pytest.param(config, id=name))
    return cases


def inputs(config: ModelConfig, rows: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    widths = (config.inputs.general, config.inputs.domain, config.inputs.prior)
    return [rng.standard_normal((rows, width), dtype=np.float32) for width in widths]


@pytest.mark.parametrize("config", flags())
def test_torch_equals_the_formulas(config: ModelConfig, reference_scores: Reference) -> None:
    tensors, rows = random_dense(config, TASKS, seed=5), inputs(config, 33, seed=6)
    expected = reference_scores(config, tensors, *rows)
    assert expected.shape == (33, TASKS)
    assert expected.std(axis=0).min() > 0.05, "scores that hardly vary would hide an error"
    network = build_network(config, TASKS)
    load_dense(network, tensors)
    with torch.no_grad():
        single = network(*map(torch.from_numpy, rows)).numpy()
        double = network.double()(*(torch.from_numpy(x).double() for x in rows)).numpy()
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    assert np.abs(double - expected).max() < 1e-12
    assert np.abs(single - expected).max() < 1e-5


def test_every_combination_is_there() -> None:
    assert len(flags()) == 2**6 * 2 * 3


def test_each_tensor_reaches_the_scores(reference_scores: Reference) -> None:
    for backbone, position, scope in itertools.product(BACKBONES, GATE_POSITIONS, GATE_SCOPES):
        config = reading(
            WIDTHS,
            layers=(13, 9),
            towers=(6,),
            experts=4,
            backbone=backbone,
            gate_position=position,
            gate_scope=scope,
        )
        tensors, rows = random_dense(config, TASKS, seed=5), inputs(config, 33, seed=6)
        expected = reference_scores(config, tensors, *rows)
        for name in tensors:
            changed = {**tensors, name: tensors[name] * np.float32(1.1)}
            difference = np.abs(reference_scores(config, changed, *rows) - expected).max()
            assert difference > 1e-5, f"{name} does not matter with {backbone}, {position}, {scope}"


def test_group_gates_are_split_group_major(reference_scores: Reference) -> None:
    """Ten times the columns e*width … of a gate's last bias close that gate for group e and for no other."""
    config = ModelConfig(WIDTHS, (5,), backbone="towers", gate_position="output", gate_scope="group")
    tensors, rows = random_dense(config, TASKS, seed=1), inputs(config, 9, seed=2)
    tensors["ppnet.0.gate.b2"][1 * 5 : 2 * 5] = -1e3
    last_bias = tensors["experts.1.b"][:, 0]
    network = build_network(config, TASKS)
    load_dense(network, tensors)
    with torch.no_grad():
        logits = network.logits(*map(torch.from_numpy, rows)).numpy()
    closed = np.isclose(logits, last_bias, atol=1e-6).all(axis=0)
    assert closed.tolist() == [False, True, False]
    assert np.abs(reference_scores(config, tensors, *rows) - 1 / (1 + np.exp(-logits.astype(np.float64)))).max() < 1e-6


@pytest.mark.parametrize("rows", [1, 2, 257])
def test_rows_do_not_meet(rows: int) -> None:
    """A row's score is the same alone and in company, but for the last bits of another summation order."""
    config = ModelConfig(WIDTHS, (13, 9), (6,), 4)
    network = build_network(config, TASKS).double()
    load_dense(network, random_dense(config, TASKS, seed=5))
    batch = [torch.from_numpy(x).double() for x in inputs(config, rows, seed=8)]
    with torch.no_grad():
        together = network(*batch)
        alone = torch.cat([network(*(x[i : i + 1] for x in batch)) for i in range(rows)])
    assert together.shape == (rows, TASKS)
    assert (together - alone).abs().max() < 1e-13


def test_no_rows() -> None:
    for backbone in BACKBONES:
        network = build_network(reading(WIDTHS, layers=(13, 9), towers=(6,), experts=4, backbone=backbone), TASKS)
        assert network(torch.empty(0, 19), torch.empty(0, 5), torch.empty(0, 7)).shape == (0, TASKS)
