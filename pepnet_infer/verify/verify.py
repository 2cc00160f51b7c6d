"""Verification of a bundle on this machine: its bytes, and the scores of its graph and of the native kernels."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.create import create_backend
from pepnet_infer.backends.native import Table, tables, why_not
from pepnet_infer.backends.protocol import PRECISIONS, Settings
from pepnet_infer.bundle.accuracy import NATIVE_TOLERANCE, TOLERANCE
from pepnet_infer.bundle.bundle import DENSE, MANIFEST, Bundle
from pepnet_infer.bundle.golden_rows import Reference, Run, normal_inputs
from pepnet_infer.network.interpret import interpret
from pepnet_infer.network.network import Network
from pepnet_infer.schema.inputs import Inputs, Matrix

FRESH_SEED = 1_000_003  # added to the seed of export, so that the rows are others
#: What a precision that is over its budget may be off by, in multiples of the largest difference export saw: on the
#: same rows with another instruction set, and on other rows.
_OTHER_ISA, _OTHER_ROWS = 1.5, 3.0

Recheck = Callable[[Table, Run, str, float], dict[str, Any]]


def verify(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Checks every hash, weight and row, then scores: returns what was compared and the differences found.

    "golden": rows whose float64 scores `parity.json` holds, one by one and all together, through the onnxruntime
    backend, and the manifest's network and config in float64. "fresh", where torch is installed, else None: new rows,
    standard normal and through the tables, against `dense.safetensors` in float64, at the batch sizes of export.
    "native": both for the native backend, by precision and instruction set of this machine (see `verify_native`).
    Raises BundleError when anything is off.
    """
    bundle = Bundle.open(path, check="full")
    backend = create_backend(bundle, "onnxruntime", threads=1)
    files = bundle.manifest["files"].values()
    said = bundle.parity["golden"]
    scores = np.array(said["scores"], dtype=np.float64)
    golden = Reference(normal_inputs(bundle.config.inputs, len(scores), said["seed"]), scores)
    worst = golden.compare(backend.run, str(bundle.onnx_path), bundle.tasks, TOLERANCE, same_bits=False)
    fresh, recheck_native = None, None
    if find_spec("torch") and find_spec("onnx"):
        from pepnet_infer.export.bundle.native_parity import fresh_rows, recheck

        sets = fresh_rows(bundle, bundle.parity["seed"] + FRESH_SEED)
        fresh = recheck(bundle, sets, None, backend.run, f"{bundle.onnx_path} against {DENSE}")
        recheck_native = partial(recheck, bundle, sets)
    _verify_network(bundle, golden)
    return {
        "bundle": str(bundle.path),
        "model_version": bundle.model_version,
        "files": len(files),
        "bytes": sum(entry["bytes"] for entry in files),
        "tolerance": TOLERANCE,
        "backend": backend.describe(),
        "golden": {"rows": len(scores), "max_abs": worst},
        "fresh": fresh,
        "native": verify_native(bundle, golden, recheck_native),
    }


def _in_float64(network: Network, dense: Mapping[str, npt.NDArray[np.float32]], inputs: Inputs) -> Matrix:
    return interpret(network, dense, inputs).astype(np.float32)


def _verify_network(bundle: Bundle, golden: Reference) -> None:
    """Checks in float64 that the manifest's network and its config compute what export did, from the same weights."""
    dense, derived = bundle.dense(), Network.derived(bundle.config, len(bundle.tasks))
    for what, network in (("network", bundle.network), ("config", derived)):
        golden.compare(
            partial(_in_float64, network, dense),
            f"{bundle.path / MANIFEST}: {what} with {DENSE} in float64",
            bundle.tasks,
            NATIVE_TOLERANCE,
            same_bits=False,
        )


def verify_native(bundle: Bundle, golden: Reference, recheck: Recheck | None) -> dict[str, Any]:
    """Returns precision → instruction set → allowed {golden, fresh}, golden {rows, max_abs}, fresh.

    `fresh` is what `recheck` returns, null without one; of `allowed`, null is any number.
    An instruction set this machine lacks, and a precision the bundle does not offer, have only `why`; so has a model
    that the kernels cannot run. Raises BundleError when a score is off by more than is allowed, or two ways to split a
    batch give different bits.
    """
    refused = why_not(bundle, Settings())
    if refused is not None:
        return {"why": refused}
    report: dict[str, Any] = {}
    for precision in PRECISIONS["native"]:
        entry = bundle.native.get(precision)
        if precision == "int8" and (entry is None or not entry["offered"]):
            why = "export did not measure it" if entry is None else f"not offered: {entry['why']}"
            report[precision] = {"why": f"not measured: {why}"}
            continue
        most = allowed(bundle, precision)
        report[precision] = {
            table.isa: _table(bundle, table, golden, recheck, most) if table.usable else table.not_measured()
            for table in tables(precision)
        }
    return report


def allowed(bundle: Bundle, precision: str) -> tuple[float, float]:
    """Returns the most that a score may be off on golden and on fresh rows; infinity: differences are reported only.

    The contract's bound for fp32, else what the manifest's budget and the export's figures allow. Golden rows are some
    of those that export measured: they are held to the budget that export kept. Fresh rows are others, and among as
    many others the largest difference may well be twice as large with nothing wrong.
    """
    if precision == "fp32":
        return NATIVE_TOLERANCE, NATIVE_TOLERANCE
    measured: float | None = bundle.native.get(precision, {}).get("max_abs")
    if measured is None:
        return math.inf, math.inf
    budget = bundle.budgets.get(precision, {}).get("max_abs", 0.0)
    golden = budget if measured <= budget else _OTHER_ISA * measured
    return golden, max(budget, _OTHER_ROWS * measured)


def _table(
    bundle: Bundle, table: Table, golden: Reference, recheck: Recheck | None, most: tuple[float, float]
) -> dict[str, Any]:
    run = table.load(bundle)
    where = f"{table} against {bundle.path / DENSE}"
    worst = golden.compare(run, where, bundle.tasks, most[0], same_bits=True)
    limits = (None if math.isinf(limit) else limit for limit in most)
    return {
        "allowed": dict(zip(("golden", "fresh"), limits, strict=True)),
        "golden": {"rows": len(golden.scores), "max_abs": worst},
        "fresh": None if recheck is None else recheck(table, run, where, most[1]),
    }
