"""Pauses: of the follower's thread, which yield to the threads that score, and of who waits for another thread."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep, thread_time

_PIECE_S = 0.0005  # of CPU time between two rests: what a scoring call waits for at most, if pieces are no longer
_LOOK_AGAIN_S = 0.002  # between two looks of `wait_for`
_LONGEST_S = 0.35  # of one step, rests and all: a large delta is not to be seen late for the sake of callers


class Pace:
    """Work in small pieces with rests between them, so that it takes no more than a share of one CPU.

    In one go, some 20 ms of work would stand in the way of every call of that moment: of each piece that holds the
    interpreter's lock, and of a CPU where there is no other. For one thread.
    """

    def __init__(self, share: float) -> None:
        self._rest = 1 / share - 1  # for each second of work
        self._since = 0.0  # of this thread's CPU time
        self._until = 0.0  # no rests from then on

    def begin(self, hurry: bool) -> None:
        """Begins a step. hurry: it is late already, and does not rest."""
        self._since = thread_time()
        self._until = 0.0 if hurry else monotonic() + _LONGEST_S

    def rest(self) -> None:
        """Rests, if the last rest was some work ago. Called between pieces."""
        worked = thread_time() - self._since
        if worked < _PIECE_S:
            return
        pause = min(worked * self._rest, self._until - monotonic())
        if pause > 0:
            sleep(pause)
        self._since = thread_time()


#: What takes a `Rest` calls it between pieces of its work, with nothing held that others wait for.
Rest = Callable[[], None]


def no_rest() -> None:
    """No-op: never yields the CPU."""


def wait_for(done: Callable[[], bool], timeout_s: float) -> bool:
    """Looks again and again whether something is `done`, and returns whether it was in time.

    There is no condition to wait for: nobody has to tell, and an interrupt could leave its lock held.
    """
    ends = monotonic() + timeout_s
    while not done():
        left = ends - monotonic()
        if left <= 0:
            return False
        sleep(min(_LOOK_AGAIN_S, left))
    return True
