"""One case of a benchmark: contenders that do the same work in turn, and the rows that a page shows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pepnet_infer.bench.harness.busy import BusyMeter
from pepnet_infer.bench.harness.interleave import Clock, In, Out, Plan, interleave, wall_clock
from pepnet_infer.bench.harness.statistics import describe_times, speedups

Say = Callable[[str], None]
Row = dict[str, Any]


@dataclass
class Figures:
    """Rows by contender, with what was measured and what is known of it; who failed and why; and the noise."""

    rows: dict[str, Row]
    failed: dict[str, str] = field(default_factory=dict)
    others_busy: float = 0.0  # share of the CPUs that other processes used


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
    """Times all calls in turn, see `interleave`, and returns a row each.

    A row has `name`, what `about` says, runs and quantiles in ms, `speedups` against every other, and `unsettled`, the
    turns that began before other pools slept. Raises RuntimeError when one fails, unless `must` is False.
    """
    meter = BusyMeter()
    measured = interleave(
        calls,
        inputs,
        plan,
        prepare=prepare,
        check=check,
        clock=clock,
        on_round=lambda number: say(f"{what}: measuring {len(calls)} contenders; round {number + 1}"),
    )
    busy = meter.others()
    for name, why in measured.failed.items() if must else ():
        raise RuntimeError(f"{what}: {name} failed: {why}")
    ratios = speedups({name: timings.millis for name, timings in measured.timings.items()})
    rows = {
        name: {
            "name": name,
            **(about or {}).get(name, {}),
            **describe_times(timings.millis),
            "speedups": ratios[name],
            "unsettled": timings.unsettled,
        }
        for name, timings in measured.timings.items()
    }
    return Figures(rows, measured.failed, busy)
