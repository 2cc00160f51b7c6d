"""Plain matrix products with constant weights, by every installed library and by our own kernels, in each precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.backends.ort_library import import_onnxruntime

#: Precisions of products, the widest first.
PRECISIONS = ("fp32", "bf16", "int8")
Matrix = npt.NDArray[np.float32]
#: Returns x·w, in whatever type the library has for it; our kernels on several threads return it in parts.
Multiply = Callable[[], object]


def operands(precision: str, rows: int, inner: int, outer: int) -> tuple[Matrix, Matrix]:
    """Returns float32 x [rows, inner] and w [inner, outer]: standard normal, for int8 whole numbers of -127 to 127."""
    rng = np.random.default_rng(0)
    if precision == "int8":
        whole = (rng.integers(-127, 128, shape) for shape in ((rows, inner), (inner, outer)))
        x, w = (values.astype(np.float32) for values in whole)
        return x, w
    return rng.standard_normal((rows, inner), dtype=np.float32), rng.standard_normal((inner, outer), dtype=np.float32)


def products(precision: str, x: Matrix, w: Matrix, threads: int) -> Iterator[tuple[str, Multiply]]:
    """Yields who multiplies and how, for all that have the precision here. `x` and `w` are of `operands`.

    Each does its own conversion of activations as its users cannot avoid it: torch and ONNX Runtime are given theirs
    converted, OpenVINO and our kernels take float32.
    """
    if find_spec("torch"):
        yield "torch", _torch(precision, x, w, threads)
    # Without VNNI their sums of two products saturate at 16 bits: fast, and no product.
    saturates = precision == "int8" and widest_isa("int8") not in ("avx512", "amx")
    if not saturates and find_spec("openvino") and (multiply := _openvino(precision, x, w, threads)):
        yield "openvino", multiply
    if not saturates and precision != "bf16" and find_spec("onnxruntime") and find_spec("onnx"):
        yield "onnxruntime", _onnxruntime(precision, x, w, threads)
    isa = widest_isa(precision)
    yield f"native {isa}", native(isa, precision, x, w, threads)


def widest_isa(precision: str) -> str:
    """Returns the widest instruction set that runs here, whatever PEPNET_ISA says: a limit is the machine's."""
    return [isa["isa"] for isa in _kernels.isas() if isa["usable"] and isa["precision"] == precision][-1]


def native(isa: str, precision: str, x: Matrix, w: Matrix, threads: int) -> Multiply:
    """Returns our kernels' product on one table. Threads share the rows, or the columns of fewer rows than threads."""
    ops, packed = _kernels.ops(isa, precision), _kernels.pack(w, None, precision)
    if threads == 1:
        return lambda: ops.product(x, packed)
    pool = ThreadPoolExecutor(threads)
    if len(x) >= threads:
        parts = np.array_split(x, threads)
        return lambda: list(pool.map(lambda part: ops.product(part, packed), parts))
    cuts = list(pairwise(np.linspace(0, packed.panels, threads + 1).astype(int).tolist()))

    def columns(cut: tuple[int, int]) -> Matrix:
        return ops.product(x, packed, panel_begin=cut[0], panel_end=cut[1])

    return lambda: list(pool.map(columns, cuts))


def _torch(precision: str, x: Matrix, w: Matrix, threads: int) -> Multiply:
    import torch

    torch.set_num_threads(threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
    a, b = torch.from_numpy(x).to(dtype), torch.from_numpy(w).to(dtype)
    out = torch.empty((x.shape[0], w.shape[1]), dtype=torch.int32 if precision == "int8" else dtype)
    if precision == "int8":
        return lambda: torch._int_mm(a, b, out=out)
    return lambda: torch.mm(a, b, out=out)


def _openvino(precision: str, x: Matrix, w: Matrix, threads: int) -> Multiply | None:
    openvino, opset = import_module("openvino"), import_module("openvino.opset13")
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    parameter = opset.parameter(list(x.shape), np.float32)
    a, b = parameter, opset.constant(w)
    if precision == "int8":  # a pattern that it knows: activations of 256 steps, here the whole numbers, narrow weights
        low, high = opset.constant(np.float32(-128)), opset.constant(np.float32(127))
        a = opset.fake_quantize(parameter, low, high, low, high, 256)
        scale = opset.constant(np.ones((1, w.shape[1]), np.float32))
        b = opset.multiply(opset.convert(opset.constant(w.astype(np.int8)), "f32"), scale)
    model = openvino.Model([opset.matmul(a, b, False, False)], [parameter])
    hint = "bf16" if precision == "bf16" else "f32"
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)[0]


def _onnxruntime(precision: str, x: Matrix, w: Matrix, threads: int) -> Multiply:
    from onnx import TensorProto, helper, numpy_helper

    weights, kind, result = [numpy_helper.from_array(w, "w")], TensorProto.FLOAT, TensorProto.FLOAT
    feed: npt.NDArray[np.float32] | npt.NDArray[np.uint8] = x
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    if precision == "int8":
        zero = np.array(128, np.uint8)
        weights = [numpy_helper.from_array(w.astype(np.int8), "w"), numpy_helper.from_array(zero, "zero")]
        kind, result, feed = TensorProto.UINT8, TensorProto.INT32, (x + 128).astype(np.uint8)
        node = helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", kind, list(x.shape))],
        [helper.make_tensor_value_info("y", result, [x.shape[0], w.shape[1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": feed})[0]
