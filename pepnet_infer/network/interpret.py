"""A network in float64 NumPy, operation by operation, straight from docs/network.md: the truth for both lowerings.

It shares nothing with the two lowerings, and nothing with the reference model in torch, which proves the derivation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.network import operations as ops
from pepnet_infer.network.network import Network
from pepnet_infer.schema.inputs import Inputs

Floats = npt.NDArray[np.float64]
Tensors = Mapping[str, Floats]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def interpret(network: Network, tensors: Mapping[str, npt.NDArray[Any]], inputs: Inputs) -> Floats:
    """Returns the scores float64 [B, T] of a checked network.

    tensors: name → values, of the shapes that the network gives them.
    """
    weights = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}
    given = (np.asarray(matrix, np.float64)[:, None, :] for matrix in inputs.matrices)
    values: dict[str, Floats] = dict(zip(("general", "domain", "prior"), given, strict=True))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for operation in network.operations:
            values[operation.name] = evaluate(operation, values, weights)
        heads = [_HEADS[head.kind](values[head.of]) for head in network.heads]
    return np.concatenate([head.reshape(len(head), -1) for head in heads], axis=1)


def evaluate(operation: ops.Operation, values: Mapping[str, Floats], tensors: Mapping[str, Any]) -> Floats:
    """Returns the value [B, G, N] of one operation, from those that it reads and its tensors."""
    return _RULES[type(operation)](operation, values, tensors)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x), without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def softmax(x: Floats) -> Floats:
    """e^x_i / Σ e^x_j over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Floats = e / e.sum(axis=-1, keepdims=True)
    return result


def activate(function: ops.Function, x: Floats, alpha: float | None = None, slope: Floats | None = None) -> Floats:
    """An activation as docs/network.md defines it, element by element; `slope` [N] is prelu's."""
    a = _ALPHA.get(function, np.nan) if alpha is None else alpha
    return _FUNCTIONS[function](x, a, np.full(1, np.nan) if slope is None else slope)


def _finite_below(x: Floats) -> Floats:
    """For functions whose limit at -∞ is 0: there, -∞ times 0 would be no number."""
    return np.maximum(x, -1e3)


def _gelu_tanh(x: Floats) -> Floats:
    result: Floats = 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return result


_erf = np.vectorize(math.erf, otypes=[np.float64])
_ALPHA = {"leaky_relu": 0.01, "elu": 1.0}
_FUNCTIONS: dict[str, Callable[[Floats, float, Floats], Floats]] = {
    "identity": lambda x, a, s: x,
    "relu": lambda x, a, s: np.maximum(x, 0.0),
    "sigmoid": lambda x, a, s: sigmoid(x),
    "leaky_relu": lambda x, a, s: np.where(x < 0, a * x, x),
    "prelu": lambda x, a, s: np.where(x < 0, s * x, x),
    "silu": lambda x, a, s: _finite_below(x) * sigmoid(x),
    "tanh": lambda x, a, s: np.tanh(x),
    "gelu": lambda x, a, s: 0.5 * _finite_below(x) * (1.0 + _erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x, a, s: _gelu_tanh(_finite_below(x)),
    "elu": lambda x, a, s: np.where(x < 0, a * np.expm1(np.minimum(x, 0.0)), x),
    "selu": lambda x, a, s: _SELU_SCALE * np.where(x < 0, _SELU_ALPHA * np.expm1(np.minimum(x, 0.0)), x),
    "hard_sigmoid": lambda x, a, s: np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "softplus": lambda x, a, s: np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))),
    "hard_silu": lambda x, a, s: np.maximum(x, -3.0) * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
}
_HEADS: dict[ops.HeadKind, Callable[[Floats], Floats]] = {
    "probability": lambda x: sigmoid(x),
    "identity": lambda x: x,
    "exp": lambda x: np.exp(x),
    "softmax": lambda x: softmax(x),
}


def _activated(op: ops.Activated, x: Floats, t: Tensors) -> Floats:
    return activate(op.activation, x, op.alpha, None if op.slope is None else t[op.slope])


def _with_bias(x: Floats, name: str | None, t: Tensors) -> Floats:
    return x if name is None else x + t[name]


def _product(op: ops.Product, v: Tensors, t: Tensors) -> Floats:
    """w [N, width], or [groups, N, width]: matmul broadcasts [B, G, 1, N] @ [G, N, width]."""
    y = (v[op.x][:, :, None, :] @ t[op.w])[:, :, 0, :]
    return _activated(op, _with_bias(y, op.b, t), t)


def _concat(op: ops.Concat, v: Tensors, t: Tensors) -> Floats:
    parts = [v[part.source][:, :, part.begin : part.end] for part in op.of]
    groups = max(part.shape[1] for part in parts)
    return np.concatenate([np.broadcast_to(p, (p.shape[0], groups, p.shape[2])) for p in parts], axis=2)


def _mix(op: ops.Mix, v: Tensors, t: Tensors) -> Floats:
    weights, h = softmax(v[op.z]), v[op.h]
    choices = op.choices or [range(h.shape[1])] * weights.shape[1]
    return np.stack([np.einsum("be,ben->bn", weights[:, i], h[:, list(c)]) for i, c in enumerate(choices)], axis=1)


def _cross(op: ops.Cross, v: Tensors, t: Tensors) -> Floats:
    x = v[op.x]
    inner = x if op.u is None else x @ t[op.u]
    return v[op.x0] * _with_bias(inner @ t[op.w], op.b, t) + x


def _fm(op: ops.Fm, v: Tensors, t: Tensors) -> Floats:
    vectors = [] if op.v is None else [v[op.v]]
    if op.x is not None and op.w is not None:
        vectors.append(v[op.x][:, 0, :, None] * t[op.w])
    every = np.concatenate(vectors, axis=1)
    result: Floats = 0.5 * (every.sum(axis=1) ** 2 - (every**2).sum(axis=1))[:, None, :]
    return result


def _layer_norm(op: ops.LayerNorm, v: Tensors, t: Tensors) -> Floats:
    x = v[op.x]
    y = (x - x.mean(axis=2, keepdims=True)) / np.sqrt(x.var(axis=2, keepdims=True) + op.eps)
    return _with_bias(y if op.w is None else y * t[op.w], op.b, t)


def _reduce(op: ops.Reduce, v: Tensors, t: Tensors) -> Floats:
    over = {"groups": 1, "columns": 2}[op.over]
    result: Floats = getattr(v[op.x], op.by)(axis=over, keepdims=True)
    return result


def _select(op: ops.Select, v: Tensors, t: Tensors) -> Floats:
    x, number = v[op.x], v[op.by][:, 0, op.column]
    there = (number >= 0) & (number < x.shape[1])
    taken = x[np.arange(len(x)), np.where(there, number, 0).astype(np.int64)]
    return np.where(there[:, None], taken, np.nan)[:, None, :]


def _pairs(op: ops.Pairs, v: Tensors, t: Tensors) -> Floats:
    x = v[op.x]
    first, second = np.tril_indices(x.shape[1], -1)
    result: Floats = (x[:, first] * x[:, second]).sum(axis=2)[:, None, :]
    return result


_RULES: dict[type[ops.Operation], Callable[[Any, Tensors, Tensors], Floats]] = {
    ops.Concat: _concat,
    ops.Stack: lambda op, v, t: np.concatenate([v[name] for name in op.of], axis=1),
    ops.Split: lambda op, v, t: v[op.x].reshape(len(v[op.x]), op.groups, -1),
    ops.Flatten: lambda op, v, t: v[op.x].reshape(len(v[op.x]), 1, -1),
    ops.Pick: lambda op, v, t: v[op.x][:, list(op.groups)],
    ops.Product: _product,
    ops.Activate: lambda op, v, t: _activated(op, v[op.x], t),
    ops.Gate: lambda op, v, t: op.gamma * sigmoid(v[op.x]),
    ops.Multiply: lambda op, v, t: v[op.x] * v[op.y],
    ops.Add: lambda op, v, t: v[op.x] + v[op.y],
    ops.Affine: lambda op, v, t: _with_bias(v[op.x] * t[op.w], op.b, t),
    ops.Mix: _mix,
    ops.Cross: _cross,
    ops.Fm: _fm,
    ops.Reduce: _reduce,
    ops.LayerNorm: _layer_norm,
    ops.Select: _select,
    ops.Pairs: _pairs,
}
