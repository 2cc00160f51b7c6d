"""What a follower has done, how far behind its log it is, and whether it can read it. Any thread may ask."""

from __future__ import annotations

import contextlib
import logging
import time
from bisect import bisect_left
from collections.abc import Iterator
from time import monotonic
from typing import Any

from pepnet_infer._kernels import Tally
from pepnet_infer.errors import UpdateError
from pepnet_infer.quoting import MOST_MESSAGE, clip
from pepnet_infer.throttled_warnings import Seldom

_LOG = logging.getLogger("pepnet_infer.sync")

#: Upper edges in seconds of the histogram of freshness; one more bin has what is above the last.
EDGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_COUNTS = (
    "applied",
    "dense",
    "rows",
    "bytes",
    "written_back",
    "skipped",
    "bundles",
    "gaps",
    "rollbacks",
    "unguarded",
    "replaced",
    "faults",
)
_FRESHNESS, _REFUSED = "freshness", "refused"  # what other sums are of
_LATE_S = 1.0  # beyond what a read may wait: a log that answers later than that is not followed


class SyncStats:
    """Totals since the engine began to follow. Nothing is locked.

    The counts that one call adds are seen together, and the last message of a kind never before it is counted.
    """

    def __init__(self) -> None:
        self._tally = Tally()
        self._last_refusal: str | None = None
        self._last_fault: str | None = None

    def applied(self, rows: int, size: int, dense: bool, freshness_s: float) -> None:
        """Counts a delta that has become visible, `freshness_s` after it was produced."""
        bins = [0] * (len(EDGES) + 1)
        bins[bisect_left(EDGES, freshness_s)] = 1
        counts = {"applied": (1,), "rows": (rows,), "bytes": (size,), "dense": (int(dense),)}
        self._tally.add([*counts.items(), (_FRESHNESS, (round(freshness_s * 1e6), *bins))])

    def count(self, what: str) -> None:
        """Counts what has no more to say: written_back, skipped, bundles, gaps, rollbacks, unguarded, replaced."""
        self._tally.add([(what, (1,))])

    def refused(self, reason: str, message: str) -> int:
        """Counts a delta or bundle that was not applied. Returns how many there were for this reason."""
        self._tally.add([((_REFUSED, reason), (1,))])
        self._last_refusal = message
        return self._tally.read()[_REFUSED, reason][0]

    def fault(self, message: str) -> None:
        """Counts an obstacle that is tried again, such as a log that could not be reached."""
        self.count("faults")
        self._last_fault = message

    def read(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        refusal, fault = self._last_refusal, self._last_fault  # before the counts, which are added before they are set
        sums = self._tally.read()
        microseconds, *bins = sums.pop(_FRESHNESS, (0,) * (len(EDGES) + 2))
        return {
            **{name: sums.pop(name, (0,))[0] for name in _COUNTS},
            "refused": {reason: count for (_, reason), (count,) in sums.items()},
            "last_refusal": refusal,
            "last_fault": fault,
            "freshness": {"edges_s": list(EDGES), "counts": bins, "sum_s": microseconds / 1e6},
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


class LogHealth:
    """Whether a follower can read its log now, since when it cannot, and what is counted and logged about that.

    Belongs to one follower's thread; any thread may read its figures.
    """

    def __init__(self, stats: SyncStats, wait_s: float) -> None:
        """`wait_s`: how long a read waits at most for something new."""
        self._stats, self._patience = stats, wait_s + _LATE_S
        self._last = monotonic()  # when the log was read last, or first asked for
        self._asked: float | None = None  # when the read under way began
        self._lost: float | None = None  # the time of the last read before those that failed
        self._warnings = Seldom()  # by kind of fault
        self._raised: Exception | None = None  # by `reading`, last

    @property
    def last_read_s(self) -> float:
        """Seconds since the log was read last, whether there was anything new in it or not."""
        return max(0.0, monotonic() - self._last)

    @property
    def unread_s(self) -> float:
        """Seconds since the log was read last, where that is longer than a healthy read takes; else 0."""
        unread = self.last_read_s
        return unread if self._lost is not None or unread > self._patience else 0.0

    @property
    def away(self) -> bool:
        """Whether the log cannot be read: a read failed, or one does not come back, as of a server that hangs."""
        asked = self._asked
        return self._lost is not None or (asked is not None and monotonic() - asked > self._patience)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Wraps every other question to the log: a log that answers late counts as away too."""
        self._asked = monotonic()
        try:
            yield
        finally:
            self._asked = None

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Wraps each read of the log. Counts what goes wrong and raises it as UpdateError."""
        try:
            with self.asking():
                yield
        except Exception as error:
            if self._lost is None:
                self._lost = self._last
            away = monotonic() - self._lost
            self.fault("read", "the log cannot be read" + (f" for {away:.0f} s now" if away >= 1 else ""), error)
            self._raised = error
            if isinstance(error, UpdateError):
                raise
            self._raised = UpdateError("transport", f"{type(error).__name__}: {error}")
            raise self._raised from error
        now = monotonic()
        if self._lost is not None:
            _LOG.warning("the log can be read again, after %.0f s", now - self._lost)
            self._warnings.reset("read")
        self._last, self._lost = now, None

    def has_said(self, error: Exception) -> bool:
        """Whether `reading` has raised this error, and counted it."""
        return error is self._raised

    def fault(self, kind: str, what: str, error: Exception) -> None:
        """Counts a fault. The first of a kind is a warning, and later ones at intervals."""
        self._stats.fault(clip(f"{what}: {type(error).__name__}: {error}", MOST_MESSAGE))
        if self._warnings.due(kind):
            _LOG.warning("%s: %s", what, clip(error, MOST_MESSAGE))
