"""The fused step of this package for networks of your own: an expert layer, multiplied with a gate on its way out.

    y = relu(h·w + b) ⊙ γ · sigmoid(u·gate_w + gate_b)

The layer of an expert or a task tower under PPNet's gate (PEPNet, KDD 2023, arXiv 2302.01115: gate NU and equation 9).
Both products, the bias, ReLU, sigmoid and multiplication are one pass: neither factor gets further than the first-level
cache, except a gate that G layers share, which is computed once and kept for them. `u` is the gate's hidden layer;
γ = 2 lets a gate both damp and amplify.

Arrays are float32 NumPy arrays. Shapes, with B rows and G experts (or tasks):

    one layer                     h [B, in]                  w [in, out]      b [out]
    G layers at once              h [B, in] or [G, B, in]    w [G, in, out]   b [G, out]
    one gate for all of them      u [B, hidden]              gate_w [hidden, out]      gate_b [out]
    one gate for each (G layers)  u [B, hidden]              gate_w [G, hidden, out]   gate_b [G, out]
    result                        [B, out], or [G, B, out] for G layers

Products run in the precision asked for and on the calling thread; the GIL is released. Rows do not depend on each
other: NaN and infinities stay in theirs, and a row's result is the same bits in any batch.
"""

from __future__ import annotations

import numpy as np

from pepnet_infer import _kernels
from pepnet_infer.errors import BackendError, SchemaError
from pepnet_infer.float_arrays import Floats, float_array
from pepnet_infer.quoting import quote

_LARGEST = float(np.finfo(np.float32).max)

__all__ = ["PackedGatedExpertLayer", "gated_expert_layer"]


def gated_expert_layer(
    h: Floats,
    w: Floats,
    b: Floats,
    u: Floats,
    gate_w: Floats,
    gate_b: Floats,
    gamma: float = 2.0,
    *,
    isa: str | None = None,
    precision: str = "fp32",
) -> Floats:
    """Returns relu(h·w + b) ⊙ γ·sigmoid(u·gate_w + gate_b), float32 [B, out] or [G, B, out]. Shapes: see the module.

    Packs the weights anew at every call, which costs as much as scoring some rows: make a `PackedGatedExpertLayer` to
    call it more than once. Raises what that raises.
    """
    return PackedGatedExpertLayer(w, b, gate_w, gate_b, gamma, isa=isa, precision=precision)(h, u)


class PackedGatedExpertLayer:
    """The same with weights that are packed once and kept. Safe to call from many threads.

    precision: of weights and products, "fp32", "bf16" or "int8"; results are float32. isa: "scalar", "avx2", "avx512"
    or "amx"; None is the widest usable, or what PEPNET_ISA says. Raises BackendError for one that is not there,
    SchemaError for arrays that are not float32, do not fit each other, or hold a weight that is not finite, and for a
    gamma that float32 does not hold.
    """

    def __init__(
        self,
        w: Floats,
        b: Floats,
        gate_w: Floats,
        gate_b: Floats,
        gamma: float = 2.0,
        *,
        isa: str | None = None,
        precision: str = "fp32",
    ) -> None:
        w, gate_w = _weights("w", w), _weights("gate_w", gate_w)
        self.groups: int | None = len(w) if w.ndim == 3 else None  #: G, or None for one layer
        self.width: int = w.shape[-1]  #: out
        if gate_w.ndim == 3 and (w.ndim != 3 or len(gate_w) != len(w)):
            raise SchemaError(f"gate_w: expected a gate for each layer of w {list(w.shape)}, got {list(gate_w.shape)}")
        if gate_w.shape[-1] != self.width:
            raise SchemaError(f"gate_w: expected {self.width} columns as in w, got {list(gate_w.shape)}")
        if isinstance(gamma, bool) or not isinstance(gamma, int | float | np.number) or not abs(gamma) <= _LARGEST:
            raise SchemaError(f"gamma: expected a finite number that float32 holds, got {quote(gamma)}")
        b = _finite("b", float_array("b", b, (*w.shape[:-2], self.width)))
        gate_b = _finite("gate_b", float_array("gate_b", gate_b, (*gate_w.shape[:-2], self.width)))
        self.gamma = float(gamma)
        with BackendError.in_place_of(ValueError):
            self.isa: str = _kernels.choose(precision, isa or "")["isa"]
        self.precision = precision
        self._ops = _kernels.ops(self.isa, precision)
        self.how: str = self._ops.how  #: the instructions
        self._inputs: tuple[int, int] = (w.shape[-2], gate_w.shape[-2])
        self._layers = _pack(w, b, precision)
        self._gates = _pack(gate_w, gate_b, precision)
        self._one_gate = gate_w.ndim == 2

    @property
    def packed_bytes(self) -> int:
        """Memory that the packed weights take."""
        return sum(packed.bytes for packed in (*self._layers, *self._gates))

    def __call__(self, h: Floats, u: Floats) -> Floats:
        """Returns float32 [B, out], or [G, B, out] for G layers. Raises SchemaError for inputs that do not fit.

        A view that is not C-contiguous is copied.
        """
        layers, (into, hidden) = len(self._layers), self._inputs
        u = float_array("u", u, ("B", hidden))
        h = float_array("h", h, ("B", into), *([] if self.groups is None else [(layers, "B", into)]))
        if h.shape[-2] != len(u):
            raise SchemaError(f"u: expected {h.shape[-2]} rows as in h, got {len(u)}")
        product = self._ops.product
        if self.groups is None:
            return product(h, self._layers[0], "relu_gated", gamma=self.gamma, gate_a=u, gate_packed=self._gates[0])
        out = np.empty((layers, len(u), self.width), np.float32)
        delta = product(u, self._gates[0], "gate", gamma=self.gamma) if self._one_gate else None
        for group, packed in enumerate(self._layers):
            rows = h[group] if h.ndim == 3 else h
            if delta is not None:
                out[group] = product(rows, packed, "relu_times", mul=delta)
            else:
                gate = self._gates[group]
                out[group] = product(rows, packed, "relu_gated", gamma=self.gamma, gate_a=u, gate_packed=gate)
        return out


def _pack(w: Floats, b: Floats, precision: str) -> list[_kernels.PackedMatrix]:
    if w.ndim == 2:
        w, b = w[None], b[None]
    return [_kernels.pack(matrix, bias, precision) for matrix, bias in zip(w, b, strict=True)]


def _weights(name: str, given: object) -> Floats:
    array = float_array(name, given, ("in", "out"), ("G", "in", "out"))
    if 0 in array.shape:
        raise SchemaError(f"{name}: expected no width of 0, got {list(array.shape)}")
    return _finite(name, array)


def _finite(name: str, array: Floats) -> Floats:
    finite = np.isfinite(array)
    if not finite.all():
        place = [int(i) for i in np.argwhere(~finite)[0]]
        raise SchemaError(f"{name}: expected finite values, got {array[tuple(place)]} at {place}")
    return array
