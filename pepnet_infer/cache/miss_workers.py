"""Threads that ask the store for batches that do not wait, or not for long."""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Callable

#: A thread that has had nothing to do for so long ends; the next work starts another.
IDLE_SECONDS = 5.0


class Submitted(enum.Enum):
    """What became of work that was offered."""

    TAKEN = "taken"
    FULL = "full"
    CLOSED = "closed"


class MissWorkers:
    """A bounded queue and daemon threads, started when there is work: a store that hangs holds no process back.

    Work is a function that raises nothing. What was taken is done, also after `close`.
    """

    def __init__(self, threads: int = 4, queued: int = 64) -> None:
        """Takes work while fewer than `queued` pieces wait for one of `threads` threads."""
        self._threads, self._queued = threads, queued
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[Callable[[], None]] = deque()
        self._running: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    def reset_after_fork(self) -> None:
        """In a child process: there are no threads here, and what was queued is the parent's."""
        closed = self._closed
        self._reset()
        self._closed = closed

    def submit(self, work: Callable[[], None]) -> Submitted:
        """Queues `work`, unless there is no place, no thread can be started, or this is closed."""
        with self._changed:
            if self._closed:
                return Submitted.CLOSED
            if len(self._queue) >= self._queued:
                return Submitted.FULL
            if self._idle <= len(self._queue) and len(self._running) < self._threads and not self._start():
                return Submitted.FULL
            self._queue.append(work)
            self._changed.notify()
            return Submitted.TAKEN

    def close(self, timeout: float = 0.0) -> bool:
        """Takes no more work. Returns whether all threads have ended, for which it waits up to `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._running, timeout)

    @property
    def running(self) -> int:
        """How many threads there are."""
        return len(self._running)

    def _start(self) -> bool:
        thread = threading.Thread(target=self._work, name="pepnet-misses", daemon=True)
        self._running.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no more threads for this process
            self._running.discard(thread)
            return bool(self._running)
        return True

    def _work(self) -> None:
        changed, me = self._changed, threading.current_thread()
        try:
            while (work := self._next(changed, me)) is not None:
                work()
                del work  # what it holds is not kept until the next
        finally:
            with changed:
                self._running.discard(me)
                changed.notify_all()

    def _next(self, changed: threading.Condition, me: threading.Thread) -> Callable[[], None] | None:
        with changed:
            self._idle += 1
            changed.wait_for(lambda: self._queue or self._closed, IDLE_SECONDS)
            self._idle -= 1
            if self._queue:
                return self._queue.popleft()
            # Under the same lock: `submit` sees either a thread that will look again, or that there is one fewer.
            self._running.discard(me)
            return None
