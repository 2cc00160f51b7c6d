"""Threads that score and note when and how long, and a thread that notes when versions become visible."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer import Engine
from pepnet_infer.sync.follower import Follower

Times = npt.NDArray[np.int64]


class Scorers:
    """Score `batches` from `threads` threads until `stop`.

    load: the share of the time that each thread scores; for the rest it waits, as one does that has no request.
    """

    def __init__(self, engine: Engine, batches: Sequence[Any], threads: int, load: float) -> None:
        self._engine, self._batches = engine, batches
        self._rest = (1 - load) / load
        self._stop = threading.Event()
        self._calls: list[list[tuple[int, int]]] = [[] for _ in range(threads)]
        self._failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads. Raises what one of them raised."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def calls(self) -> tuple[Times, Times]:
        """Returns when calls so far began and ended, in nanoseconds of `perf_counter_ns`."""
        pairs = np.array([pair for calls in self._calls for pair in calls[:]], np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def recent(self, since_ns: int) -> Times:
        """Returns the nanoseconds of each call that ended after `since_ns`."""
        took = []
        for calls in self._calls:
            for at in range(len(calls) - 1, -1, -1):
                began, ended = calls[at]
                if ended < since_ns:
                    break
                took.append(ended - began)
        return np.array(took, np.int64)

    def _run(self, number: int) -> None:
        calls, at = self._calls[number], 29 * number
        try:
            while not self._stop.is_set():
                batch = self._batches[at % len(self._batches)]
                at += 1
                began = time.perf_counter_ns()
                self._engine.score(batch)
                ended = time.perf_counter_ns()
                calls.append((began, ended))
                if self._rest:
                    time.sleep(self._rest * (ended - began) / 1e9)
        except BaseException as error:
            self._failure = error


class Watch:
    """Notes when each version is served first, as seen from outside: woken by the follower, then by the clock."""

    def __init__(self, engine: Engine, follower: Follower) -> None:
        self._engine, self._follower, self._version = engine, follower, engine.model_version
        self.seen: list[tuple[float, int]] = []  # Unix seconds, model version
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def visible(self, version: int) -> float | None:
        """Returns when `version`, or a later one, was served first; None: not yet."""
        return next((at for at, seen in self.seen if seen >= version), None)

    def _run(self) -> None:
        version = self._version
        while not self._stop.is_set():
            if self._follower.wait_for(version + 1, 0.1):
                at, version = time.time(), self._engine.model_version
                self.seen.append((at, version))
