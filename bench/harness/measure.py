"""One case of a benchmark: contenders that do the same work take turns, and each gets a row of figures."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pepnet_infer.bench.harness.interleave import Clock, In, Out, Plan, collector_off, settle, williams_square
from pepnet_infer.bench.harness.machine import BusyMeter
from pepnet_infer.bench.harness.statistics import describe_times, speedups

Say = Callable[[str], None]
Row = dict[str, Any]


@dataclass
class Figures:
    """Rows by contender, with what was measured and what is known of it; who failed and why; and the noise."""

    rows: dict[str, Row]
    failed: dict[str, str] = field(default_factory=dict)
    others_busy: float = 0.0  # share of the CPUs that other processes used


def wall_clock(call: Callable[[In], Out], item: In) -> tuple[float, Out]:
    """Times a call from outside."""
    start = time.perf_counter_ns()
    output = call(item)
    return time.perf_counter_ns() - start, output


def measure(
    what: str,
    calls: Mapping[str, Callable[[In], Out]],
    inputs: Sequence[In],
    plan: Plan,
    say: Say,
    *,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    prepare: Callable[[str, In], In] | None = None,
    check: Callable[[str, int, Out], None] | None = None,
    clock: Clock = wall_clock,
    must: bool = True,
) -> Figures:
    """Times all calls in turn on successive `inputs`, see `interleave`, and returns a row each.

    A row has `name`, what `about` says, runs and quantiles in ms, `speedups` against every other, and `unsettled`, the
    turns that began before other pools slept. Outside the clock, `prepare(name, input)` makes of an input what only one
    contender gets, and `check(name, i, output)` sees what it made of `inputs[i]`. A contender of which anything raises
    is taken out of all rounds. Raises RuntimeError when one fails, unless `must` is False; ValueError without
    contenders or inputs.
    """
    if not calls or not inputs:
        raise ValueError(f"expected calls and inputs, got {len(calls)} and {len(inputs)}")
    names, places, meter = list(calls), williams_square(len(calls)), BusyMeter()
    times: dict[str, list[float]] = {name: [] for name in names}
    unsettled = dict.fromkeys(names, 0)
    failed: dict[str, str] = {}
    cursor = itertools.cycle(range(len(inputs)))

    def given(name: str) -> Iterator[tuple[int, In]]:
        for index in cursor:
            yield index, inputs[index] if prepare is None else prepare(name, inputs[index])

    def turn(name: str) -> None:
        fed, call = given(name), calls[name]
        unsettled[name] += not settle(plan.settle_s)
        warm, warmed = time.perf_counter() + plan.warm_s, 0
        while warmed < plan.warm_calls or time.perf_counter() < warm:
            call(next(fed)[1])
            warmed += 1
        index, item = next(fed)
        ns, output = clock(call, item)
        if check is not None:
            check(name, index, output)
        times[name].append(ns / 1e6)

    say(f"{what}: measuring {len(calls)} contenders")
    began, done = time.perf_counter(), 0
    with collector_off():
        while len(failed) < len(names) and (done < plan.runs or time.perf_counter() - began < plan.seconds):
            for name in (names[place] for place in places[done % len(places)]):
                try:
                    if name not in failed:
                        turn(name)
                except Exception as error:  # whatever a peer raises is its result
                    failed[name] = reason(error)
            done += 1
    busy = meter.others()
    for name, why in failed.items() if must else ():
        raise RuntimeError(f"{what}: {name} failed: {why}")
    millis = {name: np.array(took) for name, took in times.items() if name not in failed}
    ratios = speedups(millis)
    rows = {
        name: {
            "name": name,
            **(about or {}).get(name, {}),
            **describe_times(took),
            "speedups": ratios[name],
            "unsettled": unsettled[name],
        }
        for name, took in millis.items()
    }
    return Figures(rows, failed, busy)


def reason(error: BaseException) -> str:
    """Returns one line saying what went wrong, short enough for a table."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:300]}"
