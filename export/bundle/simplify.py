"""Runs onnxsim in a subprocess: it is native code, and a crash or a hang in it must not end the export."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from pepnet_infer.backends.ort_library import no_telemetry
from pepnet_infer.errors import BundleError
from pepnet_infer.export.bundle.to_onnx import check_graph, declare, strip
from pepnet_infer.schema.network_config import ModelConfig

TIMEOUT_S = 600.0
_SHAPE_OPS = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Concat", "Slice", "Split", "Expand", "Cast"}
_WORKER = """
import sys
# onnxsim would import both, seconds long: for quantisers, and to print sizes as formulas.
sys.modules["torch"] = sys.modules["sympy"] = None
import onnx, onnxsim
model, valid = onnxsim.simplify(sys.argv[1], check_n=0)
if not valid:
    sys.exit("onnxsim did not vouch for the graph it made")
onnx.save(model, sys.argv[2])
"""


def simplify(
    model: onnx.ModelProto, config: ModelConfig, tasks: int, timeout: float = TIMEOUT_S, worker: str = _WORKER
) -> onnx.ModelProto:
    """Returns the simplified graph with the same signature, constants folded. Parity is the caller's to measure.

    `worker` is the Python source that the process runs, given the paths of the input and the output file.
    Raises BundleError when onnxsim fails, crashes or takes longer than `timeout` seconds, or left weights unfolded.
    """
    with tempfile.TemporaryDirectory(prefix="pepnet-simplify-") as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        before.write_bytes(model.SerializeToString(deterministic=True))
        no_telemetry()  # onnxsim imports onnxruntime
        command = [sys.executable, "-P", "-c", worker, str(before), str(after)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise BundleError(f"onnxsim: expected an answer within {timeout:g} s, got none") from error
        if done.returncode != 0:
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            raise BundleError(f"onnxsim: expected exit code 0, got {how}: {done.stderr.strip()[-2000:]}")
        if not after.is_file():
            raise BundleError(f"onnxsim: expected an ONNX file, got none: {done.stderr.strip()[-2000:]}")
        simplified = onnx.load(after)
    strip(simplified)
    declare(simplified, config, tasks)
    check_graph(simplified, config, tasks, "onnxsim")
    check_folded(simplified)
    return simplified


def check_folded(model: onnx.ModelProto) -> None:
    """Raises BundleError when a node reshapes or copies weights at run time, which costs every batch the same work."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    for node in model.graph.node:
        if node.op_type in _SHAPE_OPS and node.input and constants.issuperset(node.input):
            raise BundleError(f"onnxsim: expected folded weights, got {node.op_type} of {', '.join(node.input)}")
