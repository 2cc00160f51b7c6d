"""ONNX Runtime's CPU provider on the bundle's graph, called as its own documentation says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.ort_library import import_onnxruntime

if TYPE_CHECKING:
    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs


class OnnxRuntimePeer:
    """A session with all its defaults (spinning included) but the thread count."""

    def __init__(self, session: Any, threads: int) -> None:
        self._session, self._threads = session, threads
        self._names = [i.name for i in session.get_inputs()]

    def scores(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores [B, T]; inputs are not copied."""
        scores: npt.NDArray[np.float32]
        (scores,) = self._session.run(None, {name: getattr(inputs, name) for name in self._names})
        return scores

    def describe(self) -> dict[str, Any]:
        """Returns the provider in use and the thread count."""
        return {"threads": self._threads, "provider": self._session.get_providers()[0]}


def build(bundle: Bundle, batch: int, threads: int) -> OnnxRuntimePeer:
    """Loads the graph with ONNX Runtime's optimisations at their default, which is all of them."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(bundle.onnx_path), options, providers=["CPUExecutionProvider"])
    return OnnxRuntimePeer(session, threads)
