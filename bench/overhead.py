"""What a call of `Engine.score_dense` costs beside the C++ it calls: checks, counters, the way through Python.

The two are taken within one call, the time of the C++ off the time of the call around it: between calls either moves by
more than their difference. Two models: the bundle's, whose weights push everything else out of the caches, and one so
small that nothing but the way there is left.
"""

from __future__ import annotations

import gc
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.backends.native import NativeBackend, model_flags, request_prefix, why_not
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bench.latency import settle
from pepnet_infer.bench.workloads import batches, dense_rows
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.export.model.random_init import random_dense
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.network_config import InputWidths, ModelConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Floats = npt.NDArray[np.float32]
ROWS = (1, 64)
#: Timed calls of each case, and the longest time for them.
CALLS, SECONDS = 2000, 3.0
_FEWEST = 50
_ROTATING = 64  # batches of inputs that take turns


def call_overhead(bundle: Bundle, name: str, threads: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Returns an entry per model and number of rows, in microseconds, of the native backend in fp32.

    overhead_us: the median of a call less its run, low and high its 95 % interval, p99_us; score_dense_us, run_us:
    medians of the two. A bundle that the native backend does not run has none of its own.
    """
    models = [(tiny_bundle(), tiny_dense(), "tiny")]
    if why_not(bundle, Settings()) is None:
        models.insert(0, (bundle, bundle.dense(), name))
    entries = []
    for model_bundle, dense, label in models:
        engine, model = clocked_engine(model_bundle, dense, threads)
        for rows in ROWS:
            say(f"overhead of a call: {label}, {rows} rows")
            entries.append({"model": label, "rows": rows, **_measure(engine, model, rows)})
    return entries


def clocked_engine(bundle: Bundle, dense: Mapping[str, Floats], threads: int) -> tuple[Engine, _kernels.DenseModel]:
    """Returns an engine for `score_dense` alone, and its model."""
    fields, columns = request_prefix(bundle.schema, bundle.config)
    model = _kernels.DenseModel(dense, model_flags(bundle.config, len(bundle.tasks)), prefix_general=columns)
    backend = NativeBackend(model, threads, True, fields, {"backend": "native", "device": "cpu"})
    return Engine(bundle, MmapStore({}), backend), model


def tiny_bundle() -> Bundle:
    """Returns a bundle of which only the schema and the config are there: all that `score_dense` reads of one."""
    schema = FeatureSchema.from_json(
        {
            "name": "tiny",
            "tables": {"user": {"dim": 4}, "item": {"dim": 4}, "page": {"dim": 2}},
            "fields": [
                {"name": "user", "kind": "id", "side": "user", "table": "user", "inputs": ["general", "prior"]},
                {"name": "item", "kind": "id", "side": "item", "table": "item", "inputs": ["general", "prior"]},
                {"name": "page", "kind": "id", "side": "domain", "table": "page", "inputs": ["domain"]},
            ],
            "domain": {"column": "page", "values": [0, 1]},
            "tasks": {"click": "is_click", "like": "is_like"},
        }
    )
    config = ModelConfig(InputWidths(**schema.widths), layers=(16,), towers=(), experts=2)
    return Bundle(Path(), {}, schema, config, 0, {}, {})


def tiny_dense() -> dict[str, Floats]:
    """Returns weights for `tiny_bundle`."""
    bundle = tiny_bundle()
    return random_dense(bundle.config, len(bundle.tasks), 0)


def _measure(engine: Engine, model: _kernels.DenseModel, rows: int) -> dict[str, Any]:
    parts = batches(dense_rows(engine.bundle.config.inputs, _ROTATING * rows, 0), rows)
    calls: list[int] = []
    runs: list[int] = []
    settle(0.5)
    for part in parts:  # until the pool is awake and all there is to allocate is allocated
        engine.score_dense(part.general, part.domain, part.prior)
    was, deadline = gc.isenabled(), time.perf_counter() + SECONDS
    gc.disable()
    try:
        while len(calls) < _FEWEST or (len(calls) < CALLS and time.perf_counter() < deadline):
            part = parts[len(calls) % len(parts)]
            before, begin = model.run_ns, time.perf_counter_ns()
            engine.score_dense(part.general, part.domain, part.prior)
            calls.append(time.perf_counter_ns() - begin)
            runs.append(model.run_ns - before)
    finally:
        if was:
            gc.enable()
    whole, inside = np.array(calls) / 1e3, np.array(runs) / 1e3
    low, high = median_interval(whole - inside)
    return {
        "calls": len(calls),
        "overhead_us": float(np.median(whole - inside)),
        "low": low,
        "high": high,
        "p99_us": float(np.percentile(whole - inside, 99)),
        "score_dense_us": float(np.median(whole)),
        "run_us": float(np.median(inside)),
    }


def median_interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Returns the two values between which the median lies with 95 % confidence: order statistics, n/2 ∓ 0.98·√n.

    The normal approximation of the binomial; Conover, "Practical Nonparametric Statistics".
    """
    ordered, n = np.sort(values), values.size
    reach = 0.98 * math.sqrt(n)
    low, high = math.floor(n / 2 - reach), math.ceil(n / 2 + reach)
    return float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)])
