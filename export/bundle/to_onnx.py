"""PyTorch network → ONNX graph with a dynamic batch dimension. Parity is checked elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from pepnet_infer.backends.ort_library import import_onnxruntime
from pepnet_infer.errors import BundleError
from pepnet_infer.export.bundle.process_state import quiet
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import ModelConfig

#: The opset torch's operator library is written in: no version converter runs, and every runtime of the last years
#: reads it.
OPSET = 18
INPUTS = ("general", "domain", "prior")
OUTPUT = "scores"
MAX_BYTES = (1 << 31) - 1  # protobuf's limit for one message; the weights are embedded
_EXAMPLE_ROWS = 2  # torch.export takes sizes 0 and 1 for constants


def to_onnx(network: torch.nn.Module, config: ModelConfig, tasks: int) -> onnx.ModelProto:
    """Exports `network`: general, domain, prior float32 [batch, ·] → scores float32 [batch, `tasks`].

    All three inputs are declared whether the network reads them or not, those of width 0 too. Weights are embedded.
    Raises BundleError when the exporter froze the batch, lost an input, or the graph passes 2 GB.
    """
    widths = [getattr(config.inputs, name) for name in INPUTS]
    network = network.to("cpu", torch.float32).eval()
    example = tuple(torch.zeros(_EXAMPLE_ROWS, width) for width in widths)
    batch = torch.export.Dim("batch")
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes=tuple({0: batch} for _ in INPUTS),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise BundleError("torch.onnx.export: expected an ONNX program, got none")
    model = program.model_proto
    strip(model)
    declare(model, config, tasks)
    check_graph(model, config, tasks, "torch.onnx.export")
    return model


def declare(model: onnx.ModelProto, config: ModelConfig, tasks: int) -> None:
    """Gives the graph the contract's signature: adds inputs an optimiser dropped, fixes their order.

    Raises BundleError for other inputs or outputs than the contract's, or a batch that is a number.
    """
    found = {value.name for value in model.graph.input}
    if extra := sorted(found - set(INPUTS)):
        raise BundleError(f"ONNX graph: expected inputs {', '.join(INPUTS)}, got also {', '.join(extra)}")
    for value in model.graph.input:
        if not (batch := value.type.tensor_type.shape.dim[0]).dim_param:
            raise BundleError(f"ONNX graph: {value.name}: expected any batch size, got {batch.dim_value} only")
    del model.graph.input[:]
    for name in INPUTS:
        shape = ["batch", getattr(config.inputs, name)]
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    outputs = [value.name for value in model.graph.output]
    if outputs != [OUTPUT]:
        raise BundleError(f"ONNX graph: expected the output {OUTPUT!r}, got {outputs}")
    del model.graph.output[:]
    scores = onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["batch", tasks])
    model.graph.output.append(scores)


def check_graph(model: onnx.ModelProto, config: ModelConfig, tasks: int, where: str) -> None:
    """Raises BundleError unless the graph is valid ONNX, below 2 GB, and its shapes follow from [batch, ·] inputs."""
    if model.ByteSize() > MAX_BYTES:
        raise BundleError(f"expected a graph below {MAX_BYTES} bytes, got {model.ByteSize()}", within=where)
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"expected a valid ONNX graph, got: {error}", within=where) from error
    for values in (inferred.graph.input, inferred.graph.output):
        for value in values:
            dims = value.type.tensor_type.shape.dim
            wide = tasks if value.name == OUTPUT else getattr(config.inputs, value.name)
            got = [d.dim_param or d.dim_value for d in dims]
            if got != ["batch", wide]:
                raise BundleError(f"{value.name}: expected ['batch', {wide}], got {got}", within=where)


def strip(model: onnx.ModelProto) -> None:
    """Removes stack traces and producer notes: they hold paths of this machine and make equal models unequal."""
    model.producer_name, model.producer_version, model.doc_string = "pepnet_infer", "", ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = "pepnet", ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for entry in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        entry.doc_string = ""
        del entry.metadata_props[:]


def onnx_session(
    model: onnx.ModelProto, keep_values: bool = False
) -> Callable[[list[str], Inputs], list[npt.NDArray[np.float32]]]:
    """Returns what runs a graph: (names of outputs, inputs) → their values.

    One thread on the CPU, so that every run adds in the same order. `keep_values` turns the optimisations off that
    would remove values inside the graph.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    if keep_values:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session: Any = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda outputs, inputs: session.run(outputs, dict(zip(INPUTS, inputs.matrices, strict=True)))
