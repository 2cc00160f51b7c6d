"""What an engine has done, counted so that it can be read while it works."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from time import monotonic, perf_counter_ns
from typing import Any, TypeVar

_T = TypeVar("_T")
STAGES = ("encode", "lookup", "dense")
_LOG = logging.getLogger("pepnet_infer.engine")
#: Seconds between two warnings about rows without scores.
_WARN_EVERY_S = 60.0
_CAUSE = "their inputs or embedding rows are no numbers or overflow float32"


class Stopwatch:
    """Times the stages of one call: nanoseconds by stage."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(STAGES, 0)

    def time(self, stage: str, work: Callable[[], _T]) -> _T:
        """Returns what `work` returns and adds its time to `stage`."""
        begin = perf_counter_ns()
        try:
            return work()
        finally:
            self.spent[stage] += perf_counter_ns() - begin


class Counters:
    """Totals since the engine was loaded. The lock is held for a few additions, never during work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches = self._rows = self._errors = self._invalid = 0
        self._warn_from = 0.0
        self._unknown: Counter[str] = Counter()
        self._unavailable: Counter[str] = Counter()
        self._spent = dict.fromkeys(STAGES, 0)

    def reset_after_fork(self) -> None:
        """In a child process: whoever held the lock is not here."""
        self._lock = threading.Lock()

    def add(self, rows: int, unknown: Mapping[str, int], unavailable: Mapping[str, int], watch: Stopwatch) -> None:
        """Counts one batch that was scored."""
        with self._lock:
            self._batches += 1
            self._rows += rows
            if unknown:
                self._unknown.update(unknown)
            if unavailable:
                self._unavailable.update(unavailable)
            for stage, spent in watch.spent.items():
                self._spent[stage] += spent

    def add_dense(self, rows: int, spent: int) -> None:
        """Counts one batch of which only the dense part was run here, in `spent` nanoseconds."""
        with self._lock:
            self._batches += 1
            self._rows += rows
            self._spent["dense"] += spent

    def add_time(self, watch: Stopwatch) -> None:
        """Counts the time of work that was no whole batch: encoding alone, for one."""
        with self._lock:
            for stage, spent in watch.spent.items():
                self._spent[stage] += spent

    def add_invalid(self, rows: int) -> None:
        """Counts rows of which a score is no number in [0, 1], and logs a warning, the next one a minute later."""
        now = monotonic()
        with self._lock:
            self._invalid += rows
            total, warn = self._invalid, now >= self._warn_from
            if warn:
                self._warn_from = now + _WARN_EVERY_S
        if warn:
            _LOG.warning("%d rows have scores that are no numbers in [0, 1], of %d so far: %s", rows, total, _CAUSE)

    def add_error(self) -> None:
        """Counts one call that raised."""
        with self._lock:
            self._errors += 1

    def __enter__(self) -> None:
        """Begins a call: `with counters:` counts it if it raises, and lets the exception pass."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.add_error()

    def read(self) -> dict[str, Any]:
        """Returns batches, rows, errors, invalid, unknown and unavailable (by field) and time_us (by stage)."""
        with self._lock:
            return {
                "batches": self._batches,
                "rows": self._rows,
                "errors": self._errors,
                "invalid": self._invalid,
                "unknown": dict(self._unknown),
                "unavailable": dict(self._unavailable),
                "time_us": {stage: spent // 1000 for stage, spent in self._spent.items()},
            }
