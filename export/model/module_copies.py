"""Copies of the modules above some that get hooks, for one call: the modules themselves are never touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import nn

from pepnet_infer.errors import SchemaError

Hook = Any  # what `register_forward_hook` takes


class Replicas:
    """Copies of modules by identity. Parameters, buffers, and whatever is not above a hook are shared."""

    def __init__(self, hooks: Mapping[int, Sequence[Hook]]) -> None:
        """hooks: `id` of a module → its forward hooks for this call, which act after those it has."""
        self._hooks = hooks
        self._seen: dict[int, nn.Module] = {}  # also where a module stands in several places
        self._copies: list[tuple[nn.Module, dict[str, Any], nn.Module]] = []

    def of(self, module: nn.Module) -> nn.Module:
        """Returns a copy of `module` if it or a module below has hooks, else `module`."""
        if id(module) in self._seen:
            return self._seen[id(module)]
        children = {name: child and self.of(child) for name, child in module._modules.items()}
        same = all(child is module._modules[name] for name, child in children.items())
        hooks = self._hooks.get(id(module), ())
        self._seen[id(module)] = module if same and not hooks else self._copy(module, children, hooks)
        return self._seen[id(module)]

    def hand_back(self) -> None:
        """Gives the modules what their forward wrote to plain attributes of the copies, such as a counter."""
        for module, before, copy in self._copies:
            for name, value in vars(copy).items():
                if name not in before or before[name] is not value:
                    vars(module)[name] = value

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
