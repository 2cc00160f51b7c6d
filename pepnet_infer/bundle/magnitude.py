"""The check that finite weights and rows cannot overflow float32 inside the network.

Bounds go through the network as intervals do, in float64: |x·w + b| ≤ |x|·|w| + |b|, and so is each of its partial
sums, whatever their order. A gate is at most γ, a mix of experts no larger than the largest of them. A network whose
bounds all stay below `LARGEST` never computes an infinity, and so no NaN: in float32, in bf16, which has the same
exponents, and in int8, whose steps stand for numbers within the same bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.errors import BundleError
from pepnet_infer.schema.feature_schema import INPUTS, FeatureSchema
from pepnet_infer.schema.network_config import ModelConfig

Bounds = npt.NDArray[np.float64]

#: The most a bound may be: float32's largest number is 3.4e38, and rounding may add to a sum.
LARGEST = 1e38
#: The most that a number of an embedding row is taken for, unless a bundle's table has larger ones, and a standardised
#: number of a request, in standard deviations. What comes larger is computed with, and the engine checks the scores.
NUMBER = 1e6
#: Of a bag of any length: how many of its rows a sum is taken for.
_MOST_SUMMED = 1e4


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
    where: str, config: ModelConfig, dense: Mapping[str, npt.NDArray[Any]], inputs: Mapping[str, Bounds]
) -> None:
    """Raises BundleError naming the tensor whose product can overflow. PEPNet only; a baseline passes.

    inputs: of the three inputs the largest magnitude of each column.
    """
    if config.model != "pepnet":
        return

    def hold(what: str, bounds: Bounds) -> Bounds:
        most = float(bounds.max(initial=0.0))
        if not most <= LARGEST:  # NaN is over it too
            expected = f"numbers below {LARGEST:g}, so that float32 cannot overflow"
            raise BundleError(f"{what}: expected {expected}, got up to {most:.3g}", within=where)
        return bounds

    def product(name: str, x: Bounds, number: str = "") -> Bounds:
        """Bounds of x·w + b: w [in, out], or [G, in, out] with x [in] or [G, in] → [out] or [G, out]."""
        w, b = dense[f"{name}.w{number}"], dense[f"{name}.b{number}"]
        with np.errstate(over="ignore", invalid="ignore"):
            if w.ndim == 2:
                bounds = x @ np.abs(w, dtype=np.float64)
            else:
                rows = np.broadcast_to(x, (len(w), w.shape[1]))
                bounds = np.stack([one @ np.abs(part, dtype=np.float64) for one, part in zip(rows, w, strict=True)])
            return hold(f"tensor '{name}.w{number}': sums", bounds + np.abs(b, dtype=np.float64))

    def gate(name: str, x: Bounds) -> None:
        product(name, product(name, x, "1"), "2")

    general, domain, prior = (hold(f"columns of {name}", inputs[name]) for name in INPUTS)
    o = general
    if config.use_epnet:
        gate("epnet.gate", np.concatenate([domain, o]) if config.epnet_general else domain)
        o = hold("epnet.gate: γ times columns of general", config.gamma * o)
    gates = len(config.gated_widths())
    for l in range(gates):
        gate(f"ppnet.{l}.gate", np.concatenate([prior, o]))
    towers, into = config.backbone == "towers", config.gate_position == "input"
    h = o
    for l in range(len(config.layers) + towers):
        if into and l < gates:
            h = hold(f"ppnet.{l}.gate: γ times its columns", config.gamma * h)
        h = product(f"experts.{l}", h)
        if not into and l < gates:
            h = hold(f"ppnet.{l}.gate: γ times its columns", config.gamma * h)
    if towers:
        return
    product("mix", o)
    h = np.broadcast_to(h.max(axis=0), (dense["towers.0.w"].shape[0], h.shape[-1]))
    for l in range(len(config.towers) + 1):
        h = product(f"towers.{l}", h)
