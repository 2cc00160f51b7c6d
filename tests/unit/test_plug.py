"""EPNet and PPNet around modules that know nothing of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pepnet_infer.errors import SchemaError
from pepnet_infer.export.model import EPNet, PPNet
from pepnet_infer.export.plug import EPNetEmbedding, GatedNetwork


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
