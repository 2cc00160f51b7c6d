"""The reference model's parts: names, initial values, stop gradients, and tensors in and out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from small_networks import changed

from pepnet_infer.errors import BundleError, SchemaError
from pepnet_infer.export.model.network import build_network, dense_state, load_dense
from pepnet_infer.export.model.pepnet import EPNet, GateNU, GroupedLinear, Mix, PEPNet, PPNet, Stacks
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.network.network import Network
from pepnet_infer.schema.network_config import BACKBONES, GATE_POSITIONS, GATE_SCOPES, InputWidths, ModelConfig

CONFIG = ModelConfig(InputWidths(general=19, domain=5, prior=7), layers=(13, 9), towers=(6,), experts=4)
TASKS = 3


def rows(count: int = 17, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    general, domain, prior = (torch.randn(count, width, generator=source).double() for width in (19, 5, 7))
    return general, domain, prior


@pytest.mark.parametrize("use_epnet", [True, False])
@pytest.mark.parametrize("use_ppnet", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_tensors_have_the_names_and_shapes_of_the_contract(backbone: str, use_ppnet: bool, use_epnet: bool) -> None:
    for position, scope, hidden in itertools.product(GATE_POSITIONS, GATE_SCOPES, (None, 10)):
        config = changed(
            CONFIG,
            backbone=backbone,
            gate_position=position,
            gate_scope=scope,
            gate_hidden=hidden,
            use_epnet=use_epnet,
            use_ppnet=use_ppnet,
        )
        state = dense_state(build_network(config, TASKS))
        assert {name: value.shape for name, value in state.items()} == Network.derived(config, TASKS).tensors
        assert {value.dtype for value in state.values()} == {np.dtype(np.float32)}


def test_weights_are_xavier_uniform_per_matrix_and_biases_zero() -> None:
    torch.manual_seed(3)
    config = ModelConfig(InputWidths(300, 40, 50), (80, 60), (40,), 4)
    state = dense_state(PEPNet(config, TASKS))
    for name, value in state.items():
        if name.split(".")[-1].startswith("b"):
            assert not value.any(), name
            continue
        # The bound is that of one expert's or task's [in, out], whatever the number of experts or tasks.
        into, out = (300, 4) if name == "mix.w" else value.shape[-2:]
        bound = math.sqrt(6 / (into + out))
        assert np.abs(value).max() <= bound, name
        assert np.abs(value).max() > 0.95 * bound, name
        assert value.std() == pytest.approx(bound / math.sqrt(3), rel=0.08), name
    assert not np.array_equal(state["experts.0.w"][0], state["experts.0.w"][1])


def test_gate_is_half_open_at_rest_and_reaches_gamma() -> None:
    gate = GateNU(4, 6, gamma=3.0)
    torch.nn.init.zeros_(gate.w2)
    assert torch.equal(gate(torch.randn(5, 4)), torch.full((5, 6), 1.5))
    gate.b2.data[:] = 60.0
    assert torch.equal(gate(torch.randn(5, 4)), torch.full((5, 6), 3.0))


@pytest.mark.parametrize("gamma", [0.0, -1.0, 1e20, math.inf, math.nan])
def test_a_gamma_that_overflows_is_refused_wherever_a_gate_is_made(gamma: float) -> None:
    for make in (
        lambda: GateNU(4, 6, gamma=gamma),
        lambda: EPNet(2, 5, gamma=gamma),
        lambda: PPNet(3, 5, [6], None, gamma),
    ):
        with pytest.raises(SchemaError, match=r"gamma: expected a number from 0\.001 to 1000, got "):
            make()


def test_epnet_sends_gradients_to_general_only_through_the_product() -> None:
    epnet = EPNet(5, 19).double()
    general, domain, _ = rows()
    general.requires_grad_()
    domain.requires_grad_()
    upstream = torch.randn(17, 19).double()
    epnet(domain, general).backward(upstream)
    delta = epnet.gate(torch.cat([domain, general], 1)).detach()
    assert torch.allclose(general.grad, upstream * delta, rtol=0, atol=1e-14)  # and nothing through the gate's input
    assert domain.grad is not None
    assert domain.grad.abs().sum() > 0
    assert epnet.gate.w1.grad is not None
    assert epnet.gate.w1.grad[5:].abs().sum() > 0  # the gate itself does learn from general


def test_ppnet_sends_no_gradient_to_general() -> None:
    ppnet = PPNet(7, 19, [13, 9]).double()
    general, _, prior = rows()
    general.requires_grad_()
    prior.requires_grad_()
    sum(delta.sum() for delta in ppnet(prior, general)).backward()
    assert general.grad is None
    assert prior.grad is not None
    assert prior.grad.abs().sum() > 0


@pytest.mark.parametrize("position", GATE_POSITIONS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_whole_network_stops_the_gradients_that_the_formulas_stop(backbone: str, position: str) -> None:
    """The gradient to general equals that of a network whose gates are constants of the same value."""
    torch.manual_seed(1)
    network = PEPNet(changed(CONFIG, backbone=backbone, gate_position=position), TASKS).double()
    load_dense(network, random_dense(network.config, TASKS, 2))
    general, domain, prior = rows()
    general.requires_grad_()
    network.logits(general, domain, prior).sum().backward()

    assert network.epnet is not None
    assert network.ppnet is not None
    with torch.no_grad():
        delta = network.epnet.gate(torch.cat([domain, general], 1))
        deltas = network.ppnet(prior, delta * general)
    free = general.detach().requires_grad_()
    o = delta * free
    h = network.experts(o, deltas)
    logits = h if network.mix is None else network.towers(network.mix(o, h))
    logits.sum().backward()
    assert torch.allclose(general.grad, free.grad, rtol=0, atol=1e-13)


def test_ppnet_returns_each_gate_as_if_it_stood_alone() -> None:
    ppnet = PPNet(7, 19, [13, 9], hidden=11).double()
    general, _, prior = rows()
    deltas = ppnet(prior, general)
    assert [tuple(delta.shape) for delta in deltas] == [(17, 13), (17, 9)]
    for delta, gate in zip(deltas, ppnet.gates, strict=True):
        assert torch.allclose(delta, gate(torch.cat([prior, general], 1)), rtol=0, atol=1e-14)


def test_grouped_linear_takes_one_input_for_all_or_one_each() -> None:
    layer = GroupedLinear(4, 5, 3).double()
    torch.nn.init.normal_(layer.b)
    shared = torch.randn(7, 5).double()
    each = torch.randn(7, 4, 5).double()
    for g in range(4):
        assert torch.allclose(layer(shared)[:, g], shared @ layer.w[g] + layer.b[g], rtol=0, atol=1e-14)
        assert torch.allclose(layer(each)[:, g], each[:, g] @ layer.w[g] + layer.b[g], rtol=0, atol=1e-14)


def test_parts_stand_alone() -> None:
    x = torch.randn(7, 5)
    h = Stacks(4, 5, (6, 8))(x)
    assert h.shape == (7, 4, 8)
    assert (h >= 0).all()
    m = Mix(5, 2, 4)(x, h)
    assert m.shape == (7, 2, 8)
    # A mean weighted by a softmax lies between the least and the greatest of what it averages.
    assert (m <= h.max(1).values.unsqueeze(1) + 1e-6).all()
    assert (m >= h.min(1).values.unsqueeze(1) - 1e-6).all()
    assert Stacks(2, 8, (), scores=True)(m).shape == (7, 2)
    assert Stacks(2, 8, (3, 4), scores=True)(m).shape == (7, 2)


def test_forward_is_the_sigmoid_of_logits() -> None:
    network = PEPNet(CONFIG, TASKS).double()
    assert torch.equal(network(*rows()), torch.sigmoid(network.logits(*rows())))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_tensors_go_in_and_come_out_unchanged(backbone: str) -> None:
    config = changed(CONFIG, backbone=backbone)
    tensors = random_dense(config, TASKS, seed=1)
    network = build_network(config, TASKS)
    load_dense(network, tensors)
    dumped = dense_state(network)
    assert list(dumped) == list(network.state_dict())
    for name, value in tensors.items():
        assert np.array_equal(dumped[name], value), name
    dumped["experts.0.w"][:] = 7.0
    assert np.array_equal(dense_state(network)["experts.0.w"], tensors["experts.0.w"]), "a dump shares no memory"
    double = build_network(config, TASKS).double()
    load_dense(double, tensors)
    assert {p.dtype for p in double.parameters()} == {torch.float64}


def test_load_takes_read_only_and_big_endian_arrays() -> None:
    tensors = {name: value.astype(">f4") for name, value in random_dense(CONFIG, TASKS, seed=1).items()}
    for value in tensors.values():
        value.flags.writeable = False
    network = build_network(CONFIG, TASKS)
    load_dense(network, tensors)
    assert all(np.array_equal(value, tensors[name]) for name, value in dense_state(network).items())


def test_load_refuses_what_does_not_fit_and_leaves_the_network_alone() -> None:
    network = build_network(CONFIG, TASKS)
    before = dense_state(network)
    good = random_dense(CONFIG, TASKS, seed=1)
    wrong = good["mix.w"].copy()
    wrong[0, 0] = np.nan
    cases = [
        ({k: v for k, v in good.items() if k != "mix.b"}, r"dense tensor 'mix\.b': expected \[12\], got none"),
        ({**good, "mix.c": good["mix.b"]}, r"dense tensor 'mix\.c': the network has no such tensor"),
        ({**good, "mix.w": good["mix.w"].T}, r"dense tensor 'mix\.w': expected shape \[19, 12\], got \[12, 19\]"),
        ({**good, "mix.b": np.zeros(12, np.int32)}, r"dense tensor 'mix\.b': expected float32, got int32"),
        ({**good, "mix.w": wrong}, r"dense tensor 'mix\.w': expected finite values, got 1 that are not"),
    ]
    for tensors, message in cases:
        with pytest.raises(BundleError, match=message):
            load_dense(network, tensors)
    assert all(np.array_equal(value, before[name]) for name, value in dense_state(network).items())


def test_build_refuses_no_tasks() -> None:
    with pytest.raises(SchemaError, match="tasks: expected at least 1, got 0"):
        build_network(CONFIG, 0)
