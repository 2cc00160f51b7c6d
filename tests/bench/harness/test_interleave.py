"""The measuring core, on contenders whose times are known, and the numbers made of its times."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pepnet_infer.bench.harness import interleave as interleave_module
from pepnet_infer.bench.harness.interleave import Plan, paced, settle, williams_square
from pepnet_infer.bench.harness.measure import Figures, measure
from pepnet_infer.bench.harness.statistics import describe_times, p99_ratio, speedups
from pepnet_infer.errors import ConfigError

QUICK = Plan(runs=6, warm_calls=0, warm_s=0.0, settle_s=0.0)


def interleave(calls: Mapping[str, Callable[..., Any]], inputs: Sequence[Any], plan: Plan, **more: Any) -> Figures:
    """Measures, of contenders that may fail."""
    return measure("x", calls, inputs, plan, lambda _: None, must=False, **more)


def sleeper(seconds: float) -> Callable[[int], int]:
    def call(item: int) -> int:
        time.sleep(seconds)
        return item

    return call


@pytest.mark.parametrize("order", [("one", "two", "four"), ("four", "two", "one"), ("two", "four", "one")])
def test_ratios_are_those_of_the_work_in_any_order(order: tuple[str, ...]) -> None:
    seconds = {"one": 0.015, "two": 0.030, "four": 0.060}
    measured = interleave({name: sleeper(seconds[name]) for name in order}, range(100), QUICK)
    ratios = {name: row["speedups"] for name, row in measured.rows.items()}
    assert measured.failed == {}
    # On a busy machine a sleep lasts some milliseconds longer than asked for, which brings the ratios closer to 1.
    assert 1.4 < ratios["one"]["two"]["ratio"] < 2.4
    assert 2.4 < ratios["one"]["four"]["ratio"] < 4.8
    assert ratios["four"]["two"]["ratio"] == pytest.approx(1 / ratios["two"]["four"]["ratio"])


def test_rounds_are_interleaved_and_their_order_changes() -> None:
    calls: list[str] = []

    def named(name: str) -> Callable[[int], None]:
        return lambda _: calls.append(name)

    names = ["a", "b", "c", "d"]
    interleave({name: named(name) for name in names}, range(7), Plan(8, warm_calls=0, warm_s=0.0, settle_s=0.0))
    rounds = _in_fours(calls)
    assert len(rounds) == 8
    assert all(sorted(round_) == names for round_ in rounds)
    assert [Counter(round_[place] for round_ in rounds) for place in range(4)] == [Counter(dict.fromkeys(names, 2))] * 4


@pytest.mark.parametrize("n", range(1, 11))
def test_williams_square_balances_places_and_neighbours(n: int) -> None:
    square = williams_square(n)
    repeats = len(square) // n
    assert all(sorted(row) == list(range(n)) for row in square)
    for place in range(n):
        assert Counter(row[place] for row in square) == Counter(dict.fromkeys(range(n), repeats))
    neighbours = Counter(pair for row in square for pair in itertools.pairwise(row))
    assert neighbours == Counter(dict.fromkeys(itertools.permutations(range(n), 2), repeats))


def test_every_call_gets_the_next_input_and_every_output_is_checked() -> None:
    seen: list[int] = []
    checked: list[tuple[str, int, int]] = []

    def call(item: int) -> int:
        seen.append(item)
        return item * 10

    plan = Plan(runs=5, warm_calls=2, warm_s=0.0, settle_s=0.0)
    inputs = list(range(100, 137))
    interleave({"a": call, "b": call}, inputs, plan, check=lambda *got: checked.append(got))
    assert seen == [inputs[i % 37] for i in range(30)]  # 5 rounds, 2 contenders, 2 untimed calls and a timed one
    assert len(checked) == 10
    assert all(output == inputs[index] * 10 for _, index, output in checked)
    assert Counter(name for name, _, _ in checked) == {"a": 5, "b": 5}


def test_untimed_calls_are_not_timed_and_fill_warm_s() -> None:
    first = threading.Event()

    def slow_at_first(_: int) -> None:
        if not first.is_set():
            first.set()
            time.sleep(1.0)

    count = itertools.count()

    def counted(_: int) -> None:
        next(count)
        time.sleep(0.001)

    plan = Plan(runs=3, warm_calls=1, warm_s=0.03, settle_s=0.0)
    measured = interleave({"slow": slow_at_first, "counted": counted}, range(5), plan)
    assert measured.rows["slow"]["max_ms"] < 1000
    assert next(count) > 3 * 5


def test_runs_at_least_and_seconds_at_least() -> None:
    assert interleave({"a": sleeper(0.0)}, range(3), QUICK).rows["a"]["runs"] == 6
    start = time.perf_counter()
    plan = Plan(runs=1, seconds=0.3, warm_calls=0, warm_s=0.0, settle_s=0.0)
    measured = interleave({"a": sleeper(0.001), "b": sleeper(0.001)}, range(3), plan)
    assert time.perf_counter() - start >= 0.3
    assert measured.rows["a"]["runs"] == measured.rows["b"]["runs"] >= 1


def test_a_contender_that_raises_is_out_and_the_others_go_on() -> None:
    left = itertools.count()

    def breaks(_: int) -> int:
        if next(left) == 3:
            raise RuntimeError("out of\n memory")
        return 0

    measured = interleave({"good": sleeper(0.0), "breaks": breaks, "too": sleeper(0.0)}, range(9), QUICK)
    assert measured.failed == {"breaks": "RuntimeError: out of memory"}
    assert {name: row["runs"] for name, row in measured.rows.items()} == {"good": 6, "too": 6}


def test_every_call_gets_what_was_prepared_for_it_and_preparing_is_not_timed() -> None:
    seen: list[tuple[str, int]] = []
    checked: list[tuple[str, int, int]] = []
    serials = itertools.count()

    def prepare(name: str, item: int) -> int:
        time.sleep(0.02)
        if name == "breaks" and next(serials) == 2:
            raise RuntimeError("nothing left")
        return item * (100 if name == "b" else 1)

    def named(name: str) -> Callable[[int], int]:
        def call(item: int) -> int:
            seen.append((name, item))
            return item

        return call

    plan = Plan(runs=4, warm_calls=1, warm_s=0.0, settle_s=0.0)
    measured = interleave(
        {name: named(name) for name in ("a", "b", "breaks")},
        range(1, 60),
        plan,
        prepare=prepare,
        check=lambda *got: checked.append(got),
    )
    assert measured.failed == {"breaks": "RuntimeError: nothing left"}
    assert Counter(name for name, _ in seen) == {"a": 8, "b": 8, "breaks": 2}
    assert all((item >= 100) == (name == "b") for name, item in seen)
    assert all(output == (index + 1) * (100 if name == "b" else 1) for name, index, output in checked)
    assert min(measured.rows[name]["p50_ms"] for name in ("a", "b")) < 20


def test_a_contender_with_wrong_output_is_out() -> None:
    def check(name: str, index: int, output: int) -> None:
        if output != index:
            raise ValueError(f"expected {index}, got {output}")

    measured = interleave({"right": lambda x: x, "wrong": lambda x: x + 1}, range(9), QUICK, check=check)
    assert list(measured.rows) == ["right"]
    assert measured.failed["wrong"].startswith("ValueError: expected ")


def test_the_collector_is_off_while_calls_are_timed_and_as_before_after() -> None:
    states: list[bool] = []
    assert gc.isenabled()
    interleave({"a": lambda _: states.append(gc.isenabled())}, range(3), QUICK)
    assert states == [False] * 6
    assert gc.isenabled()


def test_paced_work_that_is_late_is_followed_at_once_until_the_pace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now, began = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(interleave_module, "time", SimpleNamespace(perf_counter=lambda: now, sleep=sleep))
    took = iter([0.25, 2.5, 0.25, 0.125, 0.25])
    for _ in paced(1.0, 5.0):
        began.append(now)
        sleep(next(took))
    assert began == [0.0, 1.0, 3.5, 3.75, 4.0]
    assert now == 5.0


def test_settle_waits_for_a_spinning_thread_and_gives_up_in_time() -> None:
    stop = threading.Event()

    def spin() -> None:
        buffer = np.zeros(1 << 20)
        while not stop.is_set():
            np.sin(buffer, out=buffer)  # without the GIL, as a library's pool spins

    thread = threading.Thread(target=spin)
    thread.start()
    assert not settle(0.03)
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    assert settle(60.0)
    assert stop.is_set()
    timer.join()
    thread.join()


def test_a_turn_that_begins_unsettled_is_counted() -> None:
    stop = threading.Event()

    def spin() -> None:
        buffer = np.zeros(1 << 20)
        while not stop.is_set():
            np.sin(buffer, out=buffer)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        plan = Plan(runs=4, warm_calls=0, warm_s=0.0, settle_s=0.005)
        assert interleave({"a": lambda x: x}, range(3), plan).rows["a"]["unsettled"] == 4
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(("calls", "inputs"), [({}, [1]), ({"a": abs}, [])])
def test_nothing_to_measure_is_an_error(calls: dict[str, Callable[[int], int]], inputs: list[int]) -> None:
    with pytest.raises(ValueError, match="expected calls and inputs, got"):
        interleave(calls, inputs, Plan(1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"runs": 0}, "runs: expected an integer from 1, got 0"),
        ({"seconds": -1.0}, "seconds: expected a number from 0, got -1"),
        ({"warm_s": float("nan")}, "warm_s: expected a number from 0, got nan"),
    ],
)
def test_plans_that_cannot_be_are_config_errors(options: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Plan(**options)  # type: ignore[arg-type]


def test_described_times_are_numpys_quantiles() -> None:
    millis = np.random.default_rng(0).exponential(3.0, 57)
    got = describe_times(millis)
    assert got["runs"] == 57
    assert got["p50_ms"] == np.median(millis)
    assert got["p99_ms"] == np.quantile(millis, 0.99)
    assert got["mean_ms"] == pytest.approx(millis.mean())
    assert got["max_ms"] == millis.max()
    ladder = {"0": millis.min(), "100": millis.max()}
    ladder |= {str(q): np.percentile(millis, q) for q in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
    assert got["quantiles_ms"] == ladder


def test_a_slow_spell_that_all_share_does_not_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    spell = np.repeat([1.0, 3.0], 30)  # the machine is three times slower in half of the rounds
    a, b = 10.0 * spell * rng.normal(1, 0.01, 60), 20.0 * spell * rng.normal(1, 0.01, 60)
    entry = speedups({"a": a, "b": b})["a"]["b"]
    assert entry["ratio"] == pytest.approx(2.0, rel=0.02)
    assert entry["low"] <= entry["ratio"] <= entry["high"]
    together = entry["high"] - entry["low"]
    apart = speedups({"a": a, "b": rng.permutation(b)})["a"]["b"]
    assert together < 0.2 < apart["high"] - apart["low"]


def test_ratios_within_rounds_are_the_median_of_their_own() -> None:
    a, b = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.array([3.0, 4.0, 12.0, 24.0, 16.0])
    entry = speedups({"a": a, "b": b})["a"]["b"]
    assert entry["within_rounds"] == 3.0  # of 3, 2, 3, 3 and 1
    assert entry["ratio"] == 3.0  # 12 over 4
    assert speedups({"a": a, "b": b[::-1]})["a"]["b"]["within_rounds"] == 3.0  # of 16, 12, 3, 0.5 and 0.1875


def test_speedups_want_the_same_rounds() -> None:
    with pytest.raises(ValueError, match=r"expected as many rounds for every peer, got \{'a': 2, 'b': 3\}"):
        speedups({"a": np.ones(2), "b": np.ones(3)})


def _in_fours(calls: list[str]) -> list[tuple[str, ...]]:
    return [tuple(calls[i : i + 4]) for i in range(0, len(calls), 4)]


def test_a_clock_of_ones_own_is_what_counts() -> None:
    def clock(call: Callable[[int], int], item: int) -> tuple[float, int]:
        output = call(item)
        return 1e6 * output, output

    calls: dict[str, Callable[[int], int]] = {"a": lambda _: 2, "b": lambda _: 6}
    figures = measure("x", calls, [0], QUICK, lambda _: None, about={"a": {"kind": "fast"}}, clock=clock)
    a, b = figures.rows["a"], figures.rows["b"]
    assert (a["name"], a["kind"], a["p50_ms"], b["p50_ms"], a["runs"]) == ("a", "fast", 2.0, 6.0, 6)
    assert a["speedups"]["b"] == {"ratio": 3.0, "low": 3.0, "high": 3.0, "within_rounds": 3.0}
    assert 0 <= figures.others_busy <= 1


def test_who_must_run_and_fails_is_an_error() -> None:
    def breaks(_: int) -> int:
        raise OSError("disk is full")

    with pytest.raises(RuntimeError, match="x: b failed: OSError: disk is full"):
        measure("x", {"a": abs, "b": breaks}, [0], QUICK, lambda _: None)
    figures = measure("x", {"a": abs, "b": breaks}, [0], QUICK, lambda _: None, must=False)
    assert (list(figures.rows), figures.failed) == (["a"], {"b": "OSError: disk is full"})


def test_ratio_of_the_slowest_calls_of_all_rounds() -> None:
    assert p99_ratio([np.full(100, 6)] * 3, [np.full(100, 5)] * 3) == pytest.approx(
        {"ratio": 1.2, "low": 1.2, "high": 1.2}
    )
