"""Whether a bundle on this machine still is what export measured: its bytes, and the scores its graph gives here."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer import backends
from pepnet_infer.assemble import Inputs
from pepnet_infer.bundle import PARITY, Bundle
from pepnet_infer.errors import BundleError
from pepnet_infer.golden import TOLERANCE, normal_inputs
from pepnet_infer.listing import typed

FRESH_SEED = 1_000_003  # added to the seed of export, so that the rows are others


def verify(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Checks every hash, weight and row, then scores: returns what was compared and the differences found.

    "golden": rows whose float64 scores `parity.json` holds, one by one and all together, through the onnxruntime
    backend. "fresh", where torch is installed, else None: new rows, standard normal and through the tables, against
    `dense.safetensors` in float64, at the batch sizes of export. Raises BundleError when anything is off.
    """
    bundle = Bundle.open(path, check="full")
    backend = backends.create(bundle, "onnxruntime", threads=1)
    files = bundle.manifest["files"].values()
    result: dict[str, Any] = {
        "bundle": str(bundle.path),
        "model_version": bundle.model_version,
        "files": len(files),
        "bytes": sum(entry["bytes"] for entry in files),
        "tolerance": TOLERANCE,
        "backend": backend.describe(),
        "golden": _golden(bundle, backend),
        "fresh": None,
    }
    if find_spec("torch") and find_spec("onnx"):
        from pepnet_infer.export.recheck import recheck

        result["fresh"] = recheck(bundle, backend.run, bundle.parity.get("seed", 0) + FRESH_SEED)
    return result


def _golden(bundle: Bundle, backend: backends.Backend) -> dict[str, Any]:
    where = str(bundle.path / PARITY)
    golden = typed(where, bundle.parity, "golden", dict)
    seed = typed(f"{where}: golden", golden, "seed", int)
    expected = _matrix(where, typed(f"{where}: golden", golden, "scores", list), len(bundle.tasks))
    inputs = normal_inputs(bundle.config.inputs, len(expected), seed)
    one_by_one = [backend.run(_rows(inputs, slice(row, row + 1))) for row in range(len(expected))]
    worst = 0.0
    for how, scores in (("one by one", np.concatenate(one_by_one)), ("in one batch", backend.run(inputs))):
        off = np.abs(scores.astype(np.float64) - expected)
        if not (off <= TOLERANCE).all():
            row, task = np.argwhere(~(off <= TOLERANCE))[0]
            raise BundleError(
                f"{bundle.onnx_path}: golden rows {how}: task {bundle.tasks[task]!r}: expected "
                f"{expected[row, task]:.9g} within {TOLERANCE:g}, got {scores[row, task]:.9g} at row {row}"
            )
        worst = max(worst, float(off.max()))
    return {"rows": len(expected), "max_abs": worst}


def _matrix(where: str, rows: list[Any], tasks: int) -> npt.NDArray[np.float64]:
    try:
        matrix = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{where}: golden.scores: expected rows of {tasks} numbers, got: {error}") from error
    if matrix.ndim != 2 or matrix.shape[1] != tasks or not len(matrix):
        raise BundleError(f"{where}: golden.scores: expected rows of {tasks} numbers, got shape {list(matrix.shape)}")
    return matrix


def _rows(inputs: Inputs, rows: slice) -> Inputs:
    return Inputs(inputs.general[rows], inputs.domain[rows], inputs.prior[rows])
