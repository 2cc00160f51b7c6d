"""Threads that ask the store for batches that do not wait, or not for long."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic

#: A thread that has had nothing to do for so long ends; the next work starts another.
IDLE_SECONDS = 5.0


class Submitted(enum.Enum):
    """What became of work that was offered."""

    TAKEN = "taken"
    FULL = "full"
    #: nobody will do it: this is closed, or the process can have no more threads. Do it yourself
    REFUSED = "refused"


class _Worker(threading.Thread):
    """One of the threads."""


def in_worker() -> bool:
    """Whether this thread is one that works for others: no handler of a signal raises here."""
    return isinstance(threading.current_thread(), _Worker)


class _State:
    """What threads share with those who submit.

    The queue is one of C and a set changes in one step, so that an exception at any instruction of either side leaves
    no lock behind that is held, and no count that is off: threads are counted by who is alive.
    """

    def __init__(self) -> None:
        self.queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.running: set[threading.Thread] = set()  # those that will look into the queue again
        self.idle: set[threading.Thread] = set()
        self.closed = False


class MissWorkers:
    """A bounded queue and daemon threads, started when there is work: a store that hangs holds no process back.

    Work is a function that raises nothing. What was taken is done, also after `close`.
    """

    def __init__(self, threads: int = 4, queued: int = 64) -> None:
        """Takes work while fewer than `queued` pieces wait for one of `threads` threads."""
        self._threads, self._queued = threads, queued
        self._state = _State()

    def reset_after_fork(self) -> None:
        """In a child process: there are no threads here, and what was queued is the parent's."""
        closed = self._state.closed
        self._state = _State()
        self._state.closed = closed

    def submit(self, work: Callable[[], None]) -> Submitted:
        """Queues `work`, unless there is no place, no thread can be had, or this is closed."""
        state = self._state
        if state.closed:
            return Submitted.REFUSED
        waiting = state.queue.qsize()
        if waiting >= self._queued:
            return Submitted.FULL
        running = _alive(state.running)
        if _alive(state.idle) <= waiting and running < self._threads and not _start(state) and not running:
            return Submitted.REFUSED
        state.queue.put(work)
        if not state.running and not _start(state):  # the last one ended in between
            _finish(state.queue)
        return Submitted.TAKEN

    def close(self, timeout: float = 0.0) -> bool:
        """Takes no more work. Returns whether all threads have ended, for which it waits up to `timeout` seconds."""
        state, end = self._state, monotonic() + timeout
        state.closed = True
        threads = list(state.running)
        state.queue.put(None)  # each thread leaves it to the next
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in threads)

    @property
    def running(self) -> int:
        """How many threads there are."""
        return _alive(self._state.running)

    @property
    def waiting(self) -> int:
        """How much work waits for a thread."""
        return self._state.queue.qsize()


def _alive(threads: set[threading.Thread]) -> int:
    return sum(thread.is_alive() for thread in list(threads))


def _start(state: _State) -> bool:
    """Returns whether a thread could be started."""
    thread = _Worker(target=_work, args=(state,), name="pepnet-misses", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads for this process
        return False
    return True


def _work(state: _State) -> None:
    me = threading.current_thread()
    state.running.add(me)
    try:
        while True:
            state.idle.add(me)
            work = _next(state.queue, IDLE_SECONDS)
            state.idle.discard(me)
            if work is None:
                # First this, then a last look: who submits puts the work there first, and then looks who is running.
                state.running.discard(me)
                if state.closed:
                    _finish(state.queue)
                    return
                work = _next(state.queue, 0.0)
                if work is None:
                    return
                state.running.add(me)
            work()
            del work  # what it holds is not kept until the next
    finally:
        state.running.discard(me)
        state.idle.discard(me)


def _finish(queue: SimpleQueue[Callable[[], None] | None]) -> None:
    """Does all that is queued, in this thread, and leaves the word for the end to the others."""
    while queue.qsize():
        work = _next(queue, 0.0)
        if work is not None:
            work()
    queue.put(None)


def _next(queue: SimpleQueue[Callable[[], None] | None], seconds: float) -> Callable[[], None] | None:
    """Returns the next work, None when there was none for so long or the threads are to end."""
    try:
        return queue.get(timeout=seconds) if seconds else queue.get_nowait()
    except Empty:
        return None
