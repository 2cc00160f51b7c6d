"""ONNX Runtime: runs `dense.onnx` on the CPU or, through its CUDA provider, on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.cuda.driver import no_gpu_because
from pepnet_infer.backends.ort_buckets import BUCKETS, BucketSession
from pepnet_infer.backends.ort_library import import_onnxruntime
from pepnet_infer.backends.ort_session import OrtSession, check_graph_is_whole
from pepnet_infer.backends.protocol import Settings, read_options
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import BackendError, BundleError
from pepnet_infer.process.cpu import NO_THREAD, available_threads
from pepnet_infer.process.exits import INSIDE
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.validation import Options

Provider = tuple[str, dict[str, str]]  # ONNX Runtime's name for what runs a graph, and its options

_TENSORRT = "TensorrtExecutionProvider"
_CUDA = "CUDAExecutionProvider"

#: Rows per run of the graph on a CPU. Larger batches are cut at multiples of it, so that activations stay bounded
#: (a wide model holds about 50 kB a row) and the cuts do not depend on who calls.
CHUNK_ROWS = 4096


class OrtOptions(Options, frozen=True):
    """The backend's own options.

    spin: idle threads spin for lower latency. On a GPU only: graphs: launches are recorded once for each bucket of
    rows; None is true but with TensorRT, which has none. tensorrt: TensorRT runs what it knows of the graph, CUDA the
    rest.
    """

    spin: bool = True
    graphs: bool | None = None
    tensorrt: bool = False


class OrtBackend:
    """One ONNX Runtime session over a bundle's `dense.onnx`."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        """Opens the session. Options: `OrtOptions`.

        Bundle and precision are those that `Way.refusal` let pass. Raises BackendError for a device that onnxruntime
        cannot start, ConfigError for an option, BundleError for a graph that does not load or has other inputs than
        the bundle's config.
        """
        own = read_options(OrtOptions, settings.options)
        ort = import_onnxruntime()
        threads = settings.threads or available_threads()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.enable_mem_pattern = False  # one plan is kept per batch size seen: memory that only grows
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the bytes look like
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if own.spin else "0")
        on_gpu = settings.kind == "cuda"
        graphs = on_gpu and not own.tensorrt and own.graphs is not False
        providers = _providers(settings, own, graphs)

        def open_session(graph: str | bytes) -> Any:
            session = _open(ort, bundle, graph, options, providers)
            return BucketSession(ort, session, ("cuda", settings.gpu), graphs) if on_gpu else session

        self._session = OrtSession(open_session, bundle.onnx(), on_gpu)
        session, self._tasks = self._session.session(), len(bundle.tasks)
        self._most_rows = BUCKETS[-1] if on_gpu else CHUNK_ROWS
        self._names = [node.name for node in session.get_inputs()]  # an input no layer reads is not in the graph
        self._output = [session.get_outputs()[0].name]
        self._description: dict[str, Any] = {
            "backend": self.name,
            "version": ort.__version__,
            "device": f"cuda:{settings.gpu}" if on_gpu else "cpu",
            "precision": settings.precision,
            "threads": threads,
            "spin": own.spin,
            "why": settings.why,
        }
        if on_gpu:
            self._description |= {"tensorrt": own.tensorrt, "tf32": False, "graphs": graphs}

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores float32 [B, T] for inputs float32 [B, ·]."""
        feed: dict[str, npt.NDArray[np.float32]] = {name: getattr(inputs, name) for name in self._names}
        rows = inputs.general.shape[0]
        if 0 < rows <= self._most_rows:
            return self._session.run(self._output, feed)[0]
        if rows == 0:
            with INSIDE:
                self._session.session()  # raises in a forked child that cannot run it, as with rows
        out = np.empty((rows, self._tasks), dtype=np.float32)
        for start in range(0, rows, self._most_rows):
            part = slice(start, min(start + self._most_rows, rows))
            out[part] = self._session.run(self._output, {name: x[part] for name, x in feed.items()})[0]
        return out

    def describe(self) -> dict[str, Any]:
        """Returns backend, version, device, precision, threads, spin, why; on a GPU tensorrt, tf32 and graphs too."""
        return dict(self._description)


def why_not(bundle: Bundle, settings: Settings) -> str | None:
    """Returns what keeps this backend from running `bundle` as asked on this machine, None when nothing does."""
    own = read_options(OrtOptions, settings.options)
    if settings.kind == "cpu":
        only_gpu = "tensorrt" if own.tensorrt else "graphs" if own.graphs is not None else None
        return None if only_gpu is None else f"options.{only_gpu}: only device cuda has it, got {settings.device}"
    if own.tensorrt and own.graphs:
        return "options.graphs: expected none with tensorrt, which has no graphs here, got True"
    problem = no_cuda_because(_TENSORRT if own.tensorrt else _CUDA)
    return None if problem is None else f"device: expected {settings.device}, but {problem}"


def no_cuda_because(provider: str = _CUDA) -> str | None:
    """Returns None when the driver shows a GPU and onnxruntime was built to use it, else what is wrong."""
    # The list of providers says what was compiled in, not what the machine can run: the driver is asked, and first,
    # because importing onnxruntime takes a tenth of a second.
    problem = no_gpu_because()
    if problem is not None:
        return problem
    try:
        ort = import_onnxruntime()
    except BackendError as error:
        return str(error)
    if provider not in ort.get_available_providers():
        what = "TensorRT" if provider == _TENSORRT else "CUDA"
        return f"this onnxruntime was built without {what} (pip install 'pepnet-infer[gpu]')"
    return None


def _providers(settings: Settings, own: OrtOptions, graphs: bool) -> list[Provider]:
    """Returns what is to run the graph, the first one as much of it as it can."""
    if settings.kind == "cpu":
        return [("CPUExecutionProvider", {})]
    where = {"device_id": str(settings.gpu)}
    # TF32 keeps 10 bits of mantissa: fp32 was asked for.
    cuda = (_CUDA, {**where, "use_tf32": "0", **({"enable_cuda_graph": "1"} if graphs else {})})
    return [(_TENSORRT, {**where, "trt_fp16_enable": "0"}), cuda] if own.tensorrt else [cuda]


def _open(ort: Any, bundle: Bundle, graph: str | bytes, options: Any, providers: list[Provider]) -> Any:
    wanted, on_gpu = providers[0][0], providers[0][0] in (_CUDA, _TENSORRT)
    if on_gpu and hasattr(ort, "preload_dlls"):  # not in every release that pyproject allows
        ort.preload_dlls()  # finds CUDA and cuDNN where pip put them
    path = bundle.onnx_path
    check_graph_is_whole(str(path), graph)
    try:
        session = ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        if on_gpu:
            raise BackendError(f"device: expected {wanted}, but onnxruntime could not start it: {error}") from error
        if "pthread_create" in str(error):
            wanted = f"threads: expected {options.intra_op_num_threads} for onnxruntime"
            raise BackendError(f"{wanted}, but {NO_THREAD}, or ask for threads=1") from error
        raise BundleError(f"{path}: onnxruntime cannot load it: {error}") from error
    got = session.get_providers()
    if got[0] != wanted:
        # ONNX Runtime goes on with the CPU when a provider fails to start; a GPU job on a CPU must not pass unseen.
        raise BackendError(f"device: expected {wanted}, got {', '.join(got)}: onnxruntime could not start it")
    session.disable_fallback()  # nor may a failing run restart itself on the CPU
    try:
        _check_ends(session, bundle)
    except UnicodeDecodeError as error:  # of a name in it: ONNX has text there, onnxruntime looks at no byte of it
        raise BundleError(f"{path}: expected names in UTF-8, got: {error}") from error
    return session


def _check_ends(session: Any, bundle: Bundle) -> None:
    """Raises BundleError unless the graph's inputs and its output are those of the bundle."""
    where = str(bundle.onnx_path)
    widths = bundle.config.inputs
    known = {"general": widths.general, "domain": widths.domain, "prior": widths.prior}
    for node in session.get_inputs():
        if node.name not in known:
            raise BundleError(f"{where}: expected inputs {', '.join(known)}, got {node.name!r}")
        width, got = known[node.name], f"{node.type} {node.shape}"
        if node.type != "tensor(float)" or len(node.shape) != 2 or node.shape[1] != width:
            raise BundleError(f"{where}: input {node.name!r}: expected float32 [batch, {width}], got {got}")
        if isinstance(node.shape[0], int):
            raise BundleError(f"{where}: input {node.name!r}: expected any batch size, got {node.shape[0]} only")
    outputs = session.get_outputs()
    got = ", ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
    if len(outputs) != 1 or outputs[0].type != "tensor(float)" or outputs[0].shape[1:] != [len(bundle.tasks)]:
        raise BundleError(f"{where}: expected one output float32 [batch, {len(bundle.tasks)}], got {got}")
