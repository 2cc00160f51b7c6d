"""How the time of a run is shared out, against targets that are rates and a clock that is a number."""

from __future__ import annotations

import pytest

from fuzz.schedule import COSTS_US, LEAST, share_out
from fuzz.supervisor import Report
from fuzz.worker import TARGETS

#: Mutants a second and worker that were seen on one machine.
RATES = {
    "bundle": 150.0,
    "delta": 130.0,
    "redis": 230.0,
    "redis-server": 150.0,
    "snapshot": 470.0,
    "arrow": 1800.0,
    "parquet": 430.0,
    "native": 4700.0,
}
STARTING_S = 4.0  # of each turn


class Machine:
    """Two workers, and how much faster than `RATES` each target is."""

    def __init__(self, **speed: float) -> None:
        self.now, self.speed, self.reports = 1000.0, speed, dict[str, Report]()
        self.turns: list[str] = []

    def turn(self, name: str, seconds: float, executions: int) -> Report:
        rate = 2 * RATES[name] * self.speed.get(name.replace("-", "_"), self.speed.get("all", 1.0))
        tried = min(executions, int(rate * max(seconds - STARTING_S, 0.0)))
        took = min(seconds, STARTING_S + tried / rate)
        report = self.reports.setdefault(name, Report(name, 0))
        report.counts["refused"] += tried
        report.seconds += took
        self.now += took
        self.turns.append(name)
        return report

    def run(self, seconds: float, most: int = 1 << 40) -> dict[str, int]:
        reports = share_out(RATES, seconds, self.turn, most, clock=lambda: self.now)
        return {name: report.executions for name, report in reports.items()}


def test_every_target_has_a_cost() -> None:
    assert set(COSTS_US) == set(TARGETS) == set(RATES)


@pytest.mark.parametrize(
    "speed", [{}, {"bundle": 0.7}, {"delta": 0.6, "native": 2.0}, {"redis": 3.0, "redis_server": 0.6}, {"native": 0.1}]
)
def test_twenty_minutes_are_enough_of_each_and_a_million_together(speed: dict[str, float]) -> None:
    machine = Machine(**speed)
    tried = machine.run(1200)
    assert min(tried.values()) >= LEAST
    assert sum(tried.values()) >= (10**6 if speed.get("native", 1.0) >= 1 else 8 * LEAST)
    assert machine.now <= 1000 + 1200


def test_too_short_a_time_is_shared_so_that_each_tries_as_many() -> None:
    tried = Machine(all=0.5).run(600)
    assert max(tried.values()) < LEAST
    assert min(tried.values()) > max(tried.values()) / 2


def test_what_is_left_goes_to_all() -> None:
    tried = Machine().run(6000)
    assert min(tried.values()) > 2 * LEAST
    assert tried["native"] > tried["arrow"] > tried["parquet"] > tried["bundle"]


def test_it_ends_when_each_has_tried_as_many_as_were_asked_for() -> None:
    machine = Machine()
    assert machine.run(6000, most=1000) == dict.fromkeys(RATES, 1000)
    assert machine.turns == list(RATES)
    assert set(Machine().run(6000, most=70_000).values()) == {70_000}
