"""What a call of `Engine.score_dense` costs beside the C++ it calls: checks, counters, the way through Python.

The two are taken within one call, the time of the C++ off the time of the call around it: between calls either moves by
more than their difference. A large model pushes Python's code out of the caches while it runs; of a small bundle
nothing but the way there is left.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer.backends.native import NativeBackend, model_flags, request_prefix, why_not
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bench.harness.interleave import settle
from pepnet_infer.bench.harness.measure import Say
from pepnet_infer.bench.harness.statistics import median_interval
from pepnet_infer.bench.harness.workloads import batches, dense_rows
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.rows.stores.mmap import MmapStore

Floats = npt.NDArray[np.float32]
ROWS = (1, 64)
#: Timed calls of each case, and the longest time for them.
CALLS, SECONDS = 2000, 3.0
_FEWEST = 50
_ROTATING = 64  # batches of inputs that take turns


def call_overhead(bundle: Bundle, threads: int, say: Say) -> list[dict[str, Any]]:
    """Returns an entry for each of `ROWS`, in microseconds, of the native backend in fp32; none where it cannot run.

    overhead_us: the median of a call less its run, low and high its 95 % interval, p99_us; score_dense_us, run_us:
    medians of the two.
    """
    if why_not(bundle, Settings()) is not None:
        return []
    say("overhead of a call")
    engine, model = clocked_engine(bundle, bundle.dense(), threads)
    return [{"rows": rows, **_measure(engine, model, rows)} for rows in ROWS]


def clocked_engine(bundle: Bundle, dense: Mapping[str, Floats], threads: int) -> tuple[Engine, _kernels.DenseModel]:
    """Returns an engine for `score_dense` alone, and its model."""
    fields, columns = request_prefix(bundle.schema, bundle.config)
    model = _kernels.DenseModel(dense, model_flags(bundle.config, len(bundle.tasks)), prefix_general=columns)
    backend = NativeBackend(model, threads, True, fields, {"backend": "native", "device": "cpu"})
    return Engine(bundle, MmapStore({}), backend), model


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
