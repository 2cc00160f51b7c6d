"""The newest version in a log, as its deltas say, and how long an engine has been behind it."""

from __future__ import annotations

import time
from time import monotonic


class NewestVersion:
    """Belongs to one follower's thread; any thread may read its figures.

    A delta that was refused still counts: the engine is behind what was published. Once a later entry was put in place,
    it does not: whatever version a damaged or foreign delta claims, the engine is not behind for ever.
    """

    def __init__(self) -> None:
        self._seen: tuple[int, float, float] | None = None  # version, when it was produced, when it was seen here
        self._refused = -1

    @property
    def version(self) -> int:
        """The highest version that the log leads to, as far as it was read; -1 before anything was read."""
        seen = self._seen
        return -1 if seen is None else seen[0]

    def seen(self, version: int, produced_at: float) -> None:
        """Notes a delta, before anything of it was checked."""
        if self._seen is None or version > self._seen[0]:
            self._seen = version, produced_at, monotonic()

    def refused(self, version: int) -> None:
        """Notes that a delta to `version` was refused."""
        self._refused = max(self._refused, version)

    def reached(self, version: int) -> None:
        """Notes that `version` was put in place: what was refused before it is history."""
        if self._seen is not None and self._seen[0] <= self._refused:
            self._seen = None
        self._refused = -1
        if self._seen is not None and self._seen[0] <= version:
            self._seen = version, self._seen[1], self._seen[2]

    def lag_s(self, version: int) -> float:
        """Returns for how long there has been a version above `version`, by the clock that says longer."""
        seen = self._seen
        if seen is None or seen[0] <= version:
            return 0.0
        return max(0.0, time.time() - seen[1], monotonic() - seen[2])
