"""EPNet and PPNet around existing modules, which need no change: the paper's "plug and play"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pepnet_infer.errors import SchemaError
from pepnet_infer.export.model.gate_gradients import GateCall
from pepnet_infer.export.model.module_copies import Replicas
from pepnet_infer.export.model.pepnet import EPNet, PPNet


class EPNetEmbedding(nn.Module):
    """Any embedding with EPNet behind it: o = EPNet(domain, embedding(…))."""

    def __init__(self, embedding: nn.Module, epnet: EPNet) -> None:
        super().__init__()
        self.embedding, self.epnet = embedding, epnet

    def forward(self, domain: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Domain [B, domain width], then what the embedding takes → o [B, D]. The embedding must return [B, D]."""
        return cast(Tensor, self.epnet(domain, self.embedding(*args, **kwargs)))


class GatedNetwork(nn.Module):
    """Any network with PPNet's gates on outputs inside it.

    `layers[l]` are the sub-modules of `network` whose output [B, width_l] is multiplied with δ_l: one module, or one
    for each expert. Name the ReLU, not the linear layer before it. The gates live in `ppnet`, made with
    `PPNet(prior_width, general_width, widths)`; the network's own parameters stay where they are.

    A call installs nothing on `network`: it runs a copy of the gated modules and of those above them, which shares
    parameters and buffers. Calls from several threads do not meet, and activation checkpointing, reentrant or not, runs
    the same copy again. The network has to reach a gated module through its own sub-modules; one that it keeps in a
    plain list or a closure as well is the original, whose gate does not act, and the call says so.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Sequence[nn.Module]], ppnet: PPNet) -> None:
        super().__init__()
        if len(layers) != len(ppnet):
            raise SchemaError(f"layers: expected one entry for each of {len(ppnet)} gates, got {len(layers)}")
        inside = {id(module): name for name, module in network.named_modules()}
        self.network, self.ppnet = network, ppnet
        self.gated: list[list[str]] = []
        for l, modules in enumerate(layers):
            if not modules or any(id(module) not in inside for module in modules):
                raise SchemaError(f"layers[{l}]: expected sub-modules of the network, got {list(modules)}")
            self.gated.append([inside[id(module)] for module in modules])

    def forward(self, prior: Tensor, o: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Prior [B, prior width], o [B, D] (what the gates read), then what the network takes → what it returns.

        Raises SchemaError when a gated module gives another shape than its δ_l, or did not run.
        """
        call = GateCall(torch.is_grad_enabled())
        waiting: set[str] = set()
        hooks: dict[int, list[_Multiply]] = {}
        for names, delta in zip(self.gated, self.ppnet(prior, o), strict=True):
            gate = call.gate(delta)
            for name in names:
                waiting.add(name)
                hooks.setdefault(id(self.network.get_submodule(name)), []).append(_Multiply(name, gate.factor, waiting))
        replicas = Replicas(hooks)
        try:
            result = replicas.of(self.network)(*args, **kwargs)
        finally:
            replicas.hand_back()
        if waiting:
            raise SchemaError(f"module {min(waiting)!r}: expected it to run, so that its gate can act; it did not")
        return call.finish(result)


class _Multiply:
    """Forward hook: output ⊙ δ."""

    def __init__(self, name: str, factor: Callable[[], Tensor], waiting: set[str]) -> None:
        self.name, self.factor, self.waiting = name, factor, waiting

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        delta = self.factor()
        if output.shape != delta.shape:
            raise SchemaError(
                f"module {self.name!r}: expected an output of {list(delta.shape)}, got {list(output.shape)}"
            )
        self.waiting.discard(self.name)
        return output * delta
