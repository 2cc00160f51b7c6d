"""ONNX Runtime sessions for measuring: one thread on the CPU, so that every run adds in the same order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pepnet_infer.backends.ort_library import import_onnxruntime
from pepnet_infer.schema.inputs import Inputs


class OnnxSession:
    """An ONNX graph held in memory, ready to run."""

    def __init__(self, model: onnx.ModelProto, keep_values: bool = False) -> None:
        """`keep_values` turns the optimisations off that would remove values inside the graph."""
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised
        if keep_values:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        data = model.SerializeToString()
        self._session: Any = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(self, outputs: list[str], inputs: Inputs) -> list[npt.NDArray[np.float32]]:
        """Returns the named outputs for `inputs`."""
        feeds = {"general": inputs.general, "domain": inputs.domain, "prior": inputs.prior}
        values: list[npt.NDArray[np.float32]] = self._session.run(outputs, feeds)
        return values
