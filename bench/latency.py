"""Measures several ways to do the same work, interleaved in one process.

How it is fair:

* **Interleaved.** One round is one timed call of every contender, so a slow minute of the machine falls on all of
  them. Ratios are taken over rounds. The order of each round is a row of a Williams square: over a cycle every
  contender stands at every place, and follows every other one, equally often, so what one leaves in the caches
  spoils all the others alike.
* **No stolen cores.** Thread pools spin for a while after a call (OpenMP's active wait, KMP_BLOCKTIME, ONNX Runtime's
  allow_spinning, TBB), which helps their own next call and steals cores from anyone else's. Spinning stays as each
  library ships it, since turning it off would handicap its owner. Instead a turn begins only once the process burns
  no CPU time (`settle`): the last contender's pool has gone to sleep. A turn that began unsettled is counted.
* **Warm.** Each turn makes `warm_calls` untimed calls before the timed one, so that the contender's pool is awake and
  its weights are in the caches as far as they fit, as in a server under load. With `warm_calls=0` every timed call is
  the first after a pause.
* **Fresh inputs.** Every call, timed or not, takes the next of a rotating set of inputs; the caller makes the set
  larger than the caches. `check` sees every output, outside the clock.
* The garbage collector is off while calls are timed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

In = TypeVar("In")
Out = TypeVar("Out")

#: Slice of `settle`, and the share of it that the process may spend on the CPU and still count as quiet.
_SLICE_S = 0.001
_QUIET_SHARE = 0.2


@dataclass(frozen=True)
class Plan:
    """How long to measure: at least `runs` timed calls each, and further rounds until `seconds` have passed."""

    runs: int = 30
    seconds: float = 0.0
    warm_calls: int = 1  # untimed calls at the start of each turn
    settle_s: float = 0.5  # longest wait for other pools to fall asleep; KMP_BLOCKTIME is 0.2 s unless set


@dataclass
class Timings:
    """What one contender took. Entry r of `ns` was measured in round r, beside entry r of every other contender."""

    ns: list[int] = field(default_factory=list)
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


def interleave(
    calls: Mapping[str, Callable[[In], Out]],
    inputs: Sequence[In],
    plan: Plan,
    *,
    check: Callable[[str, int, Out], None] | None = None,
    on_round: Callable[[int], None] | None = None,
) -> Measured[Out]:
    """Times every call of `calls` on successive `inputs`.

    `check(name, i, output)` gets what `name` made of `inputs[i]`. A contender whose call or check raises is taken out
    of all rounds and listed in `failed`. `on_round(r)` is called before each round. Raises ValueError without
    contenders, inputs or runs.
    """
    if not calls or not inputs or plan.runs < 1:
        raise ValueError(f"expected calls, inputs and runs, got {len(calls)}, {len(inputs)} and {plan.runs}")
    names = list(calls)
    square = williams_square(len(names))
    timings = {name: Timings() for name in names}
    failed: dict[str, str] = {}
    cursor = _cycle(len(inputs))
    began, round_ = time.perf_counter(), 0
    with _gc_off():
        while len(failed) < len(names) and (round_ < plan.runs or time.perf_counter() - began < plan.seconds):
            if on_round is not None:
                on_round(round_)
            for place in square[round_ % len(square)]:
                name = names[place]
                if name in failed:
                    continue
                try:
                    _turn(calls[name], inputs, cursor, plan, timings[name], name, check)
                except Exception as error:  # whatever a peer raises is its result
                    failed[name] = reason(error)
            round_ += 1
    return Measured({n: t for n, t in timings.items() if n not in failed}, failed)


def _turn(
    call: Callable[[In], Out],
    inputs: Sequence[In],
    cursor: Iterator[int],
    plan: Plan,
    timings: Timings,
    name: str,
    check: Callable[[str, int, Out], None] | None,
) -> None:
    timings.unsettled += not settle(plan.settle_s)
    for _ in range(plan.warm_calls):
        call(inputs[next(cursor)])
    index = next(cursor)
    batch = inputs[index]
    start = time.perf_counter_ns()
    output = call(batch)
    elapsed = time.perf_counter_ns() - start
    if check is not None:
        check(name, index, output)
    timings.ns.append(elapsed)


def settle(limit_s: float) -> bool:
    """Waits until no thread of this process runs, for at most `limit_s` seconds. Returns whether it came to that."""
    deadline = time.perf_counter() + limit_s
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        time.sleep(_SLICE_S)
        # The sleep may last longer than asked for on a busy machine: compare with what it did last.
        if time.process_time() - cpu < _QUIET_SHARE * (time.perf_counter() - wall):
            return True
        if time.perf_counter() >= deadline:
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


def _cycle(n: int) -> Iterator[int]:
    while True:
        yield from range(n)


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
