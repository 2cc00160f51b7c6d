"""A bundle's graph and the native kernels against its own weights in float64, on rows that export did not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pepnet_infer.backends.native_tables import Table
from pepnet_infer.bundle.accuracy import TOLERANCE
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import Reference, normal_inputs
from pepnet_infer.export.bundle.native_parity import batches_of
from pepnet_infer.export.bundle.parity import BATCHES, ROWS, Run, check, reference
from pepnet_infer.export.bundle.rows import schema_inputs
from pepnet_infer.export.model.network import build_network, load_dense


def fresh_rows(bundle: Bundle, seed: int) -> dict[str, Reference]:
    """Returns set of rows → rows of `seed`, and their scores by the bundle's weights in float64."""
    network = build_network(bundle.config, len(bundle.tasks))
    load_dense(network, bundle.dense())
    sets = {
        "normal": normal_inputs(bundle.config.inputs, ROWS, seed),
        "schema": schema_inputs(bundle.schema, bundle.table_paths, ROWS, seed),
    }
    return {name: reference(network, inputs) for name, inputs in sets.items()}


def recheck(
    bundle: Bundle,
    sets: Mapping[str, Reference],
    table: Table | None,
    run: Run,
    where: str,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Returns set of rows → figures of `run`, the kernels of `table` or the graph; see `parity.check`."""
    batches = BATCHES if table is None else batches_of(bundle, table)
    tasks = bundle.tasks
    return {name: check(run, rows, tasks, f"{where}: {name} rows", tolerance, batches) for name, rows in sets.items()}
