"""Whether a follower can read its log now, since when it cannot, and what is counted and logged about that."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from time import monotonic

from pepnet_infer.errors import UpdateError
from pepnet_infer.quoting import MOST_MESSAGE, clip
from pepnet_infer.sync.sync_stats import SyncStats
from pepnet_infer.throttled_warnings import Seldom

_LOG = logging.getLogger("pepnet_infer.sync")
_LATE_S = 1.0  # beyond what a read may wait: a log that answers later than that is not followed


class LogHealth:
    """Belongs to one follower's thread; any thread may read its figures."""

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
