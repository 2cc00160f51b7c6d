"""Whole requests: ids in, scores out, beside the dense part alone; what encoding and lookups add to the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.bench.latency import Plan, interleave
from pepnet_infer.bench.machine import BusyMeter
from pepnet_infer.bench.summary import describe_times
from pepnet_infer.bench.workloads import Request, Traffic, as_request, dense_rows
from pepnet_infer.engine import Engine

if TYPE_CHECKING:
    from pepnet_infer.assemble import Inputs
    from pepnet_infer.bench.workloads import Column
    from pepnet_infer.bundle import Bundle

Values = npt.NDArray[np.float32]
STAGES = ("encode", "lookup", "dense")

#: What one round scores: the same number of rows as a batch of columns, as one user's request, and as plain inputs.
Case = tuple[dict[str, "Column"], Request, "Inputs"]


def end_to_end(
    bundle: Bundle,
    batch_sizes: Sequence[int],
    threads: int,
    plan: Plan,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """Measures `score`, `rank` and `score_dense` of the engine, interleaved.

    Returns one row per call and batch size, and by batch size the share of the CPUs that others used. Stage times are
    means over all calls, warm ones included, from the engine's own counters.
    """
    rows: list[dict[str, Any]] = []
    busy: dict[int, float] = {}
    with Engine.load(bundle.path, threads=threads, check="sizes") as engine:
        traffic = Traffic(bundle, seed)
        for size in batch_sizes:
            say(f"end to end, batch {size}: drawing requests")
            cases = [_case(bundle, traffic, size, seed + i) for i in range(max(16, min(256, 65536 // size)))]
            meter = BusyMeter()
            rows += _measure(engine, cases, size, plan, say)
            busy[size] = meter.others()
    return rows, busy


def _case(bundle: Bundle, traffic: Traffic, size: int, seed: int) -> Case:
    columns = traffic.columns(size)
    return columns, as_request(bundle, columns), dense_rows(bundle.config.inputs, size, seed)


def _measure(
    engine: Engine, cases: Sequence[Case], size: int, plan: Plan, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    def rank(case: Case) -> Values:
        request = case[1]
        return engine.rank(request.user, request.items, request.domain, request.context).values

    calls: dict[str, Callable[[Case], Values]] = {
        "score": lambda case: engine.score(case[0]).values,
        "rank": rank,
        "score_dense": lambda case: engine.score_dense(case[2].general, case[2].domain, case[2].prior),
    }
    for call in calls.values():
        call(cases[-1])  # what is done at the first call only is no part of any figure
    spent = {name: dict.fromkeys(STAGES, 0) for name in calls}
    counted = dict.fromkeys(calls, 0)
    unknown = dict.fromkeys(calls, 0)
    last = engine.stats()

    def check(name: str, _: int, scores: Values) -> None:
        """Books what the engine's counters gained in this turn to the call whose turn it was."""
        nonlocal last
        if len(scores) != size:
            raise ValueError(f"expected {size} rows of scores, got {len(scores)}")
        now = engine.stats()
        for stage in STAGES:
            spent[name][stage] += now["time_us"][stage] - last["time_us"][stage]
        unknown[name] += sum(now["unknown"]["tables"].values()) - sum(last["unknown"]["tables"].values())
        counted[name] += now["batches"] - last["batches"]
        last = now

    measured = interleave(
        calls, cases, plan, check=check, on_round=lambda r: say(f"end to end, batch {size}: measuring; round {r + 1}")
    )
    for name, why in measured.failed.items():
        raise RuntimeError(f"end to end: {name} failed at batch {size}: {why}")
    return [
        {
            "call": name,
            "batch": size,
            **describe_times(timings.millis),
            "stages_ms": {stage: spent[name][stage] / 1e3 / counted[name] for stage in STAGES},
            "unknown_ids_a_row": unknown[name] / (counted[name] * size),
        }
        for name, timings in measured.timings.items()
    ]
