"""Random weights: scores and gates that vary, for every combination of flags, the same each time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import reading

from pepnet_infer.export.bundle.presets import preset_names, read_preset
from pepnet_infer.export.model.network import load_dense
from pepnet_infer.export.model.pepnet import PEPNet
from pepnet_infer.export.model.random_init import LOGIT_STD, random_dense
from pepnet_infer.export.run_config import model_config
from pepnet_infer.network.interpret import interpret
from pepnet_infer.network.network import Network
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import (
    BACKBONES,
    BASELINES,
    GATE_POSITIONS,
    GATE_SCOPES,
    InputWidths,
    ModelConfig,
)

TASKS = 3


def check(config: ModelConfig, tasks: int, seed: int, count: int, least: float) -> float:
    """Checks ranges. Returns what rounding the matrices below the towers to bf16 does to scores, root mean square."""
    network = PEPNet(config, tasks)
    tensors = random_dense(config, tasks, seed)
    assert {name: value.shape for name, value in tensors.items()} == Network.derived(config, tasks).tensors
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}
    assert all(value.any() for value in tensors.values()), "biases too"
    load_dense(network, tensors)
    source = torch.Generator().manual_seed(seed + 1000)  # rows that the calibration has not seen
    widths = (config.inputs.general, config.inputs.domain, config.inputs.prior)
    general, domain, prior = (torch.randn(count, width, generator=source) for width in widths)
    with torch.no_grad():
        logits = network.logits(general, domain, prior)
        gates, o = [], general
        if network.epnet is not None:
            o = network.epnet(domain, general)
            gates.append((o / general).numpy())
        if network.ppnet is not None:
            gates += [delta.numpy() for delta in network.ppnet(prior, o)]
    deviation = logits.std(0)
    assert deviation.min() > least, config
    assert deviation.max() < 3.0, config
    assert logits.mean(0).abs().max() < 3.0, config
    for gate in gates:
        assert np.quantile(gate, 0.03) < 0.07 * config.gamma, config
        assert np.quantile(gate, 0.97) > 0.93 * config.gamma, config
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith("towers") and ".w" in name:
                parameter.copy_(parameter.bfloat16().float())
        off = torch.sigmoid(network.logits(general, domain, prior)) - torch.sigmoid(logits)
    return float(off.square().mean().sqrt())


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("position", GATE_POSITIONS)
@pytest.mark.parametrize("scope", GATE_SCOPES)
def test_scores_and_gates_use_their_range(backbone: str, position: str, scope: str) -> None:
    inputs = InputWidths(general=45, domain=8, prior=11)
    shapes: list[tuple[tuple[int, ...], tuple[int, ...], int | None]] = [((20,), (), 12), ((24, 16, 10), (9,), None)]
    for seed, (general, epnet, ppnet) in enumerate(itertools.product((True, False), repeat=3)):
        layers, towers, hidden = shapes[(seed + seed // 2) % 2]
        config = reading(
            inputs,
            layers=layers,
            towers=towers,
            experts=4,
            backbone=backbone,
            gate_position=position,
            gate_scope=scope,
            epnet_general=general,
            use_epnet=epnet,
            use_ppnet=ppnet,
            gate_hidden=hidden,
        )
        # Networks this narrow have heavy tails: 1500 rows say little more than two digits of a deviation.
        check(config, TASKS, seed, 1500, least=0.9)


@pytest.mark.parametrize("preset", preset_names())
def test_presets_too_and_bf16_can_meet_its_bound(preset: str) -> None:
    """A bound of 2e-3 (root mean square) is one that rounding the weights alone must not use up."""
    data = read_preset(preset)
    schema = FeatureSchema.from_json(data["schema"])
    rounding = check(model_config(data["model"], schema), len(schema.tasks), seed=0, count=1000, least=1.0)
    assert 5e-4 < rounding < 1.6e-3


def test_same_arguments_same_weights() -> None:
    config = ModelConfig(InputWidths(45, 8, 11), (20, 10), (9,), 4)
    first, again, other = (random_dense(config, TASKS, seed) for seed in (7, 7, 8))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_experts_and_tasks_differ() -> None:
    weights = random_dense(ModelConfig(InputWidths(45, 8, 11), (20, 10), (9,), 4), TASKS, 0)
    for name in ("experts.0.w", "experts.1.b", "towers.0.w", "towers.1.w"):
        assert not np.array_equal(weights[name][0], weights[name][1]), name


@pytest.mark.parametrize("model", BASELINES)
@pytest.mark.parametrize("more", [False, True])
def test_baselines_too(model: str, more: bool) -> None:
    extra: dict[str, Any] = {
        "dcnv2": {"rank": 6, "cross_layers": 2},
        "ple": {"levels": 2, "specific": 2},
        "deepfm": {"slots": [7, 12]},
    }
    flags: dict[str, Any] = {"extra": extra.get(model, {})} if more else {}
    if model == "mmoe":
        flags["experts"] = 3
    config = ModelConfig(InputWidths(45, 8, 11), (20, 10), (9,), model=model, **flags)
    network = Network.derived(config, TASKS)
    tensors = random_dense(config, TASKS, 3)
    assert {name: value.shape for name, value in tensors.items()} == network.tensors
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}
    draw = np.random.default_rng(8)
    given = Inputs(*(draw.standard_normal((2000, width), dtype=np.float32) for width in (45, 8, 11)))
    scores = interpret(network, tensors, given)
    logits = np.log(scores / (1 - scores))
    assert (np.abs(logits.std(axis=0) / LOGIT_STD - 1) < 0.2).all()
    assert (np.abs(logits.mean(axis=0)) < 1).all()
