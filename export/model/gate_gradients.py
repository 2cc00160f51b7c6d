"""Gradients of gates inside reentrant checkpoints, where autograd does not see them act.

`checkpoint(…, use_reentrant=True)` runs a part of a network without a graph, and again during the backward pass, with a
graph and a backward pass of its own. A gate that acts in there is no input of the checkpoint. Run again it multiplies
with a copy of δ that is a leaf, for δ's own graph may be gone through once only, while several checkpoints use it. What
the leaf has gathered is added to δ's gradient when the outer pass comes to δ: after the network, for of the nodes that
are ready autograd takes the one that was made last, and δ was made before the network ran.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree


class GateCall:
    """The gates of one call of a network."""

    def __init__(self) -> None:
        # running: the network runs, and no backward pass has begun. passed: this backward pass, of which there are
        # several with retain_graph, has gone past a δ. Apart from the gates, for δ's graph holds on to it: nothing
        # that this graph holds on to may hold on to δ, or neither would ever be freed.
        self._state = SimpleNamespace(running=True, passed=False)
        self._apart: dict[Tensor, Tensor] = {}  # leaf → its δ, which acted without a graph; layers may share a δ

    def factor(self, delta: Tensor, leaf: Tensor) -> Tensor:
        """Returns what an output is multiplied with here and now. leaf: `delta` without its graph."""
        if not delta.requires_grad:
            return delta
        if self._state.running:
            if not torch.is_grad_enabled():
                self._apart[leaf] = delta
            return delta
        if self._state.passed:
            raise RuntimeError(
                "GatedNetwork: expected the backward pass to run a checkpoint again before it comes to the gates; "
                "run the whole network in one thread and on one device, or checkpoint with use_reentrant=False."
            )
        return leaf.requires_grad_()  # not before: torch.func's transforms, which run nothing again, refuse it

    def finish(self, result: Any) -> Any:
        """Returns the network's result, connected with the gates that autograd did not see act."""
        self._state.running = False
        if not self._apart:
            return result
        for leaf, delta in self._apart.items():
            cast(Any, delta).register_hook(partial(_add_leaf_gradient, self._state, leaf))
        deltas = tuple(self._apart.values())
        connect: Any = cast(Any, _Connect).apply
        return _pytree.tree_map_only(
            Tensor, lambda part: connect(self._state, part, *deltas) if part.requires_grad else part, result
        )


def _add_leaf_gradient(state: SimpleNamespace, leaf: Tensor, own: Tensor) -> Tensor:
    """Hook of a δ: what its leaf has gathered since the last backward pass belongs to it."""
    state.passed = True
    gathered, leaf.grad = leaf.grad, None
    return own if gathered is None else own + gathered


class _Connect(torch.autograd.Function):
    """A result as it is; each δ comes into its backward pass, with zeros for the hook to add to."""

    @staticmethod
    def forward(ctx: Any, state: SimpleNamespace, result: Tensor, *deltas: Tensor) -> Tensor:
        ctx.state, ctx.zeros = state, [delta.new_zeros(()).expand(delta.shape) for delta in deltas]
        return result.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        ctx.state.passed = False
        return (None, gradient, *ctx.zeros)
