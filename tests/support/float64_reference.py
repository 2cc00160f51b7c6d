"""The model once more, in float64 NumPy, straight from the formulas and sharing no code with the package.

One group, one layer, one task at a time, with the tensors of `dense.safetensors` by name. `config` is a ModelConfig or
anything with its attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def sigmoid(x: Floats) -> Floats:
    small = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    result: Floats = e / e.sum(axis=1, keepdims=True)
    return result


def relu(x: Floats) -> Floats:
    return np.maximum(x, 0.0)


def gate(t: Mapping[str, Floats], name: str, x: Floats, gamma: float) -> Floats:
    """γ · sigmoid( relu(x·w1 + b1)·w2 + b2 )."""
    hidden = relu(x @ t[f"{name}.w1"] + t[f"{name}.b1"])
    return gamma * sigmoid(hidden @ t[f"{name}.w2"] + t[f"{name}.b2"])


def logits(config: Any, tensors: Mapping[str, npt.NDArray[Any]], general: Any, domain: Any, prior: Any) -> Floats:
    """Inputs [B, ·] of any float type → logits float64 [B, T]."""
    t = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    g, domain, prior = (np.asarray(x, np.float64) for x in (general, domain, prior))

    # EPNet
    o = g
    if config.use_epnet:
        o = gate(t, "epnet.gate", np.hstack([domain, g]) if config.epnet_general else domain, config.gamma) * g

    # PPNet
    deltas: list[Floats] = []
    if config.use_ppnet:
        while f"ppnet.{len(deltas)}.gate.w1" in t:
            deltas.append(gate(t, f"ppnet.{len(deltas)}.gate", np.hstack([prior, o]), config.gamma))

    groups = t["experts.0.w"].shape[0]

    def delta(layer: int, group: int, width: int) -> Floats | float:
        if not config.use_ppnet:
            return 1.0
        if config.gate_scope == "layer":
            assert deltas[layer].shape[1] == width
            return deltas[layer]
        assert deltas[layer].shape[1] == groups * width
        return deltas[layer][:, group * width : (group + 1) * width]

    def stack(group: int) -> Floats:
        """Expert `group` of mmoe: h_L. Task `group` of towers: its logit, as one column."""
        h = o
        for l in range(len(config.layers)):
            w, b = t[f"experts.{l}.w"][group], t[f"experts.{l}.b"][group]
            if config.gate_position == "input":
                h = relu((h * delta(l, group, h.shape[1])) @ w + b)
            else:
                h = relu(h @ w + b) * delta(l, group, w.shape[1])
        if config.backbone == "towers":
            last = len(config.layers)
            if config.gate_position == "input":
                h = h * delta(last, group, h.shape[1])
            h = h @ t[f"experts.{last}.w"][group] + t[f"experts.{last}.b"][group]
        return h

    outputs = [stack(group) for group in range(groups)]
    if config.backbone == "towers":
        return np.hstack(outputs)

    columns = []
    for task in range(t["towers.0.w"].shape[0]):
        mine = slice(task * groups, (task + 1) * groups)
        a = softmax(o @ t["mix.w"][:, mine] + t["mix.b"][mine])
        m = sum(a[:, e : e + 1] * outputs[e] for e in range(groups))
        for i in range(len(config.towers)):
            m = relu(m @ t[f"towers.{i}.w"][task] + t[f"towers.{i}.b"][task])
        last = len(config.towers)
        columns.append(m @ t[f"towers.{last}.w"][task] + t[f"towers.{last}.b"][task])
    return np.hstack(columns)


def scores(config: Any, tensors: Mapping[str, npt.NDArray[Any]], general: Any, domain: Any, prior: Any) -> Floats:
    """Inputs [B, ·] of any float type → scores float64 [B, T]."""
    return sigmoid(logits(config, tensors, general, domain, prior))
