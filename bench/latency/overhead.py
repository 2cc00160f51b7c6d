"""What a call of `Engine.score_dense` costs beside the C++ it calls: checks, counters, the way through Python.

The two are taken within one call, the time of the C++ off the time of the call around it: between calls either moves by
more than their difference. A large model pushes Python's code out of the caches while it runs; of a small bundle
nothing but the way there is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pepnet_infer import _kernels
from pepnet_infer.backends.native import NativeBackend, request_prefix, why_not
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bench.harness.interleave import Plan, wall_clock
from pepnet_infer.bench.harness.measure import Row, Say, measure
from pepnet_infer.bench.harness.workloads import batches
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.engine import Engine
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.inputs import Inputs

ROWS = (1, 64)
#: Timed calls follow each other without a pause, as many as there is time for.
PLAN = Plan(50, 3.0, warm_calls=1, warm_s=0.0, settle_s=0.0)
_ROTATING = 64  # batches of inputs that take turns


def call_overhead(bundle: Bundle, threads: int, say: Say) -> list[Row]:
    """Returns a row for each of `ROWS`, of the native backend in fp32; none where it cannot run.

    Its times are those of a call less the run of the C++ model within it.
    """
    if why_not(bundle, Settings()) is not None:
        return []
    engine, model = clocked_engine(bundle, threads)

    def beside_the_run(call: Callable[[Inputs], Any], item: Inputs) -> tuple[float, Any]:
        before = model.run_ns
        ns, output = wall_clock(call, item)
        return ns - (model.run_ns - before), output

    def score(inputs: Inputs) -> Any:
        return engine.score_dense(inputs.general, inputs.domain, inputs.prior)

    rows = []
    for size in ROWS:
        parts = batches(normal_inputs(bundle.config.inputs, _ROTATING * size, 0), size)
        figures = measure("overhead", {f"{size} rows": score}, parts, PLAN, say, clock=beside_the_run)
        rows += [{**row, "batch": size, "overhead_us": 1e3 * row["p50_ms"]} for row in figures.rows.values()]
    return rows


def clocked_engine(bundle: Bundle, threads: int) -> tuple[Engine, _kernels.DenseModel]:
    """Returns an engine for `score_dense` alone, and its model, which counts the time of its runs."""
    fields, columns = request_prefix(bundle.schema, bundle.config)
    model = _kernels.DenseModel(bundle.dense(), bundle.config.to_native(len(bundle.tasks)), prefix_general=columns)
    backend = NativeBackend(model, threads, True, fields, {"backend": "native", "device": "cpu"})
    return Engine(bundle, MmapStore({}), backend), model
