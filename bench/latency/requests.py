"""Whole requests: ids in, scores out, beside the dense part alone; what encoding and lookups add to the network, and
what a request saves by sharing its user's side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.protocol import PRECISIONS
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.bench.harness.measure import Figures, Say, measure
from pepnet_infer.bench.harness.workloads import Request, Traffic, as_request, as_rows, dense_rows
from pepnet_infer.bench.latency.peers import load_engine
from pepnet_infer.engine import Engine
from pepnet_infer.stats import EngineStats

if TYPE_CHECKING:
    from pepnet_infer.bench.harness.workloads import Column
    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs

Values = npt.NDArray[np.float32]
STAGES = ("encode", "lookup", "dense")
#: Candidates of the request that `rank` and `score` are both given.
CANDIDATES = 1000


@dataclass(frozen=True)
class Case:
    """What one round scores: as many rows as a batch of columns, as one user's request, and as dense inputs."""

    columns: dict[str, Column]
    request: Request
    inputs: Inputs | None = None


def _score(engine: Engine, case: Case) -> Values:
    return engine.score(case.columns).values


def _rank(engine: Engine, case: Case) -> Values:
    request = case.request
    return engine.rank(request.user, request.items, request.domain, request.context).values


def _score_dense(engine: Engine, case: Case) -> Values:
    assert case.inputs is not None
    return engine.score_dense(case.inputs.general, case.inputs.domain, case.inputs.prior)


#: A call by name.
CALLS: dict[str, Callable[[Engine, Case], Values]] = {"score": _score, "rank": _rank, "score_dense": _score_dense}


def end_to_end(bundle: Bundle, size: int, threads: int, plan: Plan, seed: int, say: Say = lambda _: None) -> Figures:
    """Measures `score`, `rank` and `score_dense` of the engine as `Engine.load` gives it, at one batch size."""
    with Engine.load(bundle.path, threads=threads, check="sizes") as engine:
        say(f"end to end, batch {size}: drawing requests")
        traffic, widths = Traffic(bundle, seed), bundle.config.inputs
        drawn = [traffic.columns(size) for _ in range(max(16, min(256, 65536 // size)))]
        cases = [Case(c, as_request(bundle, c), dense_rows(widths, size, seed + i)) for i, c in enumerate(drawn)]
        return _measure(f"end to end, batch {size}", dict.fromkeys(CALLS, engine), cases, size, plan, say)


def one_request(bundle: Bundle, threads: int, plan: Plan, seed: int, say: Say = lambda _: None) -> Figures:
    """Measures one user's request of `CANDIDATES` rows, as `rank` and as `score` of the same rows.

    Both in every floating point precision of the backend that "auto" takes.
    """
    with Engine.load(bundle.path, threads=threads, check="sizes") as engine:
        backend = str(engine.stats()["backend"]["backend"])
    traffic = Traffic(bundle, seed)
    requests = [as_request(bundle, traffic.columns(CANDIDATES)) for _ in range(16)]
    cases = [Case(as_rows(bundle, request, CANDIDATES), request) for request in requests]
    engines: dict[str, Engine] = {}
    for precision in PRECISIONS[backend]:
        if precision != "int8":
            loaded = load_engine(bundle, backend, precision, threads)
            engines |= {f"{call} request {precision}": loaded for call in ("score", "rank")}
    figures = _measure("one request", engines, cases, CANDIDATES, plan, say)
    for name, row in figures.rows.items():
        if name.startswith("rank"):
            row["over_score"] = row["speedups"][name.replace("rank", "score", 1)]
    return figures


def _measure(what: str, engines: dict[str, Engine], cases: Sequence[Case], size: int, plan: Plan, say: Say) -> Figures:
    """Measures the call that each name begins with on its engine. Raises RuntimeError when one fails.

    Stage times are means over all calls of a contender, warm ones included, from its engine's own counters.
    """
    kept: dict[int, EngineStats] = {}
    spent = {name: dict.fromkeys((*STAGES, "unknown", "batches"), 0) for name in engines}

    def book(name: str) -> None:
        """Adds what the engine's counters gained since they were last read, which was by this contender alone."""
        engine = engines[name]
        now = engine.stats()
        last = kept.get(id(engine), now)
        for stage in STAGES:
            spent[name][stage] += now["time_us"][stage] - last["time_us"][stage]
        spent[name]["unknown"] += sum(now["unknown"]["tables"].values()) - sum(last["unknown"]["tables"].values())
        spent[name]["batches"] += now["batches"] - last["batches"]
        kept[id(engine)] = now

    def check(name: str, _: int, scores: Values) -> None:
        if len(scores) != size:
            raise ValueError(f"expected {size} rows of scores, got {len(scores)}")
        book(name)

    def call_of(name: str) -> Callable[[Case], Values]:
        call, engine = CALLS[name.partition(" ")[0]], engines[name]
        return lambda case: call(engine, case)

    calls = {name: call_of(name) for name in engines}
    for name, call in calls.items():
        call(cases[-1])  # what is done at the first call only is no part of any figure
        book(name)
    for name in engines:
        spent[name] = dict.fromkeys(spent[name], 0)
    figures = measure(what, calls, cases, plan, say, check=check)
    for name, row in figures.rows.items():
        about, took = engines[name].stats()["backend"], spent[name]
        row |= {"call": name.removesuffix(f" {about['precision']}"), "batch": size}
        row |= {"backend": about["backend"], "precision": about["precision"]}
        row["stages_ms"] = {stage: took[stage] / 1e3 / took["batches"] for stage in STAGES}
        row["unknown_ids_a_row"] = took["unknown"] / (took["batches"] * size)
    return figures
