"""OpenVINO's CPU plugin on the bundle's graph, set up for the latency of one request."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bench.machine import bf16_note
from pepnet_infer.errors import BackendError

if TYPE_CHECKING:
    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs


class OpenVinoPeer:
    """A compiled model with one stream, and the one request it is asked through."""

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        self._model, self._settings = model, settings
        self._request = model.create_infer_request()
        self._names = [port.get_any_name() for port in model.inputs]

    def scores(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores [B, T], shared with the request's memory; inputs are not copied."""
        feed = {name: getattr(inputs, name) for name in self._names}
        result = self._request.infer(feed, share_inputs=True, share_outputs=True)
        scores: npt.NDArray[np.float32] = result[0]
        return scores

    def describe(self) -> dict[str, Any]:
        """Returns threads, precision and pinning as the compiled model reports them."""
        get = self._model.get_property
        return {
            "threads": int(get("INFERENCE_NUM_THREADS")),
            "streams": int(get("NUM_STREAMS")),
            "precision": get("INFERENCE_PRECISION_HINT").to_string(),
            "pinned": bool(get("ENABLE_CPU_PINNING")),
            **self._settings,
        }


def build_fp32(bundle: Bundle, batch: int, threads: int) -> OpenVinoPeer:
    """Float32 asked for outright: where the CPU has bf16, OpenVINO's own default is bf16."""
    return _build(bundle, batch, threads, "f32", {})


def build_bf16(bundle: Bundle, batch: int, threads: int) -> OpenVinoPeer:
    """Bfloat16, which OpenVINO emulates on a CPU with AVX-512 but no bf16 instructions."""
    return _build(bundle, batch, threads, "bf16", bf16_note())


def _build(bundle: Bundle, batch: int, threads: int, precision: str, settings: dict[str, Any]) -> OpenVinoPeer:
    core = import_module("openvino").Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BackendError("precision: expected a CPU on which OpenVINO has bf16, got one without")
    model = core.read_model(str(bundle.onnx_path))
    model.reshape({port: [batch, port.partial_shape[1].get_length()] for port in model.inputs})
    wanted = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": True,
    }
    peer = OpenVinoPeer(core.compile_model(model, "CPU", wanted), settings)
    got = peer.describe()
    if got["threads"] != threads or got["precision"] != precision:
        raise BackendError(f"openvino: expected {threads} threads in {precision}, got {got}")
    return peer
