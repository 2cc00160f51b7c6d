"""A graph of one product, for what backends make of the graph itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pepnet_infer.schema.network_config import InputWidths

WIDTHS = InputWidths(3, 2, 0)


def graph(
    path: Path,
    inputs: tuple[tuple[str, int, Any], ...] = (("general", TensorProto.FLOAT, ["batch", 3]),),
    outputs: int = 2,
) -> Any:
    """Writes a graph whose first input times ones is the scores, and returns it as part of a bundle."""
    nodes = [helper.make_node("MatMul", [inputs[0][0], "w"], ["scores"])]
    weights = numpy_helper.from_array(np.ones((inputs[0][2][1], outputs), np.float32), "w")
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", outputs])],
        [weights],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    config = SimpleNamespace(inputs=WIDTHS)
    return SimpleNamespace(onnx_path=path, onnx=lambda: path, tasks=("a", "b"), config=config)
