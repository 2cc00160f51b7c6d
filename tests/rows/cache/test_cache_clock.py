"""A wall clock that is set: durations last as long as before, and Unix seconds are read by the clock of the day."""

from __future__ import annotations

import numpy as np
import pytest

from pepnet_infer import EmbeddingCache

DAY, NOW = 86400.0, 1.7e9
KEY, ROW = np.array([7], np.uint64), np.ones((1, 4), np.float32)
VERSION = np.array([1], np.uint64)


@pytest.fixture
def cache() -> EmbeddingCache:
    made = EmbeddingCache(4, 1 << 20, negative_ttl=60.0, tombstone_ttl=100.0, fields=[{"table": 0, "ttl": 30.0}])
    made.core.set_time(NOW)
    return made


def outcome(cache: EmbeddingCache) -> int:
    return int(cache.core.peek(KEY)["outcome"][0])


@pytest.mark.parametrize("step", [-DAY, DAY])
@pytest.mark.parametrize(("kind", "seconds"), [("absent", 60), ("deleted", 100), ("row", 30)])
def test_durations_are_not_those_of_the_wall_clock(cache: EmbeddingCache, step: float, kind: str, seconds: int) -> None:
    core = cache.core
    if kind == "absent":
        core.mark_absent(KEY)
    elif kind == "deleted":
        core.erase(KEY, VERSION)
    else:
        core.write(KEY, ROW)
    core.step_wall_clock(step)
    there = outcome(cache)
    assert there == (1 if kind == "row" else 2)
    core.set_time(NOW + seconds - 1)
    assert outcome(cache) == there
    core.set_time(NOW + seconds + 1)
    assert outcome(cache) == 0


@pytest.mark.parametrize("step", [-DAY, DAY])
def test_what_comes_after_the_clock_was_set_holds_until_the_second_it_says(cache: EmbeddingCache, step: float) -> None:
    core = cache.core
    core.step_wall_clock(step)
    assert core.time == NOW + step
    core.write(KEY, ROW, expires=np.array([NOW + step + 10]))
    assert core.peek(KEY)["expires"][0] == pytest.approx(NOW + step + 10, abs=0.3)
    core.set_time(NOW + 9)
    assert outcome(cache) == 1
    core.set_time(NOW + 11)
    assert outcome(cache) == 0
    core.erase(KEY, VERSION, np.array([NOW + step + 21]))
    core.set_time(NOW + 20)
    assert outcome(cache) == 2
    core.set_time(NOW + 22)
    assert outcome(cache) == 0
