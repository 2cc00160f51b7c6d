"""The check that finite weights and rows cannot overflow float32 inside the network.

Bounds go through the list of operations as intervals do, in float64: |x·w + b| ≤ |x|·|w| + |b|, and so is each of its
partial sums, whatever their order. A gate is at most γ, a mix of experts no larger than the largest of them. A network
whose bounds all stay below `LARGEST` never computes an infinity, and so no NaN: in float32, in bf16, which has the same
exponents, and in int8, whose steps stand for numbers within the same bounds. What a cross layer or a factorisation
machine makes has no bound here, NaN, nor has what follows from it: powers of the largest inputs that could come are far
beyond what does come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import BundleError
from pepnet_infer.network import operations as ops
from pepnet_infer.network.network import Network
from pepnet_infer.schema.feature_schema import INPUTS, FeatureSchema

Bounds = npt.NDArray[np.float64]

#: The most a bound may be: float32's largest number is 3.4e38, and rounding may add to a sum.
LARGEST = 1e38
#: The most that a number of an embedding row is taken for, unless a bundle's table has larger ones, and a standardised
#: number of a request, in standard deviations. What comes larger is computed with, and the engine checks the scores.
NUMBER = 1e6
#: Of a bag of any length: how many of its rows a sum is taken for.
_MOST_SUMMED = 1e4
#: Numbers of a matrix that are taken at once: half a megabyte.
_PIECE = 1 << 16


def input_bounds(schema: FeatureSchema, tables: Mapping[str, Bounds]) -> dict[str, Bounds]:
    """Returns by input the largest magnitude of each column.

    tables: name → the largest magnitude in each column [dim] of a table's rows, where it is known. Rows may come later
    that are larger, up to `NUMBER`: deltas with more are refused.
    """
    inputs = {}
    for name, width in schema.widths.items():
        columns = inputs[name] = np.full(width, NUMBER)
        for slot in schema.layout[name]:
            spec, place = slot.field, slice(slot.offset, slot.offset + slot.width)
            if spec.table is not None and spec.table in tables:
                columns[place] = np.maximum(columns[place], tables[spec.table])
            if spec.kind == "bag" and spec.pooling == "sum":
                columns[place] *= spec.max_len or _MOST_SUMMED
    return inputs


def check_magnitudes(
    where: str, network: Network, dense: Mapping[str, npt.NDArray[Any]], inputs: Mapping[str, Bounds]
) -> None:
    """Raises BundleError naming the tensor or the operation whose numbers can overflow.

    inputs: of the three inputs the largest magnitude of each column.
    """
    bounds = _Bounds(where, dense)
    for name in INPUTS:
        bounds.values[name] = bounds.hold(f"columns of {name}", inputs[name][None, :])
    with np.errstate(over="ignore", invalid="ignore"):
        for operation in network.operations:
            rule: Callable[[_Bounds, Any], Bounds] = _RULES[type(operation)]
            bounds.values[operation.name] = bounds.hold(f"operation '{operation.name}'", rule(bounds, operation))


class _Bounds:
    """The largest magnitudes of every value so far, [groups, width] each."""

    def __init__(self, where: str, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        self._where, self._tensors = where, tensors
        self.values: dict[str, Bounds] = {}

    def size(self, tensor: str) -> Bounds:
        """The magnitudes of a tensor's numbers."""
        sizes: Bounds = np.abs(self._tensors[tensor], dtype=np.float64)
        return sizes

    def hold(self, what: str, bounds: Bounds) -> Bounds:
        most = float(bounds.max(initial=0.0))
        if most > LARGEST:
            expected = f"numbers below {LARGEST:g}, so that float32 cannot overflow"
            raise BundleError(f"{what}: expected {expected}, got up to {most:.3g}", within=self._where)
        return bounds

    def sums(self, x: Bounds, w: str, b: str | None = None) -> Bounds:
        """Bounds of x·w + b: x [G, in], w [in, out] or [G, in, out] → [G, out]."""
        matrix = self._tensors[w]
        if matrix.ndim == 2:
            bounds = _times_sizes(x, matrix)
        else:
            rows = np.broadcast_to(x, (len(matrix), x.shape[1]))
            bounds = np.concatenate([_times_sizes(row[None], one) for row, one in zip(rows, matrix, strict=True)])
        return self.hold(f"tensor '{w}': sums", bounds if b is None else bounds + self.size(b))

    def product(self, op: ops.Product) -> Bounds:
        return self.activated(op, self.sums(self.values[op.x], op.w, op.b))

    def activated(self, op: ops.Activated, x: Bounds) -> Bounds:
        if op.activation in ("sigmoid", "tanh", "hard_sigmoid"):
            return np.ones_like(x)
        if op.activation in ("leaky_relu", "prelu"):
            slope = self.size(op.slope) if op.slope is not None else abs(0.01 if op.alpha is None else op.alpha)
            return np.maximum(1.0, slope) * x
        if op.activation in ("elu", "selu", "softplus"):  # softplus is at most x + log 2
            return 1.1 * np.maximum(x, 1.7 if op.alpha is None else abs(op.alpha)) + 1.0
        return x

    def concat(self, op: ops.Concat) -> Bounds:
        parts = [self.values[part.source][:, part.begin : part.end] for part in op.of]
        groups = max(len(part) for part in parts)
        return np.concatenate([np.broadcast_to(part, (groups, part.shape[1])) for part in parts], axis=1)

    def mix(self, op: ops.Mix) -> Bounds:
        choices = op.choices or [range(len(self.values[op.h]))] * len(self.values[op.z])
        return np.stack([self.values[op.h][list(choice)].max(axis=0) for choice in choices])

    def reduce(self, op: ops.Reduce) -> Bounds:
        axis = 0 if op.over == "groups" else 1
        x = self.values[op.x]  # a mean is divided once its sum is there
        bounds: Bounds = x.max(axis=axis, keepdims=True) if op.by == "max" else x.sum(axis=axis, keepdims=True)
        return bounds

    def layer_norm(self, op: ops.LayerNorm) -> Bounds:
        x = self.values[op.x]
        self.hold(f"operation '{op.name}': squares", ((2 * x) ** 2).sum(axis=1))
        scale = 1.0 if op.w is None else self.size(op.w)
        bounds: Bounds = np.sqrt(x.shape[1]) * np.ones_like(x) * scale + (0.0 if op.b is None else self.size(op.b))
        return bounds


def _times_sizes(x: Bounds, w: npt.NDArray[Any]) -> Bounds:
    """x·|w| for x [G, in] and w [in, out], some rows at a time: a copy of all of w would cost more than the product."""
    step = max(1, _PIECE // max(1, w.shape[1]))
    total = np.zeros((len(x), w.shape[1]))
    sizes = np.empty((min(step, len(w)), w.shape[1]))
    for first in range(0, len(w), step):
        part = w[first : first + step]
        total += x[:, first : first + step] @ np.abs(part, out=sizes[: len(part)])
    return total


_RULES: dict[type[ops.Operation], Callable[[_Bounds, Any], Bounds]] = {
    ops.Concat: _Bounds.concat,
    ops.Stack: lambda b, op: np.concatenate([b.values[name] for name in op.of]),
    ops.Split: lambda b, op: b.values[op.x].reshape(op.groups, -1),
    ops.Flatten: lambda b, op: b.values[op.x].reshape(1, -1),
    ops.Pick: lambda b, op: b.values[op.x][list(op.groups)],
    ops.Product: _Bounds.product,
    ops.Activate: lambda b, op: b.activated(op, b.values[op.x]),
    ops.Gate: lambda b, op: np.full_like(b.values[op.x], op.gamma),
    ops.Multiply: lambda b, op: b.values[op.x] * b.values[op.y],
    ops.Add: lambda b, op: b.values[op.x] + b.values[op.y],
    ops.Affine: lambda b, op: b.values[op.x] * b.size(op.w) + (0.0 if op.b is None else b.size(op.b)),
    ops.Mix: _Bounds.mix,
    ops.Cross: lambda b, op: np.full_like(b.values[op.x], np.nan),
    ops.Fm: lambda b, op: np.full((1, op.width), np.nan),
    ops.Reduce: _Bounds.reduce,
    ops.LayerNorm: _Bounds.layer_norm,
    ops.Select: lambda b, op: b.values[op.x].max(axis=0, keepdims=True),
    ops.Pairs: lambda b, op: np.full((1, len(b.values[op.x]) * (len(b.values[op.x]) - 1) // 2), np.nan),
}
