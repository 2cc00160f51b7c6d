"""Measures several ways to do the same work, interleaved in one process.

How it is fair:

* **Interleaved.** One round is one timed call of every contender, so a slow minute of the machine falls on all of
  them. Ratios are taken over rounds. The order of each round is a row of a Williams square: over a cycle every
  contender stands at every place, and follows every other one, equally often, so what one leaves in the caches
  spoils all the others alike.
* **No stolen cores.** Thread pools spin for a while after a call (OpenMP's active wait, KMP_BLOCKTIME, ONNX Runtime's
  allow_spinning, TBB), which helps their own next call and steals cores from anyone else's. Spinning stays as each
  library ships it, since turning it off would handicap its owner. Instead a turn begins only once no other thread of
  the process runs (`settle`): the last contender's pool has gone to sleep. A turn that began unsettled is counted.
* **Warm.** Each turn calls untimed for `warm_s` seconds, and at least `warm_calls` times, before the timed call: the
  contender's pool is awake, the scheduler has spread its threads over the cores (which takes some milliseconds, and
  until then a worker may share the caller's core), and its weights are in the caches as far as they fit, as in a
  server under load. With both at 0 every timed call is the first after a pause.
* **Fresh inputs.** Every call, timed or not, takes the next of a rotating set of inputs; the caller makes the set
  larger than the caches. `prepare` may make of it, outside the clock, what only one contender gets: ids that were
  never asked for, say. `check` sees every output, outside the clock.
* **One clock.** Times are those of the caller's clock, or of another that all contenders share: a GPU's own events.
* The garbage collector is off while calls are timed.
"""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from pepnet_infer.validation import Count, NotNegative, Options, Several

In = TypeVar("In")
Out = TypeVar("Out")

#: Runs a call on an input; returns nanoseconds and what it returned.
Clock = Callable[[Callable[[Any], Any], Any], tuple[float, Any]]

#: How often `settle` looks, and how many looks in a row must find no thread at work: one between two spins is no sleep.
_LOOK_EVERY_S = 0.001
_QUIET_LOOKS = 3


class Plan(Options, frozen=True):
    """How long to measure: at least `runs` timed calls each, and further rounds until `seconds` have passed."""

    runs: Several = 30
    seconds: NotNegative = 0.0
    warm_calls: Count = 1  # untimed calls at the start of each turn, at least
    warm_s: NotNegative = 0.02  # and at least for so long
    settle_s: NotNegative = 0.5  # longest wait for other pools to fall asleep; KMP_BLOCKTIME is 0.2 s unless set


@dataclass
class Timings:
    """What one contender took. Entry r of `ns` was measured in round r, beside entry r of every other contender."""

    ns: list[float] = field(default_factory=list)
    unsettled: int = 0  # turns that began while some thread of the process was still busy

    @property
    def millis(self) -> npt.NDArray[np.float64]:
        """The timed calls in milliseconds."""
        return np.asarray(self.ns, dtype=np.float64) / 1e6


@dataclass
class Measured(Generic[Out]):
    """Timings by contender, and why a contender left: a failed one has no timings."""

    timings: dict[str, Timings]
    failed: dict[str, str]


def wall_clock(call: Callable[[In], Out], item: In) -> tuple[float, Out]:
    """Times a call from outside."""
    start = time.perf_counter_ns()
    output = call(item)
    return time.perf_counter_ns() - start, output


def interleave(
    calls: Mapping[str, Callable[[In], Out]],
    inputs: Sequence[In],
    plan: Plan,
    *,
    prepare: Callable[[str, In], In] | None = None,
    check: Callable[[str, int, Out], None] | None = None,
    on_round: Callable[[int], None] | None = None,
    clock: Clock = wall_clock,
) -> Measured[Out]:
    """Times every call of `calls` on successive `inputs`, or on what `prepare(name, input)` makes of each.

    `check(name, i, output)` gets what `name` made of `inputs[i]`. A contender of which anything raises is taken out
    of all rounds and listed in `failed`. `on_round(r)` is called before each round. Raises ValueError without
    contenders or inputs.
    """
    if not calls or not inputs:
        raise ValueError(f"expected calls and inputs, got {len(calls)} and {len(inputs)}")
    names = list(calls)
    square = williams_square(len(names))
    timings = {name: Timings() for name in names}
    failed: dict[str, str] = {}
    cursor = itertools.cycle(range(len(inputs)))
    began, round_ = time.perf_counter(), 0
    with _gc_off():
        while len(failed) < len(names) and (round_ < plan.runs or time.perf_counter() - began < plan.seconds):
            if on_round is not None:
                on_round(round_)
            for place in square[round_ % len(square)]:
                name = names[place]
                if name in failed:
                    continue

                def given(index: int, name: str = name) -> In:
                    return inputs[index] if prepare is None else prepare(name, inputs[index])

                try:
                    index, ns, output = _turn(calls[name], given, cursor, plan, timings[name], clock)
                    if check is not None:
                        check(name, index, output)
                    timings[name].ns.append(ns)
                except Exception as error:  # whatever a peer raises is its result
                    failed[name] = reason(error)
            round_ += 1
    return Measured({n: t for n, t in timings.items() if n not in failed}, failed)


def _turn(
    call: Callable[[In], Out],
    given: Callable[[int], In],
    cursor: Iterator[int],
    plan: Plan,
    timings: Timings,
    clock: Clock,
) -> tuple[int, float, Out]:
    """Returns which input the timed call got, its nanoseconds and its output."""
    timings.unsettled += not settle(plan.settle_s)
    began, warmed = time.perf_counter(), 0
    while warmed < plan.warm_calls or time.perf_counter() - began < plan.warm_s:
        call(given(next(cursor)))
        warmed += 1
    index = next(cursor)
    ns, output = clock(call, given(index))
    return index, ns, output


def settle(limit_s: float) -> bool:
    """Waits until all other threads of this process sleep, for at most `limit_s` s. Returns whether it came to that."""
    deadline = time.perf_counter() + limit_s
    quiet = 0
    while True:
        quiet = 0 if _others_run() else quiet + 1
        if quiet == _QUIET_LOOKS:
            return True
        if time.perf_counter() >= deadline:
            return False
        time.sleep(_LOOK_EVERY_S)


def _others_run() -> bool:
    """Whether any thread but this one runs or is ready to.

    Asked of the threads' states, not of the process's CPU time: the kernel books a running thread's time at its next
    tick, so that for up to 10 ms a spinning thread seems to spend none.
    """
    own = str(threading.get_native_id())
    for thread in os.listdir("/proc/self/task"):
        if thread == own:
            continue
        try:
            state = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if state == "R":
            return True
    return False


def williams_square(n: int) -> list[list[int]]:
    """Returns orders of range(n) in which each follows each other one equally often, and stands at each place so.

    E. J. Williams, "Experimental designs balanced for the estimation of residual effects of treatments", 1949: n
    orders when n is even, 2n (each also backwards) when it is odd.
    """
    first = [0]
    low, high = 1, n - 1
    while low <= high:
        first.append(low)
        if low != high:
            first.append(high)
        low, high = low + 1, high - 1
    square = [[(x + shift) % n for x in first] for shift in range(n)]
    return square if n % 2 == 0 or n == 1 else square + [row[::-1] for row in square]


def reason(error: BaseException) -> str:
    """Returns one line saying what went wrong, short enough for a table."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:300]}"


@contextmanager
def _gc_off() -> Iterator[None]:
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
