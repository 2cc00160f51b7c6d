"""Threads that ask the store for batches that do not wait, or not for long."""

from __future__ import annotations

import enum
import threading
import weakref
from collections.abc import Callable
from itertools import count
from queue import Empty, SimpleQueue

_Work = Callable[[], None]


class Submitted(enum.Enum):
    """What became of work that was offered."""

    TAKEN = "taken"
    FULL = "full"
    #: nobody will do it: this is closed, or the process can have no more threads. Do it yourself
    REFUSED = "refused"


class _Worker(threading.Thread):
    """Does what is queued until it finds None, which it leaves to the next."""

    def __init__(self, queue: SimpleQueue[_Work | None]) -> None:
        super().__init__(name="pepnet-misses", daemon=True)
        self._queue = queue
        self.done = 0  # pieces of work

    def run(self) -> None:
        """See `threading.Thread`."""
        while (work := self._queue.get()) is not None:
            work()
            self.done += 1
            del work  # what it holds is not kept until the next
        self._queue.put(None)


def in_worker() -> bool:
    """Whether this thread is one that works for others: no handler of a signal raises here."""
    return isinstance(threading.current_thread(), _Worker)


class MissWorkers:
    """A bounded queue and daemon threads, started when there is work: a store that hangs holds no process back.

    Work is a function that raises nothing. What was taken is done, also after `close`. The queue is one of C, a list
    grows and a count goes up in one step, so that an exception at any instruction leaves no lock behind that is held.
    An interrupt may leave more work counted than there is, which starts a thread too early, and a thread uncounted.
    """

    def __init__(self, threads: int = 4, queued: int = 64) -> None:
        """Takes work while fewer than `queued` pieces wait for one of `threads` threads."""
        self._threads, self._queued = threads, queued
        self._closed = False
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a child process: there are no threads here, and what was queued is the parent's."""
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._started: list[_Worker] = []  # and those about to be; none ends before this is closed
        self._submitted = count(1)
        weakref.finalize(self, self._queue.put, None).atexit = False  # the threads do not know of this object

    def submit(self, work: _Work) -> Submitted:
        """Queues `work`, unless there is no place, no thread can be had, or this is closed."""
        if self._closed:
            return Submitted.REFUSED
        if self._queue.qsize() >= self._queued:
            return Submitted.FULL
        open_work = next(self._submitted) - sum(thread.done for thread in self._started)
        if open_work > len(self._started) and not self._start() and not self._started:
            self._finish()  # what others queued for a thread that could not be had
            return Submitted.REFUSED
        self._queue.put(work)
        if self._closed or not self._started:  # in between: the threads may be gone
            self._finish()
        return Submitted.TAKEN

    def close(self) -> None:
        """Takes no more work; the threads end when they have done what there is."""
        self._closed = True
        self._queue.put(None)

    def _start(self) -> bool:
        """Returns whether a thread could be started: of those that try at once, the first in the list may."""
        thread, begun = _Worker(self._queue), False
        try:
            self._started.append(thread)
            if self._started.index(thread) < self._threads:
                thread.start()
                begun = True
        except RuntimeError:  # no more threads for this process
            pass
        finally:
            if not begun and thread in self._started:
                self._started.remove(thread)
        return begun

    def _finish(self) -> None:
        """Does all that is queued, in this thread, and leaves the word for the end, if it was said, to the others."""
        while True:
            try:
                work = self._queue.get_nowait()
            except Empty:
                break
            if work is not None:
                work()
        if self._closed:
            self._queue.put(None)
