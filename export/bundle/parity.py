"""Parity: torch, the exported graph and the simplified graph against torch in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch

from pepnet_infer.bundle.accuracy import TOLERANCE, Difference, Scores, within
from pepnet_infer.bundle.golden_rows import Reference
from pepnet_infer.errors import BundleError
from pepnet_infer.export.bundle.find_wrong_tensor import wrong_value, wrong_weight
from pepnet_infer.export.bundle.process_state import one_thread
from pepnet_infer.export.bundle.to_onnx import OUTPUT, onnx_session
from pepnet_infer.schema.inputs import Inputs

#: Every graph is proved at these batch sizes: 1, the sizes around the export's own, odd ones, and a real request.
BATCHES = (1, 2, 3, 7, 64, 1000)
ROWS = sum(BATCHES)

Run = Callable[[Inputs], Scores]


def reference(network: torch.nn.Module, inputs: Inputs) -> Reference:
    """Scores `inputs` in float64, in parts: the layers for all rows at once would not fit every machine."""
    run = torch_run(copy.deepcopy(network).double(), torch.float64)
    parts = [run(inputs.rows(slice(begin, begin + ROWS))) for begin in range(0, max(inputs.num_rows, 1), ROWS)]
    return Reference(inputs, np.concatenate(parts))


def torch_run(network: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Run:
    """Returns a function that scores inputs with `network`, without gradients."""
    network = network.eval()

    def run(inputs: Inputs) -> Scores:
        with torch.no_grad(), one_thread():
            parts = (torch.from_numpy(x).to(dtype) for x in inputs.matrices)
            scores: Scores = network(*parts).numpy()
        return scores

    return run


def onnx_run(model: onnx.ModelProto) -> Run:
    """Returns a function that scores inputs with `model` in ONNX Runtime on the CPU."""
    run = onnx_session(model)
    return lambda inputs: run([OUTPUT], inputs)[0]


def measure(
    network: torch.nn.Module,
    tasks: tuple[str, ...],
    exported: onnx.ModelProto,
    simplified: onnx.ModelProto,
    sets: Mapping[str, Reference],
) -> dict[str, Any]:
    """Compares torch, `exported` and `simplified` with float64 at every batch size; `sets` have `ROWS` rows each.

    Returns stage → set → max_abs, rms, rows, tasks, batches. Raises BundleError naming stage, set of rows, batch size,
    task and row, and the tensor if one can be told, at the first score that is off by more than `TOLERANCE`.
    """
    stages: dict[str, tuple[Run, onnx.ModelProto | None]] = {
        "torch": (torch_run(network), None),
        "onnx": (onnx_run(exported), exported),
        "simplified": (onnx_run(simplified), simplified),
    }
    report: dict[str, Any] = {stage: {} for stage in stages}
    for stage, (run, model) in stages.items():
        for name, rows in sets.items():
            try:
                report[stage][name] = check(run, rows, tasks, f"parity: {stage} on {name} rows")
            except BundleError as error:
                if model is None or error.__cause__ is not None:  # a graph that does not run has no values to compare
                    raise
                weights = {key: value.detach().numpy() for key, value in network.state_dict().items()}
                wrong = wrong_weight(model, weights)
                if model is simplified:
                    wrong = wrong or wrong_value(model, exported, rows.inputs)
                raise BundleError.of(error, cause=wrong or None) from error
    return report


def check(
    run: Run,
    rows: Reference,
    tasks: tuple[str, ...],
    where: str,
    tolerance: float = TOLERANCE,
    batches: tuple[int, ...] = BATCHES,
) -> dict[str, Any]:
    """Scores the first of `rows` in `batches`, one after the other. Returns figures of all, by task and by batch.

    Raises BundleError when a batch cannot be scored, and when a score is off or no number.
    """
    parts: list[Scores] = []
    worst, at = {}, 0
    for batch in batches:
        here, some = f"{where}, batch {batch}", slice(at, at + batch)
        try:
            scores = run(rows.inputs.rows(some))
        except Exception as error:  # what onnxruntime raises has no base of its own
            raise BundleError(f"{here}: expected scores, got: {error}") from error
        if scores.shape != (batch, len(tasks)):
            raise BundleError(f"{here}: expected shape {(batch, len(tasks))}, got {scores.shape}")
        worst[str(batch)] = within(scores, rows.scores[some], tasks, here, tolerance).max_abs
        parts.append(scores)
        at += batch
    whole = Difference.of(np.concatenate(parts), rows.scores[:at])
    return {**whole.to_json(), "tasks": dict(zip(tasks, whole.tasks, strict=True)), "batches": worst}
