"""Whole requests: ids in, scores out, beside the dense part alone; what encoding and lookups add to the network, and
what a request saves by sharing its user's side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pepnet_infer.backends.protocol import PRECISIONS
from pepnet_infer.bench.latency import Plan, interleave
from pepnet_infer.bench.machine import BusyMeter
from pepnet_infer.bench.summary import describe_times, speedups
from pepnet_infer.bench.workloads import Request, Traffic, as_request, as_rows, dense_rows
from pepnet_infer.engine import Engine

if TYPE_CHECKING:
    from pepnet_infer.bench.workloads import Column
    from pepnet_infer.bundle.bundle import Bundle
    from pepnet_infer.schema.inputs import Inputs

Values = npt.NDArray[np.float32]
Say = Callable[[str], None]
STAGES = ("encode", "lookup", "dense")
#: Candidates of the request that `rank` and `score` are both given.
CANDIDATES = 1000


@dataclass(frozen=True)
class Case:
    """What one round scores: as many rows as a batch of columns and as one user's request."""

    columns: dict[str, Column]
    request: Request


@dataclass(frozen=True)
class Contender:
    """One call of one engine."""

    call: str
    engine: Engine
    run: Callable[[Case], Values]


def end_to_end(
    bundle: Bundle, batch_sizes: Sequence[int], threads: int, plan: Plan, seed: int, say: Say = lambda _: None
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
            batches = [traffic.columns(size) for _ in range(max(16, min(256, 65536 // size)))]
            cases = [Case(columns, as_request(bundle, columns)) for columns in batches]
            inputs = [dense_rows(bundle.config.inputs, size, seed + i) for i in range(len(cases))]
            contenders = [_score(engine, "score"), _rank(engine, "rank"), _score_dense(engine, inputs)]
            meter = BusyMeter()
            rows += _measure(contenders, cases, size, plan, say)
            busy[size] = meter.others()
    return rows, busy


def one_request(
    bundle: Bundle, threads: int, plan: Plan, seed: int, say: Say = lambda _: None
) -> tuple[list[dict[str, Any]], float]:
    """Measures one user's request of `CANDIDATES` rows, as `rank` and as `score` of the same rows, interleaved.

    Both in every floating point precision of the backend that "auto" takes. Returns rows as `end_to_end` does, called
    "rank request" and "score request", and the share of the CPUs that others used.
    """
    with Engine.load(bundle.path, threads=threads, check="sizes") as engine:
        backend = str(engine.stats()["backend"]["backend"])
    traffic = Traffic(bundle, seed)
    requests = [as_request(bundle, traffic.columns(CANDIDATES)) for _ in range(16)]
    cases = [Case(as_rows(bundle, request, CANDIDATES), request) for request in requests]
    contenders = []
    for precision in PRECISIONS[backend]:
        if precision != "int8":
            engine = Engine.load(bundle.path, backend=backend, precision=precision, threads=threads, check="sizes")
            contenders += [_score(engine, "score request"), _rank(engine, "rank request")]
    meter = BusyMeter()
    rows = _measure(contenders, cases, CANDIDATES, plan, say)
    return rows, meter.others()


def _score(engine: Engine, call: str) -> Contender:
    return Contender(call, engine, lambda case: engine.score(case.columns).values)


def _rank(engine: Engine, call: str) -> Contender:
    def run(case: Case) -> Values:
        request = case.request
        return engine.rank(request.user, request.items, request.domain, request.context).values

    return Contender(call, engine, run)


def _score_dense(engine: Engine, inputs: Sequence[Inputs]) -> Contender:
    turns = cycle(inputs)

    def run(_: Case) -> Values:
        batch = next(turns)
        return engine.score_dense(batch.general, batch.domain, batch.prior)

    return Contender("score_dense", engine, run)


class _Booking:
    """Books what an engine's counters gain in a turn to the contender whose turn it was."""

    def __init__(self, contenders: Mapping[str, Contender]) -> None:
        self._contenders = contenders
        self._last = {id(c.engine): c.engine.stats() for c in contenders.values()}
        self.spent = {name: dict.fromkeys(STAGES, 0) for name in contenders}
        self.batches = dict.fromkeys(contenders, 0)
        self.unknown = dict.fromkeys(contenders, 0)

    def turn(self, name: str) -> None:
        engine = self._contenders[name].engine
        last, now = self._last[id(engine)], engine.stats()
        for stage in STAGES:
            self.spent[name][stage] += now["time_us"][stage] - last["time_us"][stage]
        self.unknown[name] += sum(now["unknown"]["tables"].values()) - sum(last["unknown"]["tables"].values())
        self.batches[name] += now["batches"] - last["batches"]
        self._last[id(engine)] = now


def _measure(
    contenders: Sequence[Contender], cases: Sequence[Case], size: int, plan: Plan, say: Say
) -> list[dict[str, Any]]:
    """Returns a row per contender; `speedups` are against the other calls of the same engine."""
    described = [c.engine.stats()["backend"] for c in contenders]
    named = {f"{c.call} {d['precision']}": c for c, d in zip(contenders, described, strict=True)}
    for contender in contenders:
        contender.run(cases[-1])  # what is done at the first call only is no part of any figure
    booking = _Booking(named)

    def check(name: str, _: int, scores: Values) -> None:
        if len(scores) != size:
            raise ValueError(f"expected {size} rows of scores, got {len(scores)}")
        booking.turn(name)

    measured = interleave(
        {name: contender.run for name, contender in named.items()},
        cases,
        plan,
        check=check,
        on_round=lambda r: say(f"end to end, batch {size}: measuring; round {r + 1}"),
    )
    for name, why in measured.failed.items():
        raise RuntimeError(f"end to end: {name} failed at batch {size}: {why}")
    ratios = speedups({name: timings.millis for name, timings in measured.timings.items()})
    others = {name: [n for n, c in named.items() if n != name and c.engine is named[name].engine] for name in named}
    return [
        {
            "call": contender.call,
            "batch": size,
            "backend": about["backend"],
            "precision": about["precision"],
            **describe_times(measured.timings[name].millis),
            "speedups": {named[other].call: ratios[name][other] for other in others[name]},
            "stages_ms": {stage: booking.spent[name][stage] / 1e3 / booking.batches[name] for stage in STAGES},
            "unknown_ids_a_row": booking.unknown[name] / (booking.batches[name] * size),
        }
        for (name, contender), about in zip(named.items(), described, strict=True)
    ]
