"""How the time of a run is shared out: every target gets its least number of mutants first, then all get equal time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from fuzz.supervisor import Report

#: Mutants that every target tries before any gets more.
LEAST = 50_000
#: Microseconds that a mutant takes a worker, by target: a guess, for until a run has measured its own.
COSTS_US = {
    "bundle": 6700,
    "delta": 7700,
    "redis": 4400,
    "redis-server": 6700,
    "snapshot": 2200,
    "arrow": 600,
    "parquet": 2400,
    "native": 250,
}
_STARTING_S = 8.0  # of each turn: workers import what they need
_TURN_S = 10.0  # a shorter turn at the end would go into that

#: Tries mutants of a target, for so many seconds and so many of them at most. Returns what came of all its turns.
Turn = Callable[[str, float, int], Report]


def share_out(
    names: Iterable[str],
    seconds: float,
    turn: Turn,
    most: int = 1 << 40,
    least: int = LEAST,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Report]:
    """Gives every target turns until the time is over, or each has tried `most` mutants. Returns reports by target.

    Where the time is too short for `least` of each, all get as many, as far as their costs are known. What a target
    does not need of its turn goes to those after it. Time that is left goes to all alike, so that most mutants are of
    the targets that are fast.
    """
    reports: dict[str, Report] = {}
    names, least, until = list(names), min(least, most), clock() + seconds

    def tried(name: str) -> int:
        return reports[name].executions if name in reports else 0

    def cost(name: str) -> float:
        return reports[name].seconds / tried(name) if tried(name) else COSTS_US[name] / 1e6

    while True:
        wanted = {name: _STARTING_S + cost(name) * (least - tried(name)) for name in names if tried(name) < least}
        enough = least if wanted else most
        shares = wanted or dict.fromkeys((name for name in names if tried(name) < most), 1.0)
        if not shares or (reports and until - clock() < _TURN_S):
            return reports
        for name in list(shares):
            left = max(until - clock(), 0.0)
            reports[name] = turn(name, left * shares[name] / sum(shares.values()), enough - tried(name))
            del shares[name]
