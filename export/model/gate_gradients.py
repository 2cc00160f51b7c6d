"""Gradients of gates inside reentrant checkpoints, where autograd does not see them act.

`checkpoint(…, use_reentrant=True)` runs a part of a network without a graph, and again during the backward pass, with a
graph and a backward pass of its own. A gate that acts in there is no input of the checkpoint. Run again it multiplies
with a copy of δ that is a leaf, for δ's own graph may be gone through once only, while several checkpoints use it. What
the leaf has gathered is added to δ's gradient when the outer pass comes to δ: after the network, for of the nodes that
are ready autograd takes the one that was made last, and δ was made before the network ran.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree


class GateCall:
    """The gates of one call of a network."""

    def __init__(self, recorded: bool) -> None:
        """recorded: whether autograd records the call."""
        self._recorded = recorded
        # running: the network runs, and no backward pass has begun. passed: this backward pass, of which there are
        # several with retain_graph, has gone past a δ.
        self._state = SimpleNamespace(running=True, passed=False)
        self._gates: list[_Gate] = []

    def gate(self, delta: Tensor) -> _Gate:
        """Returns the gate that multiplies with `delta`, made by what has a graph if it needs gradients."""
        gate = _Gate(delta, self._state, self._recorded and delta.requires_grad)
        self._gates.append(gate)
        return gate

    def finish(self, result: Any) -> Any:
        """Returns the network's result, connected with the gates that autograd did not see act."""
        self._state.running = False
        apart = [gate for gate in self._gates if gate.apart]
        if not apart:
            return result
        for gate in apart:
            gate.add_leaf_gradient()
        leaves, tree = _pytree.tree_flatten(result)
        there = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if there:
            deltas = [gate.delta for gate in apart]
            connected = cast(Any, _Connect).apply(self._state, len(there), *(leaves[i] for i in there), *deltas)
            for i, leaf in zip(there, connected, strict=True):
                leaves[i] = leaf
        return _pytree.tree_unflatten(leaves, tree)


class _Gate:
    """One δ_l. Nothing that δ's graph holds on to may hold on to δ, or neither would ever be freed."""

    def __init__(self, delta: Tensor, state: SimpleNamespace, learns: bool) -> None:
        self.delta, self._state, self._learns = delta, state, learns
        self.apart = False
        self._leaf = delta.detach() if learns else delta

    def factor(self) -> Tensor:
        """Returns what an output is multiplied with here and now."""
        if not self._learns:
            return self.delta
        if self._state.running:
            self.apart = self.apart or not torch.is_grad_enabled()
            return self.delta
        if self._state.passed:
            raise RuntimeError(
                "GatedNetwork: expected the backward pass to run a checkpoint again before it comes to the gates; "
                "run the whole network in one thread and on one device, or checkpoint with use_reentrant=False."
            )
        return self._leaf.requires_grad_()  # not before: torch.func's transforms, which run nothing again, refuse it

    def add_leaf_gradient(self) -> None:
        """Adds the leaf's gradient to δ's own when a backward pass comes to it."""
        node, at, leaf, state = self.delta.grad_fn, self.delta.output_nr, self._leaf, self._state
        assert node is not None

        def add(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
            state.passed = True
            gathered, leaf.grad = leaf.grad, None
            if gathered is None:
                return gradients
            own = gradients[at]
            assert own is not None  # `_Connect` gives each δ zeros
            return (*gradients[:at], own + gathered, *gradients[at + 1 :])

        node.register_prehook(add)


class _Connect(torch.autograd.Function):
    """Results as they are; δ comes into the backward pass of each, with zeros for a hook to add to."""

    @staticmethod
    def forward(ctx: Any, state: SimpleNamespace, results: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.state, ctx.deltas = state, [(delta.new_zeros(()), delta.shape) for delta in tensors[results:]]
        ctx.set_materialize_grads(False)
        return tuple(tensor.clone() for tensor in tensors[:results])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        ctx.state.passed = False
        return (None, None, *gradients, *(zero.expand(shape) for zero, shape in ctx.deltas))
