"""The graph of new dense weights, made and compared with torch as a bundle's is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.export.bundle.parity import ROWS, measure
from pepnet_infer.export.bundle.simplify import simplify
from pepnet_infer.export.bundle.to_onnx import to_onnx
from pepnet_infer.export.model.network import build_network, load_dense
from pepnet_infer.schema.network_config import ModelConfig


def graph_of(config: ModelConfig, tasks: int, dense: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """Returns `dense.onnx` of weights. Raises BundleError when its scores are off."""
    network = build_network(config, tasks)
    load_dense(network, dense)
    exported = to_onnx(network, config, tasks)
    simplified = simplify(exported, config, tasks)
    names = tuple(f"task{number}" for number in range(tasks))
    measure(network, names, exported, simplified, {"normal": normal_inputs(config.inputs, ROWS, 0)})
    graph: bytes = simplified.SerializeToString(deterministic=True)
    return graph
