"""What a call of `Engine.score_dense` costs beside the C++ it calls: checks, counters, the way through Python.

The two are taken within one call, the time of the C++ off the time of the call around it: between calls either moves by
more than their difference. A large model pushes Python's code out of the caches while it runs; of a small bundle
nothing but the way there is left.
"""

from __future__ import annotations

import time

import numpy as np

from pepnet_infer import _kernels
from pepnet_infer.backends.native import NativeBackend, why_not
from pepnet_infer.backends.protocol import Settings
from pepnet_infer.bench.harness.interleave import collector_off, settle
from pepnet_infer.bench.harness.measure import Row, Say
from pepnet_infer.bench.harness.statistics import describe_times
from pepnet_infer.bench.harness.workloads import batches
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.bundle.golden_rows import normal_inputs
from pepnet_infer.engine import Engine
from pepnet_infer.rows.stores.mmap import MmapStore

ROWS = (1, 64)
#: Timed calls of each size, which follow each other without a pause, and the longest time for them.
CALLS, SECONDS = 2000, 3.0
_FEWEST = 50
_ROTATING = 64  # batches of inputs that take turns


def call_overhead(bundle: Bundle, threads: int, say: Say) -> list[Row]:
    """Returns a row for each of `ROWS`, of the native backend in fp32; none where it cannot run.

    Its times are those of a call less the run of the C++ model within it; low and high: the median's 95 % interval.
    """
    if why_not(bundle, Settings()) is not None:
        return []
    say("overhead of a call")
    engine, model = clocked_engine(bundle, threads)
    found = []
    for size in ROWS:
        parts = batches(normal_inputs(bundle.config.inputs, _ROTATING * size, 0), size)
        beside: list[float] = []
        settle(0.5)
        for part in parts:  # until the pool is awake and all there is to allocate is allocated
            engine.score_dense(part.general, part.domain, part.prior)
        deadline = time.perf_counter() + SECONDS
        with collector_off():
            while len(beside) < _FEWEST or (len(beside) < CALLS and time.perf_counter() < deadline):
                part = parts[len(beside) % len(parts)]
                run, begin = model.run_ns, time.perf_counter_ns()
                engine.score_dense(part.general, part.domain, part.prior)
                took = time.perf_counter_ns() - begin
                beside.append((took - (model.run_ns - run)) / 1e6)
        found.append({"name": f"{size} rows", "batch": size, **describe_times(np.array(beside))})
    return found


def clocked_engine(bundle: Bundle, threads: int) -> tuple[Engine, _kernels.DenseModel]:
    """Returns an engine for `score_dense` alone, and its model, which counts the time of its runs."""
    backend = NativeBackend(bundle, Settings(threads=threads))
    return Engine(bundle, MmapStore({}), backend), backend.model
