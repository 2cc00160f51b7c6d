"""Finds the wrong tensor after a failed parity check: first among the weights of the graph, then among its values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from pepnet_infer.export.bundle.to_onnx import onnx_session
from pepnet_infer.schema.inputs import Inputs

Array = npt.NDArray[np.float32]

_MIN_WEIGHTS = 2  # single numbers are constants of the formulas (γ, 0, 1), not weights
_ROWS = 7


def wrong_weight(model: onnx.ModelProto, weights: Mapping[str, Array]) -> str:
    """Returns the first weight of the graph with a number that the model's weights do not have, or an empty string.

    Weights are compared by value, since folding transposes and joins them.
    """
    names = list(weights)
    every = np.concatenate([weights[name].reshape(-1) for name in names])
    owner = np.repeat(np.arange(len(names)), [weights[name].size for name in names])
    order = np.argsort(every, kind="stable")
    every, owner = every[order], owner[order]
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.size < _MIN_WEIGHTS:
            continue
        flat = values.reshape(-1)
        place = np.minimum(np.searchsorted(every, flat), every.size - 1)
        known = every[place] == flat
        derived = not known.any() and tensor.name not in weights  # of computed numbers, a square of weights say
        if known.all() or derived:
            continue
        stray = int(np.argmin(known))
        index = [int(i) for i in np.unravel_index(stray, values.shape)]
        if tensor.name in weights:
            source = tensor.name
        else:
            source = f"{tensor.name}, made of {names[int(np.bincount(owner[place[known]]).argmax())]}"
        return (
            f"tensor {source}: {int((~known).sum())} of {flat.size} numbers are not the model's, "
            f"the first is {flat[stray]:.9g} at {index}"
        )
    return ""


def wrong_value(model: onnx.ModelProto, exported: onnx.ModelProto, inputs: Inputs) -> str:
    """Returns the first value inside `model` that differs from the same value inside `exported`, or an empty string."""
    shared = {name for node in exported.graph.node for name in node.output}
    names = [name for node in model.graph.node for name in node.output if name in shared]
    found, expected = _values(model, names, inputs), _values(exported, names, inputs)
    for name in names:
        a, b = found[name], expected[name]
        if a.shape != b.shape:
            return f"tensor {name}: expected shape {list(b.shape)} as before simplification, got {list(a.shape)}"
        if a.dtype.kind == "f" and not np.allclose(a, b, rtol=1e-4, atol=1e-5):
            node = next(n for n in model.graph.node if name in n.output)
            off = float(np.abs(a - b).max())
            return f"tensor {name}, {node.op_type} of {', '.join(node.input)}: {off:.3g} off after simplification"
    return ""


def _values(model: onnx.ModelProto, names: list[str], inputs: Inputs) -> dict[str, Array]:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    have = {value.name for value in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    values = onnx_session(probe, keep_values=True)(names, inputs.rows(slice(_ROWS)))
    return dict(zip(names, values, strict=True))
