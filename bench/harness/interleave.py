"""How contenders take turns in one process, so that the ratios of their times can be compared.

One round is one timed call of every contender, in an order that is a row of a Williams square. Thread pools spin for a
while after a call (OpenMP's active wait, KMP_BLOCKTIME, ONNX Runtime's allow_spinning, TBB), which helps their own next
call and steals cores from anyone else's: a turn begins only once no other thread of the process runs. It then calls
untimed, until the contender's pool is awake, the scheduler has spread its threads over the cores (which takes some
milliseconds, and until then a worker may share the caller's core), and its weights are in the caches where they fit.
Garbage is not collected while calls are timed. docs/benchmarks.md says what that is worth.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

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


def paced(every_s: float, seconds: float) -> Iterator[None]:
    """Yields every so often, for so long. What takes longer than that is followed by the next at once."""
    due = now = time.perf_counter()
    ends = due + seconds
    while now < ends:
        yield
        due += every_s
        time.sleep(max(0.0, min(due, ends) - time.perf_counter()))
        now = time.perf_counter()


def williams_square(n: int) -> list[list[int]]:
    """Returns orders of range(n) in which each follows each other one equally often, and stands at each place so.

    E. J. Williams, "Experimental designs balanced for the estimation of residual effects of treatments", 1949: n
    orders when n is even, 2n (each also backwards) when it is odd.
    """
    first = [(place + 1) // 2 if place % 2 else (n - place // 2) % n for place in range(n)]  # 0, 1, n-1, 2, n-2, ...
    square = [[(x + shift) % n for x in first] for shift in range(n)]
    return square if n % 2 == 0 or n == 1 else square + [row[::-1] for row in square]


@contextmanager
def collector_off() -> Iterator[None]:
    """Collects garbage before the block, and none within it."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
