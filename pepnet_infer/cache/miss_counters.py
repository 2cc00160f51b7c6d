"""What became of the ids that were looked up, counted so that it can be read at any time."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

#: Why a key got the default row, in the order of the codes: the store has no such id; the budget was over; the store
#: failed; the batch did not wait (`async_above`), and the fetch goes on or had no place in the queue. All but the
#: first are unavailable.
REASONS = ("absent", "late", "fault", "deferred", "dropped")
ABSENT, LATE, FAULT, DEFERRED, DROPPED = range(len(REASONS))


class Looked(Protocol):
    """One field of one batch, every repeat counted."""

    place: tuple[str, str]  # (field or "", table)
    keys: int
    hits: int
    negative_hits: int  # known not to exist: the default row, without a question
    defaults: int  # keys that got the default row, for whatever reason
    unavailable: int  # of these, those of which it is not known whether there is a row


_NAMES = ("keys", "hits", "negative_hits", "defaults", "unavailable")


@dataclass
class _Store:
    """Questions to the store: distinct keys, and what went wrong."""

    calls: int = 0
    keys: int = 0
    seconds: float = 0.0
    faults: int = 0
    last_fault: str | None = None
    joined: int = 0  # times that a batch waited for another's flight
    overruns: int = 0  # batches that ran over their budget
    dropped: int = 0  # flights for which the queue had no place
    touched: int = 0  # rows served and not kept: an update came while they were fetched


@dataclass
class MissCounters:
    """Totals since the cache was made. The lock is held for a few additions, never during work."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sums: dict[tuple[str, str], list[int]] = field(default_factory=dict)  # in the order of `_NAMES`
    _defaults: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(len(REASONS)), 0))
    _store: _Store = field(default_factory=_Store)

    def reset_after_fork(self) -> None:
        """In a child process: whoever held the lock is not here."""
        self._lock = threading.Lock()

    def looked_up(self, batch: Iterable[Looked]) -> None:
        """Counts the fields of one batch."""
        with self._lock:
            for looked in batch:
                sums = self._sums.get(looked.place)
                if sums is None:
                    sums = self._sums[looked.place] = [0] * len(_NAMES)
                sums[0] += looked.keys
                sums[1] += looked.hits
                sums[2] += looked.negative_hits
                sums[3] += looked.defaults
                sums[4] += looked.unavailable

    def defaults(self, reason: int, keys: int) -> None:
        """Counts keys that got the default row, by its place in `REASONS`."""
        with self._lock:
            self._defaults[reason] += keys

    def asked(self, keys: int, seconds: float) -> None:
        """Counts one question to the store."""
        with self._lock:
            self._store.calls += 1
            self._store.keys += keys
            self._store.seconds += seconds

    def fault(self, error: Exception) -> None:
        """Counts one question that was not answered."""
        with self._lock:
            self._store.faults += 1
            self._store.last_fault = f"{type(error).__name__}: {error}"

    def joined(self, flights: int) -> None:
        """Counts flights of other batches that one waited for."""
        with self._lock:
            self._store.joined += flights

    def overrun(self) -> None:
        """Counts a batch whose budget was over before its rows were there."""
        with self._lock:
            self._store.overruns += 1

    def dropped(self) -> None:
        """Counts a flight for which the queue had no place."""
        with self._lock:
            self._store.dropped += 1

    def touched(self, rows: int) -> None:
        """Counts rows that were served and not kept."""
        with self._lock:
            self._store.touched += rows

    def read(self) -> dict[str, Any]:
        """Returns total, fields and tables (counts each), defaults by reason, and store."""
        with self._lock:
            sums = {place: list(counts) for place, counts in self._sums.items()}
            defaults = {REASONS[code]: count for code, count in self._defaults.items()}
            store = {**vars(self._store), "seconds": round(self._store.seconds, 6)}
        return {
            "total": _added(sums.values()),
            "fields": _by(0, sums),
            "tables": _by(1, sums),
            "defaults": defaults,
            "store": store,
        }


def _by(part: int, sums: dict[tuple[str, str], list[int]]) -> dict[str, dict[str, int]]:
    """Sums by field (0) or table (1)."""
    names = dict.fromkeys(place[part] for place in sums if place[part])
    return {name: _added(counts for place, counts in sums.items() if place[part] == name) for name in names}


def _added(parts: Iterable[list[int]]) -> dict[str, int]:
    keys, hits, negative_hits, defaults, unavailable = [sum(column) for column in zip(*parts, strict=True)] or [
        0
    ] * len(_NAMES)
    return {
        "keys": keys,
        "hits": hits,
        "misses": keys - hits - negative_hits,
        "negative_hits": negative_hits,
        "defaults": defaults,
        "unavailable": unavailable,
    }
