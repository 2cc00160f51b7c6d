"""Throttled warnings: the first one at once, later ones at most once a minute while their cause lasts."""

from __future__ import annotations

from time import monotonic

#: Seconds between two warnings of one cause.
AGAIN_AFTER_S = 60.0


class Seldom:
    """Says when a warning is due. Any thread may ask; two that ask at one moment may both be told to warn."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def due(self, cause: str = "") -> bool:
        """Returns whether to warn of `cause` now. There should be few causes."""
        now = monotonic()
        if now < self._due.get(cause, 0.0):
            return False
        self._due[cause] = now + AGAIN_AFTER_S
        return True

    def reset(self, cause: str = "") -> None:
        """Lets the next warning of `cause` be said at once: it was over."""
        self._due.pop(cause, None)
