"""What the machine can do at most, measured: matrix products by precision, and reads by size of what is read.

The share of these limits that a peer reaches says more than its time: a small batch is bound by reading the weights,
a large one by the products. The peaks are the best rate any installed library reached on plain matrix products with
constant weights, so that they are no better than what can be had, and no peer should pass them by more than noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from pepnet_infer.bench.latency import settle
from pepnet_infer.bench.machine import last_level_cache

#: Rows, inner and outer width of the products tried; small ones stay in L2, large ones show blocking.
SHAPES = ((256, 1024, 1024), (512, 512, 512), (1024, 1024, 1024), (1024, 1216, 4096))
_READ_BYTES_A_TRY = 256 << 20
SECONDS_A_TRY = 0.25


@dataclass(frozen=True)
class Peak:
    """The best product rate of one precision, in 10^9 floating point operations a second, and what reached it."""

    gflops: float
    by: str


def matrix_peaks(threads: int) -> dict[str, Peak]:
    """Returns the best rate per precision ("fp32", "bf16") over all installed libraries and `SHAPES`.

    Empty where none of torch, openvino and onnxruntime is installed.
    """
    best: dict[str, Peak] = {}
    for precision in ("fp32", "bf16"):
        for rows, inner, outer in SHAPES:
            for library, multiply in _products(precision, rows, inner, outer, threads):
                settle(0.5)  # until the pool of the library before has gone to sleep
                gflops = 2 * rows * inner * outer / _fastest(multiply) / 1e9
                if precision not in best or gflops > best[precision].gflops:
                    best[precision] = Peak(gflops, f"{library} {rows}x{inner}x{outer}")
    return best


def read_gbps(working_set: int, threads: int) -> float:
    """Returns the rate at which `threads` threads together read `working_set` bytes over and over, in 10^9 bytes/s.

    Each thread reads its own share, as the threads of a matrix product read their own columns of the weights.
    """
    words = max(threads, working_set // 8)
    parts = np.array_split(np.ones(words, dtype=np.int64), threads)
    repeats = max(1, _READ_BYTES_A_TRY // (8 * words))

    def read(part: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        for _ in range(repeats):
            np.bitwise_or.reduce(part)  # the reduction NumPy does with the fewest operations a byte

    with ThreadPoolExecutor(threads) as pool:
        seconds = _fastest(lambda: list(pool.map(read, parts)))
    return 8 * words * repeats / seconds / 1e9


def copy_gbps(working_set: int, threads: int) -> float:
    """Returns the rate at which `threads` threads copy, bytes read plus bytes written, in 10^9 bytes/s."""
    sources = np.array_split(np.ones(working_set // 16, dtype=np.int64), threads)
    targets = [np.empty_like(s) for s in sources]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _fastest(lambda: list(pool.map(np.copyto, targets, sources)))
    return 2 * sum(s.nbytes for s in sources) / seconds / 1e9


def cache_and_memory(threads: int) -> dict[str, float]:
    """Returns read rates from the last-level cache (half of it) and from memory (eight times it), and the copy rate."""
    size = last_level_cache()
    beyond = min(8 * size, 2 << 30)
    return {
        "l3_read_gbps": read_gbps(size // 2, threads),
        "memory_read_gbps": read_gbps(beyond, threads),
        "memory_copy_gbps": copy_gbps(beyond, threads),
    }


def _fastest(call: Callable[[], object]) -> float:
    """Returns the shortest of at least three calls, going on for SECONDS_A_TRY: a limit is what is possible."""
    call()
    best, deadline, count = float("inf"), time.perf_counter() + SECONDS_A_TRY, 0
    while count < 3 or time.perf_counter() < deadline:
        start = time.perf_counter()
        call()
        best, count = min(best, time.perf_counter() - start), count + 1
    return best


def _products(
    precision: str, rows: int, inner: int, outer: int, threads: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, inner), dtype=np.float32)
    w = rng.standard_normal((inner, outer), dtype=np.float32)
    if find_spec("torch"):
        yield "torch", _torch(precision, x, w, threads)
    if find_spec("openvino") and (product := _openvino(precision, x, w, threads)):
        yield "openvino", product
    if precision == "fp32" and find_spec("onnxruntime") and find_spec("onnx"):
        yield "onnxruntime", _onnxruntime(x, w, threads)


Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def _torch(precision: str, x: Matrix, w: Matrix, threads: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.from_numpy(x).to(dtype), torch.from_numpy(w).to(dtype)
    out = torch.empty((x.shape[0], w.shape[1]), dtype=dtype)
    return lambda: torch.mm(a, b, out=out)


def _openvino(precision: str, x: Matrix, w: Matrix, threads: int) -> Callable[[], object] | None:
    openvino, opset = import_module("openvino"), import_module("openvino.opset13")
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    parameter = opset.parameter(list(x.shape), np.float32)
    model = openvino.Model([opset.matmul(parameter, opset.constant(w), False, False)], [parameter])
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)


def _onnxruntime(x: Matrix, w: Matrix, threads: int) -> Callable[[], object]:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [x.shape[0], w.shape[1]])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})
