"""What a follower has done, counted so that it can be read at any time."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from typing import Any

#: Upper edges in seconds of the histogram of freshness; one more bin has what is above the last.
EDGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class SyncStats:
    """Totals since the engine began to follow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._freshness = [0] * (len(EDGES) + 1)
        self._freshness_sum = 0.0
        self._last_refusal: str | None = None
        self._last_fault: str | None = None

    def reset_after_fork(self) -> None:
        """In a child process: whoever held the lock is not here."""
        self._lock = threading.Lock()

    def applied(self, rows: int, size: int, dense: bool, freshness_s: float) -> None:
        """Counts a delta that has become visible, `freshness_s` after it was produced."""
        with self._lock:
            self._counts["applied"] += 1
            self._counts["rows"] += rows
            self._counts["bytes"] += size
            self._counts["dense"] += dense
            self._freshness[bisect_left(EDGES, freshness_s)] += 1
            self._freshness_sum += freshness_s

    def count(self, what: str, by: int = 1) -> None:
        """Counts anything that has no more to say: folded, skipped, bundles, gaps, rollbacks, unguarded, replaced."""
        with self._lock:
            self._counts[what] += by

    def refused(self, reason: str, message: str) -> int:
        """Counts a delta or bundle that was not applied. Returns how many there were for this reason."""
        with self._lock:
            self._refused[reason] += 1
            self._last_refusal = message
            return self._refused[reason]

    def fault(self, message: str) -> None:
        """Counts an obstacle that is tried again, such as a log that could not be reached."""
        with self._lock:
            self._counts["faults"] += 1
            self._last_fault = message

    def read(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        deltas = ("applied", "dense", "rows", "bytes", "written_back", "skipped")
        names = (*deltas, "bundles", "gaps", "rollbacks", "unguarded", "replaced")
        with self._lock:
            return {
                **{name: self._counts[name] for name in (*names, "faults")},
                "refused": dict(self._refused),
                "last_refusal": self._last_refusal,
                "last_fault": self._last_fault,
                "freshness": {
                    "edges_s": list(EDGES),
                    "counts": list(self._freshness),
                    "sum_s": round(self._freshness_sum, 6),
                },
            }
