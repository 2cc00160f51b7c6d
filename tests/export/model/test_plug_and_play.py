"""EPNet and PPNet around modules that know nothing of them."""

from __future__ import annotations

import copy
import gc
import threading
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pepnet_infer.errors import SchemaError
from pepnet_infer.export.model.pepnet import EPNet, GateNU, PPNet
from pepnet_infer.export.model.plug_and_play import EPNetEmbedding, GatedNetwork


class Theirs(nn.Module):
    """Two experts of two layers, averaged; the second can be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU()) for _ in range(2)
        )
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor, experts: int = 2) -> Tensor:
        h = torch.stack([expert(x) for expert in list(self.experts)[:experts]])
        return self.last(h.mean(0))


def gated() -> tuple[Theirs, PPNet, GatedNetwork]:
    torch.manual_seed(0)
    theirs, ppnet = Theirs(), PPNet(3, 5, [6, 4])
    relus = [[module for module in expert.modules() if isinstance(module, nn.ReLU)] for expert in theirs.experts]
    return theirs, ppnet, GatedNetwork(theirs, [[r[0] for r in relus], [r[1] for r in relus]], ppnet)


def test_epnet_multiplies_what_an_embedding_returns() -> None:
    bag, epnet = nn.EmbeddingBag(10, 5, mode="mean"), EPNet(2, 5)
    wrapped = EPNetEmbedding(bag, epnet)
    values, offsets, domain = torch.tensor([1, 2, 3, 9]), torch.tensor([0, 2]), torch.randn(2, 2)
    plain = bag(values, offsets)
    assert torch.equal(wrapped(domain, values, offsets=offsets), epnet(domain, plain))
    assert torch.equal(wrapped(domain, values, offsets), epnet.gate(torch.cat([domain, plain], 1)) * plain)


def test_gates_multiply_the_outputs_named() -> None:
    theirs, ppnet, network = gated()
    x, prior = torch.randn(7, 5), torch.randn(7, 3)
    first, second = ppnet(prior, x)
    experts = []
    for expert in theirs.experts:
        linear0, relu0, linear1, relu1 = expert
        experts.append(relu1(linear1(relu0(linear0(x)) * first)) * second)
    expected = theirs.last(torch.stack(experts).mean(0))
    assert torch.allclose(network(prior, x, x), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(theirs(x), expected, atol=1e-3), "and the network itself is as it was"


def test_the_network_is_left_clean_and_gates_learn() -> None:
    theirs, ppnet, network = gated()
    x = torch.randn(7, 5)
    before = theirs(x)
    network(torch.randn(7, 3), x, x).sum().backward()
    assert all(gate.w1.grad is not None for gate in ppnet.gates)
    assert torch.equal(theirs(x), before)
    with pytest.raises(RuntimeError):
        network(torch.randn(7, 3), x, torch.randn(7, 4))  # their own error comes through
    assert torch.equal(theirs(x), before)


def test_gated_network_exports_with_a_dynamic_batch() -> None:
    _, _, network = gated()
    batch = torch.export.Dim("batch")
    shapes = ({0: batch}, {0: batch}, ({0: batch},))  # the third holds what goes on to their network
    example = (torch.randn(3, 3), torch.randn(3, 5), torch.randn(3, 5))
    program = torch.export.export(network.eval(), example, dynamic_shapes=shapes)
    prior, x = torch.randn(11, 3), torch.randn(11, 5)
    assert torch.allclose(program.module()(prior, x, x), network(prior, x, x), atol=1e-6)


def test_refuses_gates_that_cannot_act() -> None:
    theirs, ppnet, network = gated()
    x, prior = torch.randn(7, 5), torch.randn(7, 3)
    with pytest.raises(SchemaError, match=r"module 'experts\.1\.1': expected it to run, so that its gate can act"):
        network(prior, x, x, experts=1)
    with pytest.raises(SchemaError, match="expected one entry for each of 2 gates, got 1"):
        GatedNetwork(theirs, [[theirs.last]], ppnet)
    with pytest.raises(SchemaError, match=r"layers\[1\]: expected sub-modules of the network"):
        GatedNetwork(theirs, [[theirs.last], [nn.ReLU()]], ppnet)
    wrong = GatedNetwork(theirs, [[theirs.last]], PPNet(3, 5, [4]))
    with pytest.raises(SchemaError, match=r"module 'last': expected an output of \[7, 4\], got \[7, 1\]"):
        wrong(prior, x, x)


def test_threads_do_not_mix_up_gates() -> None:
    _, _, network = gated()
    network.eval()
    inputs = [(torch.randn(64, 3), torch.randn(64, 5)) for _ in range(4)]
    wrong = [0] * 4
    start = threading.Barrier(4)
    with torch.no_grad():
        expected = [network(prior, x, x) for prior, x in inputs]

    def score(i: int) -> None:
        prior, x = inputs[i]
        start.wait()
        with torch.no_grad():
            for _ in range(100):
                wrong[i] += not torch.allclose(network(prior, x, x), expected[i], atol=1e-5)

    threads = [threading.Thread(target=score, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 4


class Recomputed(nn.Module):
    """Two gated layers and a last one; `how` says what is run again in the backward pass."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
        self.last, self.how = nn.Linear(4, 1), how

    def forward(self, x: Tensor) -> Tensor:
        def again(run, x: Tensor, reentrant: bool = True) -> Tensor:
            return checkpoint(run, x, use_reentrant=reentrant)

        if self.how == "nothing":
            h = self.second(self.first(x))
        elif self.how == "all at once":
            h = again(lambda y: self.second(self.first(y)), x)
        elif self.how == "one in the other":
            h = again(lambda y: again(self.second, self.first(y)), x)
        elif self.how == "the second only":
            h = again(self.second, self.first(x))
        else:
            reentrant = self.how == "each by itself"
            h = again(self.second, again(self.first, x, reentrant), reentrant)
        return self.last(h)


def gradients(how: str, times: int) -> list[Tensor | None]:
    """Gradients of everything, and of what made the gates' inputs: prior and o have a graph in common."""
    torch.manual_seed(1)
    theirs, before = Recomputed(how), nn.Linear(3, 8)
    network = GatedNetwork(theirs, [[theirs.first[1]], [theirs.second[1]]], PPNet(3, 5, [6, 4]))
    inputs = torch.tanh(before(torch.randn(9, 3)))
    loss = network(inputs[:, :3], inputs[:, 3:], inputs[:, 3:]).square().mean()
    for left in reversed(range(times)):
        loss.backward(retain_graph=left > 0)
    return [parameter.grad for parameter in (*network.parameters(), *before.parameters())]


HOW = ("all at once", "each by itself", "one in the other", "the second only", "not reentrant")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("times", [1, 2])
def test_checkpointing_leaves_gradients_as_they_are(how: str, times: int) -> None:
    for plain, recomputed in zip(gradients("nothing", times), gradients(how, times), strict=True):
        assert plain is not None
        assert recomputed is not None
        assert torch.allclose(recomputed, plain, rtol=1e-5, atol=1e-8)


class Tied(PPNet):
    """One gate whose δ acts on two layers."""

    def __len__(self) -> int:
        return 2

    @property
    def gates(self) -> list[GateNU]:
        return super().gates[:1]

    def forward(self, prior: Tensor, o: Tensor) -> list[Tensor]:
        return super().forward(prior, o) * 2


@pytest.mark.parametrize("how", HOW)
def test_a_gate_of_two_layers_learns_from_both_when_they_run_again(how: str) -> None:
    def gradients(how: str) -> list[Tensor | None]:
        torch.manual_seed(1)
        theirs = Recomputed(how)
        theirs.second[0] = nn.Linear(6, 6)
        theirs.last = nn.Linear(6, 1)
        network = GatedNetwork(theirs, [[theirs.first[1]], [theirs.second[1]]], Tied(3, 5, [6]))
        x = torch.randn(9, 5, requires_grad=True)
        network(torch.randn(9, 3), x, x).square().mean().backward()
        return [x.grad, *(parameter.grad for parameter in network.parameters())]

    for plain, recomputed in zip(gradients("nothing"), gradients(how), strict=True):
        assert plain is not None
        torch.testing.assert_close(recomputed, plain)


def test_gradients_by_transforms_of_functions_are_those_of_backward() -> None:
    _, _, network = gated()
    x, prior = torch.randn(7, 5), torch.randn(7, 3)
    weights = {name: weight.detach() for name, weight in network.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(network, weights, (prior, x, x)).sum()

    found = torch.func.grad(loss)(weights)
    network(prior, x, x).sum().backward()
    for name, weight in network.named_parameters():
        torch.testing.assert_close(found[name], weight.grad)


def test_what_a_checkpointed_call_made_is_freed_without_the_collector() -> None:
    theirs = Recomputed("each by itself")
    network = GatedNetwork(theirs, [[theirs.first[1]], [theirs.second[1]]], PPNet(3, 5, [6, 4]))
    made: list[weakref.ref[Tensor]] = []
    network.ppnet.register_forward_hook(lambda module, args, deltas: made.extend(map(weakref.ref, deltas)))
    gc.disable()
    try:
        network(torch.randn(4, 3), torch.randn(4, 5), torch.randn(4, 5)).sum().backward()
        assert len(made) == 2
        assert not any(delta() is not None for delta in made)
    finally:
        gc.enable()


def test_a_gated_network_inside_another_one() -> None:
    """The outer gates act on what the inner ones have multiplied, on the same module."""
    theirs, inner, network = gated()
    relu = theirs.experts[0][1]
    outer = GatedNetwork(network, [[relu]], PPNet(3, 5, [6]))
    x, prior = torch.randn(7, 5), torch.randn(7, 3)
    first, second = inner(prior, x)
    (third,) = outer.ppnet(prior, x)
    experts = []
    for e, (linear0, relu0, linear1, relu1) in enumerate(theirs.experts):
        h = relu0(linear0(x)) * first * (third if e == 0 else 1.0)
        experts.append(relu1(linear1(h)) * second)
    expected = theirs.last(torch.stack(experts).mean(0))
    assert torch.allclose(outer(prior, x, prior, x, x), expected, atol=1e-6)
    assert torch.equal(copy.deepcopy(outer)(prior, x, prior, x, x), outer(prior, x, prior, x, x))


def test_their_own_hooks_and_counters_work_as_before() -> None:
    theirs, _, network = gated()
    x, prior = torch.randn(7, 5), torch.randn(7, 3)
    seen: list[Tensor] = []
    theirs.experts[0][1].register_forward_hook(lambda module, args, output: seen.append(output))
    plain = theirs.experts[0][1](theirs.experts[0][0](x))
    theirs.calls = 0
    theirs.register_forward_pre_hook(lambda module, args: setattr(module, "calls", module.calls + 1))
    network(prior, x, x)
    network(prior, x, x)
    assert theirs.calls == 2
    assert torch.allclose(seen[-1], plain), "their hook sees the output before the gate, as it was there first"
    assert len(theirs.experts[0][1]._forward_hooks) == 1


def test_a_forward_put_on_the_network_itself_runs_with_gates() -> None:
    theirs, _, network = gated()
    x, prior = torch.randn(7, 5), torch.randn(7, 3)
    expected = network(prior, x, x)
    theirs.forward = Theirs.forward.__get__(theirs)  # as libraries that wrap a module do
    assert torch.equal(network(prior, x, x), expected)
