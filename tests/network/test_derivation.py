"""The list that is derived from a config computes what the reference model in torch computes, which knows no lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_networks import PRODUCT, TASKS, Flags, config_of, inputs_of, tensors_of

from pepnet_infer.export.model.network import build_network, dense_state, load_dense
from pepnet_infer.network.interpret import interpret
from pepnet_infer.network.network import Network
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths, ModelConfig

ROWS = 7
#: Both are float64 and add in another order.
CLOSE = 1e-12

BASELINES: list[dict[str, Any]] = [
    {"model": "shared_bottom"},
    {"model": "shared_bottom", "towers": ()},
    {"model": "mmoe", "experts": 3},
    {"model": "ple"},
    {"model": "ple", "extra": {"levels": 3, "specific": 2, "shared": 1}},
    {"model": "ple", "extra": {"levels": 2, "specific": 1, "shared": 3}},
    {"model": "dcnv2"},
    {"model": "dcnv2", "extra": {"cross_layers": 2, "rank": 3}},
    {"model": "deepfm", "extra": {"field_width": 4}},
    {"model": "deepfm", "extra": {"field_width": 4, "slots": [4, 6, 4, 2]}},
    {"model": "deepfm", "extra": {"field_width": 5, "slots": [5]}},
]


@pytest.mark.parametrize("flags", PRODUCT, ids=str)
@pytest.mark.parametrize("hidden", [None, 3])
def test_a_list_derived_from_the_flags_of_pepnet_is_pepnet(flags: Flags, hidden: int | None) -> None:
    config = config_of(flags) if hidden is None or not any(flags[4:]) else config_of(flags, gate_hidden=hidden)
    _compare(config, tensors_of(config))


def test_one_expert_and_one_task_are_groups_as_well() -> None:
    for flags in PRODUCT:
        config = config_of(flags, experts=1)
        _compare(config, tensors_of(config, 1), tasks=1)


@pytest.mark.parametrize("flags", BASELINES, ids=str)
@pytest.mark.parametrize("domain", [5, 0])
def test_a_list_derived_from_the_flags_of_a_baseline_is_the_baseline(flags: dict[str, Any], domain: int) -> None:
    config = ModelConfig(InputWidths(19, domain, 7), **{"layers": (17, 9), "towers": (6,)} | flags)
    torch.manual_seed(3)
    tensors = dense_state(build_network(config, TASKS))
    random = np.random.default_rng(2)
    tensors = {name: t + 0.1 * random.standard_normal(t.shape, dtype=np.float32) for name, t in tensors.items()}
    _compare(config, tensors)


def test_what_is_written_is_what_is_read() -> None:
    for flags in BASELINES:
        config = ModelConfig(InputWidths(19, 5, 7), **{"layers": (17, 9), "towers": (6,)} | flags)
        network = Network.derived(config, TASKS)
        assert Network.read("", network.to_json()) == network


def _compare(config: ModelConfig, tensors: dict[str, Any], tasks: int = TASKS) -> None:
    model = build_network(config, tasks).double()
    load_dense(model, tensors)
    matrices = inputs_of(config, ROWS)
    with torch.no_grad():
        expected = model(*(torch.from_numpy(matrix).double() for matrix in matrices)).numpy()
    scores = interpret(Network.derived(config, tasks), tensors, Inputs(*matrices))
    assert scores.shape == (ROWS, tasks)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=CLOSE)
    assert expected.std(axis=0).min() > 1e-3
