"""Verification of a bundle on this machine: its bytes, and the scores of its graph, against those of the export."""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from pepnet_infer.backends.create import create_backend
from pepnet_infer.bundle.accuracy import TOLERANCE
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import Golden, normal_inputs
from pepnet_infer.verify.native import Recheck, verify_native

FRESH_SEED = 1_000_003  # added to the seed of export, so that the rows are others


def verify(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Checks every hash, weight and row, then scores: returns what was compared and the differences found.

    "golden": rows whose float64 scores `parity.json` holds, one by one and all together, through the onnxruntime
    backend. "fresh", where torch is installed, else None: new rows, standard normal and through the tables, against
    `dense.safetensors` in float64, at the batch sizes of export. "native": both for the native backend, by precision
    and instruction set of this machine (see `verify_native`). Raises BundleError when anything is off.
    """
    bundle = Bundle.open(path, check="full")
    backend = create_backend(bundle, "onnxruntime", threads=1)
    files = bundle.manifest["files"].values()
    golden = _golden(bundle)
    worst = golden.compare(backend.run, str(bundle.onnx_path), bundle.tasks, TOLERANCE, same_bits=False)
    result: dict[str, Any] = {
        "bundle": str(bundle.path),
        "model_version": bundle.model_version,
        "files": len(files),
        "bytes": sum(entry["bytes"] for entry in files),
        "tolerance": TOLERANCE,
        "backend": backend.describe(),
        "golden": {"rows": len(golden.scores), "max_abs": worst},
        "fresh": None,
    }
    recheck_native: Recheck | None = None
    if find_spec("torch") and find_spec("onnx"):
        from pepnet_infer.export.bundle.recheck import fresh_rows, recheck, recheck_table

        sets = fresh_rows(bundle, bundle.parity["seed"] + FRESH_SEED)
        result["fresh"] = recheck(bundle, backend.run, sets)
        recheck_native = partial(recheck_table, bundle, sets)
    result["native"] = verify_native(bundle, golden, recheck_native)
    return result


def _golden(bundle: Bundle) -> Golden:
    golden = bundle.parity["golden"]
    scores = np.array(golden["scores"], dtype=np.float64)
    return Golden(normal_inputs(bundle.config.inputs, len(scores), golden["seed"]), scores)
