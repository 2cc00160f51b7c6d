"""The reference implementation of PEPNet: every formula of docs/model.md as one small module.

Chang et al., "PEPNet: Parameter and Embedding Personalized Network for Infusing with Personalized Prior Information",
KDD 2023, arXiv 2302.01115. B rows, D general width, G groups (experts, or tasks with the `towers` backbone), T tasks.

Parameters are named and laid out as the bundle stores them: `[in, out]`, so that `y = x @ w + b`. Modules take the
dtype of their parameters: float32 to train and export, float64 to check.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.network_config import GAMMA, ModelConfig


def xavier(*shape: int) -> nn.Parameter:
    """Returns a parameter of Xavier uniform values over its last two axes [in, out], one draw per leading index."""
    bound = math.sqrt(6.0 / (shape[-2] + shape[-1]))
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class Network(nn.Module):
    """What every network here is: three inputs to one score per task. All three are always given."""

    def logits(self, general: Tensor, domain: Tensor, prior: Tensor) -> Tensor:
        """General [B, D], domain [B, ·], prior [B, ·] → logits [B, T]."""
        raise TypeError(f"{type(self).__name__} has no logits of its own")

    def forward(self, general: Tensor, domain: Tensor, prior: Tensor) -> Tensor:
        """General [B, D], domain [B, ·], prior [B, ·] → scores sigmoid(logits) [B, T]."""
        return torch.sigmoid(self.logits(general, domain, prior))


class GateNU(nn.Module):
    """gate(x) = γ · sigmoid( relu(x·w1 + b1)·w2 + b2 ), the paper's Gate Neural Unit.

    x [B, into] → [B, out], each value in (0, γ). `hidden` is the width between, `out` unless given. Raises SchemaError
    for a γ out of the range of `config.GAMMA`.
    """

    def __init__(self, into: int, out: int, hidden: int | None = None, gamma: float = 2.0) -> None:
        super().__init__()
        hidden = hidden or out
        if not GAMMA[0] <= gamma <= GAMMA[1]:
            raise SchemaError(f"gamma: expected a number from {GAMMA[0]:g} to {GAMMA[1]:g}, got {gamma:g}")
        self.gamma = gamma
        self.w1, self.b1 = xavier(into, hidden), nn.Parameter(torch.zeros(hidden))
        self.w2, self.b2 = xavier(hidden, out), nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, into] → [B, out]."""
        return self.second(torch.relu(x @ self.w1 + self.b1))

    def second(self, hidden: Tensor) -> Tensor:
        """The second layer alone: relu(x·w1 + b1) [B, hidden] → [B, out]."""
        return self.gamma * torch.sigmoid(hidden @ self.w2 + self.b2)


class EPNet(nn.Module):
    """o = gate_ep([domain ; sg(g)]) ⊙ g, the paper's Embedding Personalized Network; sg is stop gradient.

    Personalises an embedding by the page it is shown on. Fits around any embedding: it needs only a domain input and
    the embedding's output. `general_input=False` leaves sg(g) out of the gate's input (v1 of the paper).
    """

    def __init__(
        self,
        domain_width: int,
        general_width: int,
        hidden: int | None = None,
        gamma: float = 2.0,
        general_input: bool = True,
    ) -> None:
        super().__init__()
        self.general_input = general_input
        self.gate = GateNU(domain_width + (general_width if general_input else 0), general_width, hidden, gamma)

    def forward(self, domain: Tensor, general: Tensor) -> Tensor:
        """Domain [B, domain width], general [B, D] → o [B, D]."""
        x = torch.cat([domain, general.detach()], 1) if self.general_input else domain
        return cast(Tensor, self.gate(x) * general)


class PPNet(nn.ModuleList):
    """All gates of one network: δ_l = gate_l([prior ; sg(o)]), the paper's Parameter Personalized Network.

    Fits around any network with layers of the given `widths`: it returns one δ_l [B, widths[l]] per layer, to be
    multiplied with that layer's units. A gate for each of G groups is a width of `G * width`, group-major columns.
    """

    def __init__(
        self,
        prior_width: int,
        general_width: int,
        widths: Sequence[int],
        hidden: int | None = None,
        gamma: float = 2.0,
    ) -> None:
        into = prior_width + general_width
        # Each in a dictionary, for the names of its tensors: ppnet.{l}.gate.*
        super().__init__(nn.ModuleDict({"gate": GateNU(into, width, hidden, gamma)}) for width in widths)

    @property
    def gates(self) -> list[GateNU]:
        """The gates in order of l."""
        return [cast(GateNU, cast(nn.ModuleDict, layer)["gate"]) for layer in self]

    def forward(self, prior: Tensor, o: Tensor) -> list[Tensor]:
        """Prior [B, prior width], o [B, D] → [δ_0, δ_1, …].

        All gates read the same input, so their first layers are one wide product.
        """
        x = torch.cat([prior, o.detach()], 1)
        gates = self.gates
        w1, b1 = torch.cat([gate.w1 for gate in gates], 1), torch.cat([gate.b1 for gate in gates])
        hidden = torch.split(torch.relu(x @ w1 + b1), [gate.b1.shape[0] for gate in gates], 1)
        return [gate.second(part) for gate, part in zip(gates, hidden, strict=True)]


class GroupedLinear(nn.Module):
    """G linear layers of equal shape side by side: w [G, in, out], b [G, out]."""

    def __init__(self, groups: int, into: int, out: int) -> None:
        super().__init__()
        self.w, self.b = xavier(groups, into, out), nn.Parameter(torch.zeros(groups, out))

    def forward(self, x: Tensor) -> Tensor:
        """An input for all groups [B, in], or one per group [B, G, in] → [B, G, out]."""
        groups, into, out = self.w.shape
        if x.dim() == 2:
            # One product [B, in]·[in, G*out]. A product that broadcasts x over the groups is one that OpenVINO refuses
            # when B is dynamic, and no faster anywhere.
            wide = self.w.transpose(0, 1).reshape(into, groups * out)
            return (x @ wide + self.b.reshape(-1)).reshape(-1, groups, out)
        return (x.transpose(0, 1) @ self.w).transpose(0, 1) + self.b


class Stacks(nn.ModuleList):
    """G stacks of ReLU layers with PPNet's gates: h_0 = o, and for each layer l and group e

    gates on the output:  h_l = relu(h_{l-1}·W_{e,l} + b_{e,l}) ⊙ δ_l            the reading of one gate per layer
    gates on the input:   h_l = relu((h_{l-1} ⊙ δ_l)·W_{e,l} + b_{e,l})          equation 9 of the paper

    With `scores=True` a last linear layer of width 1 follows, without ReLU; its input is gated too when gates are on
    inputs, its output never. Experts are such stacks, and towers those of the tasks with `scores=True`.
    """

    def __init__(
        self, groups: int, into: int, widths: Sequence[int], position: str = "output", scores: bool = False
    ) -> None:
        outputs = (*widths, 1) if scores else tuple(widths)
        super().__init__(GroupedLinear(groups, i, o) for i, o in zip((into, *outputs[:-1]), outputs, strict=True))
        self.position = position
        self.scores = scores

    def forward(self, o: Tensor, deltas: Sequence[Tensor] = ()) -> Tensor:
        """o [B, D] or [B, G, D], and each δ_l [B, width] (one for all groups) or [B, G, width].

        Returns h_L [B, G, last width], or with `scores` [B, G]. No deltas: no gates.
        """
        h, last = o, len(self) - 1
        for l, layer in enumerate(self):
            if deltas and self.position == "input":
                h = gated(h, deltas[l])
            h = layer(h)
            if self.scores and l == last:
                return cast(Tensor, h.squeeze(2))
            h = torch.relu(h)
            if deltas and self.position == "output":
                h = gated(h, deltas[l])
        return h


def gated(h: Tensor, delta: Tensor) -> Tensor:
    """h ⊙ δ where each is [B, width] (the same for all groups) or [B, G, width]."""
    if h.dim() < delta.dim():
        h = h.unsqueeze(1)
    elif delta.dim() < h.dim():
        delta = delta.unsqueeze(1)
    return h * delta


class Mix(nn.Module):
    """a_t = softmax(x·V_t + c_t) over experts, m_t = Σ_e a_{t,e} h_e (Ma et al., MMoE, KDD 2018).

    w [D, T*E], b [T*E], column t*E + e. PEPNet reads x = o.
    """

    def __init__(self, into: int, tasks: int, experts: int) -> None:
        super().__init__()
        self.tasks, self.experts = tasks, experts
        # Each V_t [D, E] is a matrix of its own, and Xavier's bound is that of V_t.
        self.w = nn.Parameter(xavier(tasks, into, experts).detach().transpose(0, 1).reshape(into, -1).contiguous())
        self.b = nn.Parameter(torch.zeros(tasks * experts))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """x [B, D], h [B, E, width] → m [B, T, width]."""
        weights = torch.softmax((x @ self.w + self.b).reshape(-1, self.tasks, self.experts), 2)
        return weights @ h


class PEPNet(Network):
    """The whole dense part: general, domain and prior inputs to one score per task.

    Its parameters have the names and shapes of `Network.derived(config, tasks).tensors`. Embeddings are not part of it.
    """

    def __init__(self, config: ModelConfig, tasks: int) -> None:
        super().__init__()
        general, domain, prior = config.inputs.general, config.inputs.domain, config.inputs.prior
        by_task = config.backbone == "towers"
        groups = tasks if by_task else config.experts
        self.config, self.tasks = config, tasks
        self.delta_groups = groups if config.gate_scope == "group" else 1
        self.epnet = self.ppnet = self.mix = self.towers = None
        if config.use_epnet:
            self.epnet = EPNet(domain, general, config.gate_hidden, config.gamma, config.epnet_general)
        if config.use_ppnet:
            widths = [self.delta_groups * width for width in config.gated_widths()]
            self.ppnet = PPNet(prior, general, widths, config.gate_hidden, config.gamma)
        self.experts = Stacks(groups, general, config.layers, config.gate_position, scores=by_task)
        if not by_task:
            self.mix = Mix(general, tasks, groups)
            self.towers = Stacks(tasks, config.layers[-1], config.towers, scores=True)

    def logits(self, general: Tensor, domain: Tensor, prior: Tensor) -> Tensor:
        """General [B, D], domain [B, ·], prior [B, ·] → logits [B, T]."""
        o = general if self.epnet is None else self.epnet(domain, general)
        deltas = [] if self.ppnet is None else self.ppnet(prior, o)
        if self.config.gate_scope == "group":
            deltas = [delta.reshape(-1, self.delta_groups, delta.shape[1] // self.delta_groups) for delta in deltas]
        h: Tensor = self.experts(o, deltas)
        return h if self.mix is None or self.towers is None else self.towers(self.mix(o, h))
