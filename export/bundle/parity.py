"""Parity: torch, the exported graph and the simplified graph against torch in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch

from pepnet_infer.bundle.accuracy import TOLERANCE, Difference, Scores, within
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.errors import BundleError
from pepnet_infer.export.bundle.find_wrong_tensor import name_wrong_tensor
from pepnet_infer.export.bundle.onnx_session import OnnxSession
from pepnet_infer.export.bundle.process_state import one_thread
from pepnet_infer.export.bundle.to_onnx import OUTPUT
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths

#: Every graph is proved at these batch sizes: 1, the sizes around the export's own, odd ones, and a real request.
BATCHES = (1, 2, 3, 7, 64, 1000)
ROWS = sum(BATCHES)
GOLDEN_ROWS = 16

Run = Callable[[Inputs], Scores]


def float64_run(network: torch.nn.Module) -> Run:
    """Returns the reference: a copy of `network` in float64."""
    return torch_run(copy.deepcopy(network).double(), torch.float64)


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
    session = OnnxSession(model)
    return lambda inputs: session.run([OUTPUT], inputs)[0]


def measure(
    network: torch.nn.Module,
    tasks: tuple[str, ...],
    exported: onnx.ModelProto,
    simplified: onnx.ModelProto,
    sets: Mapping[str, Inputs],
) -> dict[str, Any]:
    """Compares torch, `exported` and `simplified` with float64 at every batch size; `sets` have `ROWS` rows each.

    Returns stage → set → max_abs, rms, rows, tasks, batches. Raises BundleError naming stage, set of rows, batch size,
    task and row, and the tensor if one can be told, at the first score that is off by more than `TOLERANCE`.
    """
    reference = float64_run(network)
    expected = {name: reference(inputs) for name, inputs in sets.items()}
    stages: dict[str, tuple[Run, onnx.ModelProto | None]] = {
        "torch": (torch_run(network), None),
        "onnx": (onnx_run(exported), exported),
        "simplified": (onnx_run(simplified), simplified),
    }
    report: dict[str, Any] = {}
    for stage, (run, model) in stages.items():
        report[stage] = {}
        for name, inputs in sets.items():
            where = f"parity: {stage} on {name} rows"
            scores = score(run, inputs, len(tasks), where)
            try:
                report[stage][name] = compare(scores, expected[name], tasks, where)
            except BundleError as error:
                weights = {key: value.detach().numpy() for key, value in network.state_dict().items()}
                wrong = "" if model is None else name_wrong_tensor(model, exported, weights, inputs)
                raise BundleError.of(error, cause=wrong or None) from error
    return report


def score(run: Run, inputs: Inputs, tasks: int, where: str, batches: tuple[int, ...] = BATCHES) -> list[Scores]:
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
    parts: list[Scores], expected: Scores, tasks: tuple[str, ...], where: str, tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Compares the scores of each batch with `expected` [rows, T]; returns figures of all, by task and by batch.

    Raises BundleError when a score is off, or no number.
    """
    batches, at = {}, 0
    for scores in parts:
        size = len(scores)
        found = within(scores, expected[at : at + size], tasks, f"{where}, batch {size}", tolerance)
        batches[str(size)] = found.max_abs
        at += size
    whole = Difference.of(np.concatenate(parts), expected[:at])
    return {**whole.to_json(), "tasks": dict(zip(tasks, whole.tasks, strict=True)), "batches": batches}


def golden(network: torch.nn.Module, widths: InputWidths, seed: int) -> dict[str, Any]:
    """Returns float64 scores of the first standard normal rows of `seed`, for a later check without torch."""
    scores = float64_run(network)(normal_inputs(widths, GOLDEN_ROWS, seed))
    return {"rows": "standard normal", "seed": seed, "scores": scores.tolist()}


def spread(scores: Scores) -> dict[str, float]:
    """Returns where scores lie: a small difference between scores that are all alike says nothing."""
    return {"min": float(scores.min()), "mean": float(scores.mean()), "max": float(scores.max())}
