"""Who scores the dense part: our engine in every backend and precision, and the engines that people use instead.

One's own comes beside them with `--peer MODULE:BUILD`, where BUILD is a `Build`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.ort_library import import_onnxruntime
from pepnet_infer.backends.protocol import GPU_PRECISIONS, PRECISIONS
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.errors import BackendError, ConfigError
from pepnet_infer.rows.cache.config import CacheConfig
from pepnet_infer.schema.inputs import Inputs

if TYPE_CHECKING:
    import torch

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Peer:
    """One loaded network.

    scores: what is timed: general, domain and prior [B, ·], float32 NumPy arrays, to scores [B, T], a float32 NumPy
    array that the next call may reuse. settings: as the library reports them, as plain JSON values.
    """

    scores: Callable[[Inputs], Scores]
    settings: Mapping[str, Any]


#: (bundle, rows of every call, threads) → a loaded peer. The row count lets a peer that gains from a fixed shape have
#: one, since that is how its users would deploy it; peers that take any batch ignore it.
Build = Callable[["Bundle", int, int], Peer]


@dataclass(frozen=True)
class PeerSpec:
    """A peer by name. `precision` is that of weights and products."""

    name: str
    precision: str
    build: Build


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
    return PeerSpec(text, getattr(build, "precision", "fp32"), build)


def load_engine(
    bundle: Bundle, backend: str, precision: str, threads: int, device: str = "cpu", cache: CacheConfig | None = None
) -> Engine:
    """Returns an engine to measure: a precision has its errors beside it, whether the bundle offers it or not."""
    unchecked = backend == "native" and device == "cpu" and precision != "fp32"
    return Engine.load(
        bundle.path,
        device=device,
        backend=backend,
        precision=precision,
        threads=threads,
        cache=cache,
        check="sizes",
        options={"unchecked": True} if unchecked else None,
    )


def network(bundle: Bundle) -> torch.nn.Module:
    """Returns the bundle's network with its weights, float32, for inference only."""
    from pepnet_infer.export.model.network import build_network, load_dense

    module = build_network(bundle.config, len(bundle.tasks))
    load_dense(module, bundle.dense())
    return module.eval().requires_grad_(False)


def reference(bundle: Bundle, inputs: Inputs) -> npt.NDArray[np.float64]:
    """Returns scores [B, T] computed in float64 by the readable network."""
    from pepnet_infer.export.bundle import parity

    return np.asarray(parity.reference(network(bundle), inputs).scores, np.float64)


def _torch(dtype: str, compiled: bool, bundle: Bundle, rows: int, threads: int) -> Peer:
    """The network on tensors that share the memory of the inputs; conversions to and from `dtype` are part of a call.

    compiled: with frozen (prepacked) weights, for this batch size, on the first call.
    """
    import torch

    torch.set_num_threads(threads)
    kind: torch.dtype = getattr(torch, dtype)
    module: Callable[..., torch.Tensor] = network(bundle).to(kind)
    if compiled:
        torch._dynamo.reset()  # each build compiles anew; else its recompile limit ends in silent eager runs
        module = torch.compile(module, fullgraph=True, dynamic=False, options={"freezing": True})

    def scores(inputs: Inputs) -> Scores:
        with torch.inference_mode():
            tensors = (torch.from_numpy(x) for x in (inputs.general, inputs.domain, inputs.prior))
            found: Scores = module(*(tensor.to(kind) for tensor in tensors)).float().numpy()
            return found

    return Peer(scores, {"threads": torch.get_num_threads(), "dtype": dtype, "compiled": compiled})


def _onnxruntime(bundle: Bundle, rows: int, threads: int) -> Peer:
    """A session with all its defaults (optimisations, spinning) but the thread count. Inputs are not copied."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session: Any = onnxruntime.InferenceSession(str(bundle.onnx_path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def scores(inputs: Inputs) -> Scores:
        found: Scores = session.run(None, {name: getattr(inputs, name) for name in names})[0]
        return found

    return Peer(scores, {"threads": threads, "provider": session.get_providers()[0]})


def _openvino(precision: str, bundle: Bundle, rows: int, threads: int) -> Peer:
    """Set up for the latency of one request, the precision asked for outright: its default is bf16 where there is any.

    OpenVINO emulates bf16 on a CPU with AVX-512 but no bf16 instructions. Inputs are not copied.
    """
    core = importlib.import_module("openvino").Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BackendError("precision: expected a CPU on which OpenVINO has bf16, got one without")
    graph = core.read_model(str(bundle.onnx_path))
    graph.reshape({port: [rows, port.partial_shape[1].get_length()] for port in graph.inputs})
    wanted = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": True,
    }
    model = core.compile_model(graph, "CPU", wanted)
    settings = {
        "threads": int(model.get_property("INFERENCE_NUM_THREADS")),
        "streams": int(model.get_property("NUM_STREAMS")),
        "precision": model.get_property("INFERENCE_PRECISION_HINT").to_string(),
        "pinned": bool(model.get_property("ENABLE_CPU_PINNING")),
    }
    if settings["threads"] != threads or settings["precision"] != precision:
        raise BackendError(f"openvino: expected {threads} threads in {precision}, got {settings}")
    request, names = model.create_infer_request(), [port.get_any_name() for port in model.inputs]

    def scores(inputs: Inputs) -> Scores:
        feed = {name: getattr(inputs, name) for name in names}
        found: Scores = request.infer(feed, share_inputs=True, share_outputs=True)[0]
        return found

    return Peer(scores, settings)


def _engine(backend: str, device: str, precision: str, bundle: Bundle, rows: int, threads: int) -> Peer:
    """`Engine.score_dense`, with its checks of the inputs."""
    engine = load_engine(bundle, backend, precision, threads, device)
    return Peer(lambda x: engine.score_dense(x.general, x.domain, x.prior), engine.stats()["backend"])


def _engines() -> Iterator[PeerSpec]:
    """Yields engine-BACKEND[-PRECISION]; the native backend on a GPU is called cuda."""
    for name, backend, device, precisions in (
        ("onnxruntime", "onnxruntime", "cpu", PRECISIONS["onnxruntime"]),
        ("native", "native", "cpu", PRECISIONS["native"]),
        ("cuda", "native", "cuda", GPU_PRECISIONS["native"]),
    ):
        for precision in precisions:
            called = f"engine-{name}" + ("" if precision == "fp32" else f"-{precision}")
            yield PeerSpec(called, precision, partial(_engine, backend, device, precision))


#: Every peer of this version by name, installed or not; our own come last.
PEERS = {
    spec.name: spec
    for spec in (
        PeerSpec("torch", "fp32", partial(_torch, "float32", False)),
        PeerSpec("torch-bf16", "bf16", partial(_torch, "bfloat16", False)),
        PeerSpec("torch-compile", "fp32", partial(_torch, "float32", True)),
        PeerSpec("onnxruntime", "fp32", _onnxruntime),
        PeerSpec("openvino", "fp32", partial(_openvino, "f32")),
        PeerSpec("openvino-bf16", "bf16", partial(_openvino, "bf16")),
        *_engines(),
    )
}
#: The peers of a first look: what people run today, and ours in every precision.
QUICK = ("onnxruntime", "engine-native", "engine-native-bf16", "engine-native-int8")
