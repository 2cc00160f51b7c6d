"""Throttled warnings: the first one at once, later ones at most once a minute while their cause lasts."""

from __future__ import annotations

from time import monotonic

#: Seconds between two warnings of one cause.
AGAIN_AFTER_S = 60.0


class Seldom:
    """Says when a warning is due. Any thread may ask; two that ask at one moment may both be told to warn."""

    def __init__(self, seconds: float = AGAIN_AFTER_S) -> None:
        self._seconds, self._due = seconds, 0.0

    def due(self) -> bool:
        """Returns whether to warn now: the first time, and once `seconds` after each warning."""
        now = monotonic()
        if now < self._due:
            return False
        self._due = now + self._seconds
        return True

    def reset(self) -> None:
        """Lets the next warning be said at once: the cause was over."""
        self._due = 0.0


class SeldomEach:
    """The same for causes that are told apart by a name. There should be few of these."""

    def __init__(self, seconds: float = AGAIN_AFTER_S) -> None:
        self._seconds = seconds
        self._causes: dict[str, Seldom] = {}

    def due(self, cause: str) -> bool:
        """Returns whether to warn of `cause` now."""
        return self._causes.setdefault(cause, Seldom(self._seconds)).due()

    def reset(self, cause: str) -> None:
        """Lets the next warning of `cause` be said at once: it was over."""
        self._causes.pop(cause, None)
