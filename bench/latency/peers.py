"""Who scores the dense part: our engine in every backend and precision, and the engines that people use instead.

One's own comes beside them with `--peer MODULE:BUILD`, where BUILD is a `Build`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.ort_library import import_onnxruntime
from pepnet_infer.backends.protocol import GPU_PRECISIONS, PRECISIONS
from pepnet_infer.bench.harness.machine import bf16_note
from pepnet_infer.engine import Engine
from pepnet_infer.errors import BackendError, ConfigError

if TYPE_CHECKING:
    import torch

    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs

Scores = npt.NDArray[np.float32]

#: The peer that ratios are printed against unless the command names another.
BASELINE = "onnxruntime"
#: The peers of a first look: what people run today, and ours in every precision.
QUICK = ["onnxruntime", "engine-native", "engine-native-bf16", "engine-native-int8"]
#: Rows the float64 reference takes at a time: the widest activation stays near 40 MB.
_REFERENCE_ROWS = 1024


class Peer(Protocol):
    """One loaded network. What is timed is `scores`: float32 NumPy arrays in, a float32 NumPy array out."""

    def scores(self, inputs: Inputs) -> Scores:
        """Returns scores [B, T] for general, domain and prior [B, ·]. The array may be reused by the next call."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns settings as the library reports them, as plain JSON values; `precision` is that of the weights."""
        ...


#: (bundle, rows of every call, threads) → a loaded peer. The row count lets a peer that gains from a fixed shape have
#: one, since that is how its users would deploy it; peers that take any batch ignore it.
Build = Callable[["Bundle", int, int], Peer]


@dataclass(frozen=True)
class PeerSpec:
    """A peer by name. `precision` is that of weights and products, `how` says in few words what is run."""

    name: str
    precision: str
    how: str
    build: Build


def all_peers() -> list[PeerSpec]:
    """Returns every peer of this version, installed or not; our own come last, engine-BACKEND[-PRECISION].

    The native backend on a GPU is called cuda.
    """
    ours = [
        (name, backend, device, precision)
        for name, backend, device, precisions in (
            ("onnxruntime", "onnxruntime", "cpu", PRECISIONS["onnxruntime"]),
            ("native", "native", "cpu", PRECISIONS["native"]),
            ("cuda", "native", "cuda", GPU_PRECISIONS["native"]),
        )
        for precision in precisions
    ]
    return [
        PeerSpec("torch", "fp32", "the exported network, eager, inference_mode", _torch_fp32),
        PeerSpec("torch-bf16", "bf16", "the same, module.bfloat16()", _torch_bf16),
        PeerSpec("torch-compile", "fp32", "torch.compile, frozen, fixed batch", _torch_compiled),
        PeerSpec("onnxruntime", "fp32", "dense.onnx, CPU provider", _onnxruntime),
        PeerSpec("openvino", "fp32", "dense.onnx, latency hint, fixed batch", partial(_openvino, "f32", {})),
        PeerSpec("openvino-bf16", "bf16", "the same, bf16 precision hint", partial(_openvino, "bf16", bf16_note())),
        *(
            PeerSpec(
                f"engine-{name}" + ("" if precision == "fp32" else f"-{precision}"),
                precision,
                f"Engine.score_dense, backend {backend} on {device}",
                partial(_engine, backend, device, precision),
            )
            for name, backend, device, precision in ours
        ),
    ]


def own_peer(text: str) -> PeerSpec:
    """Returns the peer that `MODULE:BUILD` names, called so. Modules of the working directory are found.

    Raises ConfigError for another form, a module that cannot be imported, and a name that is not there.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise ConfigError(f"peer: expected MODULE:BUILD, got {text!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        build = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"peer: {text}: {error}") from error
    return PeerSpec(text, getattr(build, "precision", "fp32"), "given with --peer", build)


def load_engine(bundle: Bundle, backend: str, precision: str, threads: int, device: str = "cpu", **more: Any) -> Engine:
    """Returns an engine to measure: a precision has its errors beside it, whether the bundle offers it or not."""
    unchecked = backend == "native" and device == "cpu" and precision != "fp32"
    options = {"unchecked": True} if unchecked else None
    asked: dict[str, Any] = {
        "device": device,
        "backend": backend,
        "precision": precision,
        "threads": threads,
        "options": options,
    }
    return Engine.load(bundle.path, check="sizes", **asked, **more)


class _EnginePeer:
    """`Engine.score_dense`, with its checks of the inputs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def scores(self, inputs: Inputs) -> Scores:
        return self._engine.score_dense(inputs.general, inputs.domain, inputs.prior)

    def describe(self) -> dict[str, Any]:
        backend: dict[str, Any] = self._engine.stats()["backend"]
        return backend


def _engine(backend: str, device: str, precision: str, bundle: Bundle, batch: int, threads: int) -> Peer:
    return _EnginePeer(load_engine(bundle, backend, precision, threads, device))


class _OnnxRuntimePeer:
    """A session with all its defaults (spinning included) but the thread count. Inputs are not copied."""

    def __init__(self, session: Any, threads: int) -> None:
        self._session, self._threads = session, threads
        self._names = [i.name for i in session.get_inputs()]

    def scores(self, inputs: Inputs) -> Scores:
        scores: Scores
        (scores,) = self._session.run(None, {name: getattr(inputs, name) for name in self._names})
        return scores

    def describe(self) -> dict[str, Any]:
        return {"threads": self._threads, "provider": self._session.get_providers()[0]}


def _onnxruntime(bundle: Bundle, batch: int, threads: int) -> Peer:
    """The graph with ONNX Runtime's optimisations at their default, which is all of them."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = onnxruntime.InferenceSession(str(bundle.onnx_path), options, providers=["CPUExecutionProvider"])
    return _OnnxRuntimePeer(session, threads)


class _OpenVinoPeer:
    """A compiled model with one stream, and the one request it is asked through. Inputs are not copied."""

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        self._model, self._settings = model, settings
        self._request = model.create_infer_request()
        self._names = [port.get_any_name() for port in model.inputs]

    def scores(self, inputs: Inputs) -> Scores:
        feed = {name: getattr(inputs, name) for name in self._names}
        scores: Scores = self._request.infer(feed, share_inputs=True, share_outputs=True)[0]
        return scores

    def describe(self) -> dict[str, Any]:
        get = self._model.get_property
        return {
            "threads": int(get("INFERENCE_NUM_THREADS")),
            "streams": int(get("NUM_STREAMS")),
            "precision": get("INFERENCE_PRECISION_HINT").to_string(),
            "pinned": bool(get("ENABLE_CPU_PINNING")),
            **self._settings,
        }


def _openvino(precision: str, settings: dict[str, Any], bundle: Bundle, batch: int, threads: int) -> Peer:
    """Set up for the latency of one request, the precision asked for outright: its default is bf16 where there is any.

    OpenVINO emulates bf16 on a CPU with AVX-512 but no bf16 instructions.
    """
    core = importlib.import_module("openvino").Core()
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
    peer = _OpenVinoPeer(core.compile_model(model, "CPU", wanted), settings)
    got = peer.describe()
    if got["threads"] != threads or got["precision"] != precision:
        raise BackendError(f"openvino: expected {threads} threads in {precision}, got {got}")
    return peer


class _TorchPeer:
    """A network on tensors that share the memory of the inputs; conversions to and from bfloat16 are part of a call."""

    def __init__(
        self, network: Callable[..., torch.Tensor], threads: int, dtype: str, settings: dict[str, Any]
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch, self._network, self._dtype = torch, network, getattr(torch, dtype)
        self._settings = {"dtype": dtype, **settings}

    def scores(self, inputs: Inputs) -> Scores:
        with self._torch.inference_mode():
            tensors = (self._torch.from_numpy(x) for x in (inputs.general, inputs.domain, inputs.prior))
            scores: Scores = self._network(*(t.to(self._dtype) for t in tensors)).float().numpy()
            return scores

    def describe(self) -> dict[str, Any]:
        return {"threads": self._torch.get_num_threads(), **self._settings}


def _torch_fp32(bundle: Bundle, batch: int, threads: int) -> Peer:
    return _TorchPeer(network(bundle), threads, "float32", {})


def _torch_bf16(bundle: Bundle, batch: int, threads: int) -> Peer:
    """Weights, activations and the softmax in bfloat16."""
    return _TorchPeer(network(bundle).bfloat16(), threads, "bfloat16", bf16_note())


def _torch_compiled(bundle: Bundle, batch: int, threads: int) -> Peer:
    """torch.compile with frozen (prepacked) weights, compiled for this batch size on the first call."""
    import torch

    torch._dynamo.reset()  # each build compiles anew; else its recompile limit ends in silent eager runs
    compiled = torch.compile(network(bundle), fullgraph=True, dynamic=False, options={"freezing": True})
    return _TorchPeer(compiled, threads, "float32", {"freezing": True, "dynamic": False})


def network(bundle: Bundle) -> torch.nn.Module:
    """Returns the bundle's network with its weights, float32, for inference only."""
    from pepnet_infer.export.model.network import build_network, load_dense

    module = build_network(bundle.config, len(bundle.tasks))
    load_dense(module, bundle.dense())
    return module.eval().requires_grad_(False)


def reference(bundle: Bundle, inputs: Inputs) -> npt.NDArray[np.float64]:
    """Returns scores [B, T] computed in float64 by the readable network."""
    import torch

    module = network(bundle).double()
    parts = []
    with torch.inference_mode():
        for start in range(0, inputs.num_rows, _REFERENCE_ROWS):
            rows = slice(start, start + _REFERENCE_ROWS)
            tensors = (torch.from_numpy(x[rows]).double() for x in (inputs.general, inputs.domain, inputs.prior))
            parts.append(module(*tensors).numpy())
    return np.concatenate(parts)
