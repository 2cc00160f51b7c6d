"""The follower's rests: how long, how often, and when there are none."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pepnet_infer.errors import ConfigError
from pepnet_infer.process import pace
from pepnet_infer.process.pace import Pace
from pepnet_infer.sync.follow_config import FollowConfig


class Clocks:
    """CPU time goes on by working, the wall clock by that and by sleeping."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpu, self.wall = 7.0, 100.0
        self.slept: list[float] = []
        monkeypatch.setattr(pace, "thread_time", lambda: self.cpu)
        monkeypatch.setattr(pace, "monotonic", lambda: self.wall)
        monkeypatch.setattr(pace, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.wall += seconds

    def work(self, seconds: float) -> None:
        self.cpu += seconds
        self.wall += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def steps(clocks: Clocks, rest: Callable[[], None], piece_s: float, pieces: int) -> None:
    for _ in range(pieces):
        clocks.work(piece_s)
        rest()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_work_takes_its_share(clocks: Clocks, share: float) -> None:
    one = Pace(share)
    one.begin(hurry=False)
    began = clocks.wall
    steps(clocks, one.rest, 0.001, 20)
    assert 0.02 / (clocks.wall - began) == pytest.approx(share, rel=1e-6)


def test_small_pieces_are_gathered(clocks: Clocks) -> None:
    one = Pace(0.25)
    one.begin(hurry=False)
    steps(clocks, one.rest, 0.0001, 5 * 6)
    assert len(clocks.slept) in (5, 6)
    assert sum(clocks.slept) == pytest.approx(3 * 0.003, rel=0.2)


def test_one_in_a_hurry_and_one_without_a_bound_do_not_rest(clocks: Clocks) -> None:
    one = Pace(0.25)
    one.begin(hurry=True)
    steps(clocks, one.rest, 0.01, 20)
    one = Pace(1.0)
    one.begin(hurry=False)
    steps(clocks, one.rest, 0.01, 20)
    assert clocks.slept == []


def test_a_large_delta_is_not_late_for_the_sake_of_rests(clocks: Clocks) -> None:
    one = Pace(0.25)
    one.begin(hurry=False)
    began = clocks.wall
    steps(clocks, one.rest, 0.01, 200)
    assert 2.0 < clocks.wall - began < 2.0 + 0.35
    one.begin(hurry=False)
    steps(clocks, one.rest, 0.01, 1)
    assert clocks.slept[-1] == pytest.approx(0.03)


def test_rests_are_real() -> None:
    one = Pace(0.2)
    one.begin(hurry=False)
    began, cpu = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu < 0.02:
        one.rest()
    assert time.monotonic() - began > 0.06


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan"), "1"])
def test_a_share_is_a_share(share: object) -> None:
    with pytest.raises(ConfigError, match="share: expected a number above 0 to 1, got "):
        FollowConfig(share=share)  # type: ignore[arg-type]
