"""What a follower has done, and how far behind its log it is, so that any thread can read it at any time."""

from __future__ import annotations

import time
from bisect import bisect_left
from time import monotonic
from typing import Any

from pepnet_infer.process import forks

#: Upper edges in seconds of the histogram of freshness; one more bin has what is above the last.
EDGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_DELTAS = ("applied", "dense", "rows", "bytes", "written_back", "skipped")
_COUNTS = (*_DELTAS, "bundles", "gaps", "rollbacks", "unguarded", "replaced", "faults")


class SyncStats(forks.OwnLock):
    """Totals since the engine began to follow."""

    def __init__(self) -> None:
        super().__init__()
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._refused: dict[str, int] = {}
        self._freshness = [0] * (len(EDGES) + 1)
        self._freshness_sum = 0.0
        self._last_refusal: str | None = None
        self._last_fault: str | None = None

    def applied(self, rows: int, size: int, dense: bool, freshness_s: float) -> None:
        """Counts a delta that has become visible, `freshness_s` after it was produced."""
        with self._lock:
            for name, by in (("applied", 1), ("rows", rows), ("bytes", size), ("dense", int(dense))):
                self._counts[name] += by
            self._freshness[bisect_left(EDGES, freshness_s)] += 1
            self._freshness_sum += freshness_s

    def count(self, what: str) -> None:
        """Counts what has no more to say: written_back, skipped, bundles, gaps, rollbacks, unguarded, replaced."""
        with self._lock:
            self._counts[what] += 1

    def refused(self, reason: str, message: str) -> int:
        """Counts a delta or bundle that was not applied. Returns how many there were for this reason."""
        with self._lock:
            self._refused[reason] = self._refused.get(reason, 0) + 1
            self._last_refusal = message
            return self._refused[reason]

    def fault(self, message: str) -> None:
        """Counts an obstacle that is tried again, such as a log that could not be reached."""
        with self._lock:
            self._counts["faults"] += 1
            self._last_fault = message

    def read(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        with self._lock:
            return {
                **self._counts,
                "refused": dict(self._refused),
                "last_refusal": self._last_refusal,
                "last_fault": self._last_fault,
                "freshness": {
                    "edges_s": list(EDGES),
                    "counts": list(self._freshness),
                    "sum_s": round(self._freshness_sum, 6),
                },
            }


class NewestVersion:
    """The newest version in a log, as its deltas say. Belongs to one follower's thread.

    A delta that was refused still counts: the engine is behind what was published. Once a later entry was put in place,
    it does not: whatever version a damaged or foreign delta claims, the engine is not behind for ever.
    """

    def __init__(self) -> None:
        self._seen = (-1, 0.0, 0.0)  # version, when it was produced, when it was seen here
        self._refused = -1

    @property
    def version(self) -> int:
        """The highest version that the log leads to, as far as it was read; -1 before anything was read."""
        return self._seen[0]

    def seen(self, version: int, produced_at: float) -> None:
        """Notes a delta, before anything of it was checked."""
        if version > self.version:
            self._seen = version, produced_at, monotonic()

    def refused(self, version: int) -> None:
        """Notes that a delta to `version` was refused."""
        self._refused = max(self._refused, version)

    def reached(self, version: int) -> None:
        """Notes that `version` was put in place: what was refused before it is history."""
        newest, produced_at, here_since = self._seen
        self._seen = -1 if newest <= self._refused else max(newest, version), produced_at, here_since
        self._refused = -1

    def lag_s(self, version: int) -> float:
        """Returns for how long there has been a version above `version`, by the clock that says longer."""
        newest, produced_at, here_since = self._seen
        return 0.0 if newest <= version else max(0.0, time.time() - produced_at, monotonic() - here_since)
