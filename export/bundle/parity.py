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
            where = f"parity: {stage} on {name} rows"
            scores = score(run, rows.inputs, len(tasks), where, BATCHES)
            try:
                report[stage][name] = compare(scores, rows, tasks, where, TOLERANCE)
            except BundleError as error:
                if model is None:
                    raise
                weights = {key: value.detach().numpy() for key, value in network.state_dict().items()}
                wrong = wrong_weight(model, weights) or wrong_value(model, exported, rows.inputs)
                raise BundleError.of(error, cause=wrong or None) from error
    return report


def score(run: Run, inputs: Inputs, tasks: int, where: str, batches: tuple[int, ...]) -> list[Scores]:
    """Scores the first rows of `inputs` in `batches`, one after the other. Raises BundleError when one fails."""
    parts, at = [], 0
    for batch in batches:
        try:
            scores = run(inputs.rows(slice(at, at + batch)))
        except Exception as error:  # what onnxruntime raises has no base of its own
            raise BundleError(f"{where}, batch {batch}: expected scores, got: {error}") from error
        if scores.shape != (batch, tasks):
            raise BundleError(f"{where}, batch {batch}: expected shape {(batch, tasks)}, got {scores.shape}")
        parts.append(scores)
        at += batch
    return parts


def compare(
    parts: list[Scores], rows: Reference, tasks: tuple[str, ...], where: str, tolerance: float
) -> dict[str, Any]:
    """Compares the scores of each batch with those of `rows`; returns figures of all, by task and by batch.

    Raises BundleError when a score is off, or no number.
    """
    batches, at = {}, 0
    for scores in parts:
        size = len(scores)
        found = within(scores, rows.scores[at : at + size], tasks, f"{where}, batch {size}", tolerance)
        batches[str(size)] = found.max_abs
        at += size
    whole = Difference.of(np.concatenate(parts), rows.scores[:at])
    return {**whole.to_json(), "tasks": dict(zip(tasks, whole.tasks, strict=True)), "batches": batches}


def check(
    run: Run,
    rows: Reference,
    tasks: tuple[str, ...],
    where: str,
    tolerance: float = TOLERANCE,
    batches: tuple[int, ...] = BATCHES,
) -> dict[str, Any]:
    """Scores the first of `rows` in `batches` and compares them: see `score` and `compare`."""
    return compare(score(run, rows.inputs, len(tasks), where, batches), rows, tasks, where, tolerance)
