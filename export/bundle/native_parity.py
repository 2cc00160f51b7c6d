"""Measures the native kernels against float64, for every instruction set of this machine and every precision.

So does `verify`, the bundle's graph too, on rows that export did not see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pepnet_infer.backends.native import Table, tables, why_not
from pepnet_infer.backends.protocol import PRECISIONS, Settings
from pepnet_infer.bundle.accuracy import MARGIN, NATIVE_TOLERANCE, TOLERANCE, Budget, Difference, delta_auc, excess
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import Reference, normal_inputs
from pepnet_infer.errors import BundleError
from pepnet_infer.export.bundle.parity import BATCHES, ROWS, Run, check, reference
from pepnet_infer.export.bundle.rows import schema_inputs
from pepnet_infer.export.model.network import build_network, load_dense
from pepnet_infer.network.cost import multiply_adds

#: Rows that are drawn. Of 1,000 rows the worst of the demo's model is off by .011 to .019, depending on the seed, of
#: 20,000 by .017 to .030, and of as many at the domain's edge by .031 to .051: each far from an allowed 0.1.
DRAWS = 20_000
# Multiply-adds one table may spend on the rows that are drawn, and on the batches of one set of rows. Without
# vector instructions a model as large as preset kuaishou does some hundred rows a second.
_WORK, _SCALAR_WORK = 25_000_000_000, 2_000_000_000
_SLOW = "scalar"


def draws_of(bundle: Bundle) -> int:
    """Returns how many rows `measure_native` has the time to draw: an even number, fewer for a large model."""
    return min(DRAWS, _WORK // _cost(bundle)) // 2 * 2 if why_not(bundle, Settings()) is None else 0


def measure_native(
    bundle: Bundle, sets: Mapping[str, Reference], draws: Mapping[str, Reference], budgets: Mapping[str, Budget]
) -> dict[str, Any]:
    """Returns `native` of parity.json: precision → offered, why, the worst figures, and all of them by instruction set.

    `sets` have `parity.ROWS` rows each and are scored in the batches of `parity.BATCHES` (without the last where that
    would take long). `draws` are many rows for each precision, one as the schema gives it and one at the edge of the
    precision's domain in turn: AUC is measured on them, and bf16 and int8 have to keep their budgets on them as well,
    for among few rows the largest difference is a matter of luck. Both run with the domain that `bundle` says; int8's
    `max_abs` is `MARGIN` times the worst that was seen. fp32 is held to `NATIVE_TOLERANCE`: raises BundleError
    naming instruction set, rows, batch, task and row. bf16 is always offered, int8 only when every table is within its
    budget; one without a budget is not measured. A model the kernels cannot run has only `why`.
    """
    refused = why_not(bundle, Settings())
    if refused is not None:
        return {"why": refused}
    report: dict[str, Any] = {}
    for precision in PRECISIONS["native"]:
        budget = {} if precision == "fp32" else budgets.get(precision)
        if budget is None:
            report[precision] = {"offered": False, "why": "switched off at export, not measured", "isas": {}}
        else:
            report[precision] = _measure_precision(bundle, precision, sets, draws[precision], budget)
    return report


def _measure_precision(
    bundle: Bundle, precision: str, sets: Mapping[str, Reference], draws: Reference, budget: Budget
) -> dict[str, Any]:
    isas: dict[str, Any] = {}
    over: list[str] = []
    worst: dict[str, float | None] = {"max_abs": None, "rms": None, "delta_auc": None}
    for table in tables(precision):
        if not table.usable:
            isas[table.isa] = table.not_measured()
            continue
        entry = _measure_table(bundle, table, sets, draws)
        isas[table.isa] = entry
        # The worst over all sets of rows, the many draws included, and over tasks.
        measured = [entry[name] for name in (*sets, "draws") if name in entry]
        lost = [abs(delta) for delta in entry["auc"]["delta"].values() if delta is not None]
        figures: dict[str, float | None] = {
            "max_abs": max(one["max_abs"] for one in measured) * (MARGIN if precision == "int8" else 1.0),
            "rms": max(one["rms"] for one in measured),
            "delta_auc": max(lost, default=None),
        }
        over += [f"{table.isa}: {what}" for what in excess(budget, figures)]
        for name, value in figures.items():
            worst[name] = value if worst[name] is None else max(worst[name] or 0.0, value or 0.0)
    offered = precision != "int8" or not over
    return {"offered": offered, "why": _why(precision, over, budget), **worst, "isas": isas}


def _measure_table(bundle: Bundle, table: Table, sets: Mapping[str, Reference], draws: Reference) -> dict[str, Any]:
    run = table.load(bundle)
    entry: dict[str, Any] = {"how": table.how}
    # Precisions with a budget are measured against it; what is not a number is wrong in each of them.
    tolerance = NATIVE_TOLERANCE if table.precision == "fp32" else math.inf
    for name, rows in sets.items():
        where = f"parity: {table} on {name} rows"
        entry[name] = check(run, rows, bundle.tasks, where, tolerance, batches_of(bundle, table))
    if table.isa == _SLOW:
        draws = draws.first(max(_SCALAR_WORK // _cost(bundle), sum(BATCHES[:-1])))
    scores = run(draws.inputs)
    if not np.isfinite(scores).all():
        raise BundleError(f"parity: {table} on draws: expected finite scores, got NaN or infinity")
    if table.precision != "fp32":
        entry["draws"] = Difference.of(scores, draws.scores).to_json()
    entry["auc"] = {"rows": len(scores), "delta": delta_auc(scores, draws.scores, bundle.tasks)}
    return entry


def batches_of(bundle: Bundle, table: Table) -> tuple[int, ...]:
    """Returns the batches that `table` has the speed to score one set of rows in."""
    slow = table.isa == _SLOW and _cost(bundle) * sum(BATCHES) > _SCALAR_WORK
    return BATCHES[:-1] if slow else BATCHES


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


def _why(precision: str, over: list[str], budget: Budget) -> str:
    if precision == "fp32":
        return f"within {NATIVE_TOLERANCE:g} of float64 on every instruction set measured"
    limits = ", ".join(f"{name} {most:g}" for name, most in budget.items())
    if not over:
        return f"within its budget ({limits}) on every instruction set measured"
    return f"{'over its budget' if precision == 'int8' else 'always offered, but over its budget'}: {'; '.join(over)}"


def _cost(bundle: Bundle) -> int:
    return multiply_adds(bundle.network)
