"""EPNet and PPNet around existing modules, which need no change: the paper's "plug and play"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from pepnet_infer.errors import SchemaError
from pepnet_infer.export.model.gate_gradients import GateCall
from pepnet_infer.export.model.pepnet import EPNet, PPNet

Hook = Callable[[nn.Module, Any, Tensor], Tensor]


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
        call = GateCall()
        waiting: set[str] = set()
        hooks: dict[int, list[Hook]] = {}
        for names, delta in zip(self.gated, self.ppnet(prior, o), strict=True):
            factor = partial(call.factor, delta, delta.detach())
            for name in names:
                waiting.add(name)
                module = self.network.get_submodule(name)
                hooks.setdefault(id(module), []).append(partial(_multiply, name, factor, waiting))
        replicas = _Replicas(hooks)
        try:
            result = replicas.of(self.network)(*args, **kwargs)
        finally:
            replicas.hand_back()
        if waiting:
            raise SchemaError(f"module {min(waiting)!r}: expected it to run, so that its gate can act; it did not")
        return call.finish(result)


def _multiply(
    name: str, factor: Callable[[], Tensor], waiting: set[str], module: nn.Module, args: Any, output: Tensor
) -> Tensor:
    """Forward hook: output ⊙ δ."""
    delta = factor()
    if output.shape != delta.shape:
        raise SchemaError(f"module {name!r}: expected an output of {list(delta.shape)}, got {list(output.shape)}")
    waiting.discard(name)
    return output * delta


class _Replicas:
    """Copies, for one call, of modules that get hooks and of those above. All else is shared, parameters too."""

    def __init__(self, hooks: Mapping[int, Sequence[Hook]]) -> None:
        """hooks: `id` of a module → its forward hooks for this call, which act after those it has."""
        self._hooks = hooks
        self._seen: dict[int, nn.Module] = {}  # also where a module stands in several places
        self._copies: list[tuple[nn.Module, dict[str, Any], nn.Module]] = []

    def of(self, module: nn.Module) -> nn.Module:
        """Returns a copy of `module` if it or a module below has hooks, else `module`."""
        if id(module) not in self._seen:
            children = {name: child and self.of(child) for name, child in module._modules.items()}
            same = all(child is module._modules[name] for name, child in children.items())
            hooks = self._hooks.get(id(module), ())
            self._seen[id(module)] = module if same and not hooks else self._copy(module, children, hooks)
        return self._seen[id(module)]

    def _copy(self, module: nn.Module, children: dict[str, nn.Module | None], hooks: Sequence[Hook]) -> nn.Module:
        if isinstance(module, torch.jit.ScriptModule):
            raise SchemaError(f"network: expected a Python module around each gate, got {type(module).__name__}")
        copy = module.__class__.__new__(module.__class__)
        values = vars(module).copy()
        for name, value in values.items():  # a forward put in place of the class's would run the original
            if isinstance(value, MethodType) and value.__self__ is module:
                values[name] = MethodType(value.__func__, copy)
        values["_modules"] = children
        if hooks:
            values["_forward_hooks"] = values["_forward_hooks"].copy()
        copy.__dict__ = values
        for hook in hooks:
            copy.register_forward_hook(hook)
        self._copies.append((module, values.copy(), copy))
        return copy

    def hand_back(self) -> None:
        """Gives the modules what their forward wrote to plain attributes of the copies, such as a counter."""
        for module, before, copy in self._copies:
            for name, value in vars(copy).items():
                if name not in before or before[name] is not value:
                    vars(module)[name] = value
