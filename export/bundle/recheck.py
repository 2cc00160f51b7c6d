"""A bundle's graph and the native kernels against its own weights in float64, on rows that export did not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pepnet_infer.backends.native_tables import Table
from pepnet_infer.bundle.bundle import DENSE, Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.bundle.table_file import open_table
from pepnet_infer.export.bundle.native_parity import Reference, compare_table
from pepnet_infer.export.bundle.parity import ROWS, Run, compare, float64_run, score
from pepnet_infer.export.bundle.rows import random_features
from pepnet_infer.export.model.network import build_network, load_dense
from pepnet_infer.rows.assemble import Assembler
from pepnet_infer.rows.stores.mmap import MmapStore


def fresh_rows(bundle: Bundle, seed: int) -> dict[str, Reference]:
    """Returns set of rows → rows of `seed`, and their scores by the bundle's weights in float64."""
    network = build_network(bundle.config, len(bundle.tasks))
    load_dense(network, bundle.dense())
    reference = float64_run(network)
    keys = {name: open_table(path).keys for name, path in bundle.table_paths.items()}
    features = random_features(bundle.schema, keys, ROWS, seed)
    sets = {
        "normal": normal_inputs(bundle.config.inputs, ROWS, seed),
        "schema": Assembler(bundle.schema, MmapStore(bundle.table_paths)).inputs(features),
    }
    return {name: Reference(inputs, reference(inputs)) for name, inputs in sets.items()}


def recheck(bundle: Bundle, run: Run, sets: Mapping[str, Reference]) -> dict[str, Any]:
    """Returns set of rows → figures, as `parity.measure` does for a stage. Raises BundleError when a score is off."""
    report = {}
    for name, rows in sets.items():
        where = f"{bundle.onnx_path} against {DENSE}: {name} rows"
        scores = score(run, rows.inputs, len(bundle.tasks), where)
        report[name] = compare(scores, rows.scores, bundle.tasks, where)
    return report


def recheck_table(
    bundle: Bundle, sets: Mapping[str, Reference], table: Table, run: Run, tolerance: float
) -> dict[str, Any]:
    """The same for native kernels, whose scores may be off by `tolerance`."""
    return {
        name: compare_table(bundle, table, run, rows, f"{table} against {bundle.path / DENSE}: {name} rows", tolerance)
        for name, rows in sets.items()
    }
