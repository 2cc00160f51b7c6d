"""Checkpoint → bundle: export, simplify, measure parity, and only then give the directory its name."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import to_builtins

from pepnet_infer.bundle.accuracy import BUDGETS, NATIVE_TOLERANCE, TOLERANCE, Budget, check_budget
from pepnet_infer.bundle.bundle import FORMAT_VERSION, MANIFEST, ONNX, PARITY, Bundle, table_path
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.bundle.golden_rows import Reference, normal_inputs
from pepnet_infer.bundle.input_domain import InputDomain
from pepnet_infer.errors import BundleError
from pepnet_infer.export.bundle.domains import bf16_domain, request_domain
from pepnet_infer.export.bundle.native_parity import draws_of, measure_native
from pepnet_infer.export.bundle.parity import BATCHES, ROWS, measure, reference
from pepnet_infer.export.bundle.rows import schema_inputs
from pepnet_infer.export.bundle.simplify import simplify
from pepnet_infer.export.bundle.to_onnx import to_onnx
from pepnet_infer.export.model.network import build_network, load_dense
from pepnet_infer.schema.inputs import Inputs
from pepnet_infer.schema.network_config import InputWidths
from pepnet_infer.storage.atomic import new_directory
from pepnet_infer.storage.document import read_document, typed, write_document
from pepnet_infer.storage.listing import describe_files
from pepnet_infer.storage.local_path import check_local
from pepnet_infer.validation import Seed, check_option

_DRAWS_SEED = 2_000_003  # added to the seed of export, so that rows are others than those of the sets
_GOLDEN_ROWS = 16  # for a later check without torch
_TOOLS = ("numpy", "onnx", "onnxruntime", "onnxscript", "onnxsim", "pepnet_infer", "torch")


def write_bundle(
    checkpoint: Checkpoint,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    table_dtype: str = "float32",
    model_version: int | None = None,
    overwrite: bool = False,
    int8_budget: Budget | None = BUDGETS["int8"],
    on_step: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Writes a bundle of `checkpoint` to `out` and returns it opened.

    `seed` draws the rows parity is measured on; `table_dtype` is float32, float16 or bfloat16. `model_version` must
    grow from bundle to bundle: by default it is the Unix time in seconds, or one more than that of the bundle that is
    overwritten, whichever is larger. `int8_budget` is what int8 may cost (max_abs of a score, delta_auc of a task) to
    be offered; None measures and offers no int8.

    The same checkpoint, arguments, tools and CPU features give the same bytes: the native kernels are measured for
    each instruction set of the machine that exports, so that another CPU gives another `parity.json`.
    Raises BundleError, and leaves nothing behind, when `out` is taken or a score is off (see `parity.measure` and
    `native_parity.measure_native`), ConfigError for a seed out of range.
    """
    check_option("seed", seed, Seed)
    budgets = {name: dict(budget) for name, budget in BUDGETS.items() if name != "int8"}
    if int8_budget is not None:
        check_budget("export", "int8", int8_budget)
        budgets["int8"] = {name: int8_budget[name] for name in BUDGETS["int8"]}
    check_local(out, "a local directory", BundleError)
    out = Path(os.path.abspath(out))
    version = next_version(out, model_version, overwrite)
    schema, config, tasks = checkpoint.schema, checkpoint.config, checkpoint.schema.tasks
    with new_directory(out, MANIFEST, overwrite) as root:
        on_step("write tables and weights")
        tables = checkpoint.write_payload(root, table_dtype)
        network = build_network(config, len(tasks))
        load_dense(network, checkpoint.dense)
        on_step("export to ONNX")
        exported = to_onnx(network, config, len(tasks))
        on_step("simplify")
        simplified = simplify(exported, config, len(tasks))
        on_step("measure parity")
        paths = {name: table_path(root, name) for name in tables}
        sets = {
            "normal": reference(network, normal_inputs(config.inputs, ROWS, seed)),
            "schema": reference(network, schema_inputs(schema, paths, ROWS, seed, checkpoint.ranges)),
        }
        figures = {"fp32": measure(network, tasks, exported, simplified, sets)}
        on_step("measure the native kernels")
        served = Bundle(root, {}, schema, config, version, {}, {})  # what the native backend reads of one
        count = draws_of(served) // 2
        asked = schema_inputs(schema, paths, count, seed + _DRAWS_SEED, checkpoint.ranges)
        requests = Inputs(*map(np.vstack, zip(sets["schema"].inputs.matrices, asked.matrices, strict=True)))
        largest = {name: info.largest for name, info in tables.items() if info.largest is not None}
        domains = {"int8": request_domain(schema, requests, sets["normal"].inputs, largest)}
        domains["bf16"] = bf16_domain(served, domains["int8"], asked, budgets["bf16"], seed + _DRAWS_SEED)
        served = replace(served, parity={"native": {p: {"domain": to_builtins(d)} for p, d in domains.items()}})
        draws = {p: reference(network, _with_edge(asked, d, seed)) for p, d in domains.items()}
        figures["native"] = measure_native(served, sets, {"fp32": draws["int8"], **draws}, budgets)
        for precision, domain in domains.items():
            if precision in budgets and precision in figures["native"]:
                figures["native"][precision]["domain"] = to_builtins(domain)
        on_step("write the bundle")
        (root / ONNX).write_bytes(simplified.SerializeToString(deterministic=True))
        write_document(root / PARITY, _parity(network, served, sets, figures, seed))
        versions: dict[str, str] = {name: import_module(name).__version__ for name in _TOOLS}
        manifest = {
            "format_version": FORMAT_VERSION,
            "model_version": version,
            "schema": schema.to_json(),
            "config": config.to_json(),
            "network": served.network.to_json(),
            "tasks": list(tasks),
            "domains": list(schema.domains),
            "schema_hash": schema.hash,
            "precisions": budgets if "fp32" in figures["native"] else {},
            "files": describe_files(root),
            "tools": {"python": platform.python_version(), **versions},
            "meta": dict(checkpoint.meta),
        }
        write_document(root / MANIFEST, manifest)
        Bundle.open(root, check="sizes")
    return Bundle.open(out, check="sizes")


def next_version(out: Path, asked: int | None, overwrite: bool) -> int:
    """Returns the version of a bundle to be written at `out`. Raises BundleError for one that does not grow."""
    before = -1
    if overwrite and (out / MANIFEST).is_file():
        before = typed(str(out / MANIFEST), read_document(out, MANIFEST), "model_version", int)
    if asked is None:
        return max(int(time.time()), before + 1)
    if asked <= before:
        raise BundleError(
            f"model_version: expected more than {before}, that of the bundle there, got {asked}", file=out
        )
    if asked < 0:
        raise BundleError(f"model_version: expected 0 or more, got {asked}")
    return asked


def _with_edge(asked: Inputs, domain: InputDomain, seed: int) -> Inputs:
    """Returns the rows that a request would give, each followed by one at the edge of the domain, as large as any."""
    widths = InputWidths(*(matrix.shape[1] for matrix in asked.matrices))
    edge = domain.edge(normal_inputs(widths, asked.num_rows, seed + _DRAWS_SEED))
    both = (np.stack(pair, axis=1) for pair in zip(asked.matrices, edge.matrices, strict=True))
    # The rows are counted, for an input may have no columns.
    return Inputs(*(rows.reshape(rows.shape[0] * 2, rows.shape[2]) for rows in both))


def _parity(
    network: torch.nn.Module, served: Bundle, sets: dict[str, Reference], figures: dict[str, Any], seed: int
) -> dict[str, Any]:
    golden = reference(network, normal_inputs(served.config.inputs, _GOLDEN_ROWS, seed))
    return {
        "reference": "torch float64",
        "tolerance": TOLERANCE,
        "native_tolerance": NATIVE_TOLERANCE,
        "seed": seed,
        "batches": list(BATCHES),
        "rows": {
            "normal": "standard normal inputs",
            "schema": "known, unknown and missing ids, bags and dense values, looked up in the bundle's tables",
            "draws": "more of schema's, and as many at the edge of the precision's domain",
            "auc": "draws, their scores in float64 being the probability of a positive",
        },
        # A small difference between scores that are all alike says nothing.
        "scores": {
            name: {how: float(getattr(rows.scores, how)()) for how in ("min", "mean", "max")}
            for name, rows in sets.items()
        },
        **figures,
        "config": served.config.to_json(),
        "network": served.network.to_json(),
        "golden": {"rows": "standard normal", "seed": seed, "scores": golden.scores.tolist()},
    }
