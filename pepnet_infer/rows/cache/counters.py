"""What became of the ids that were looked up, counted so that it can be read at any time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import Tally
from pepnet_infer.schema.ids import ID_BITS
from pepnet_infer.stats import LookupCounts, MissCounts
from pepnet_infer.throttled_warnings import Seldom

_LOG = logging.getLogger("pepnet_infer.stores")

#: Why a key got the default row, in the order of the codes: the store has no such id; the budget was over; the store
#: failed; the batch did not wait (`async_above`), and the fetch goes on or had no place in the queue; what is stored
#: cannot be served. All but the first are unavailable.
REASONS = ("absent", "late", "fault", "deferred", "dropped", "damaged")
ABSENT, LATE, FAULT, DEFERRED, DROPPED, DAMAGED = range(len(REASONS))


#: What is counted of the store: see `MissCounts.store`.
_STORE = ("calls", "keys", "nanoseconds", "faults", "joined", "overruns", "dropped", "touched", "again", "damaged")


class MissCounters:
    """Totals since the cache was made. Each count is one addition that nothing can interrupt."""

    def __init__(self) -> None:
        #: by (field or "", table): keys, hits, negative_hits, defaults, unavailable; see `LookupCounts`
        self.looked_up = Tally()
        self._sums = Tally()  # by reason (a code) and by what `_STORE` names
        self._last_fault: str | None = None
        self._failing = False  # as far as it was said
        self._warnings = Seldom()
        self._said: dict[str, int] = {}  # of each sum that is warned of, how large it was at the last warning

    def defaults(self, reasons: npt.NDArray[np.int64]) -> None:
        """Counts keys that got the default row, how many for each of `REASONS`."""
        self._sums.add([(int(code), (int(reasons[code]),)) for code in np.flatnonzero(reasons)])

    def asked(self, keys: int, seconds: float) -> None:
        """Counts one question to the store."""
        self._sums.add([("calls", (1,)), ("keys", (keys,)), ("nanoseconds", (round(seconds * 1e9),))])

    def fault(self, error: Exception) -> None:
        """Counts one question that was not answered."""
        self.saw(error)
        self.count("faults")

    def saw(self, error: Exception) -> None:
        """Notes why the store cannot be read, where nobody has asked it for rows: as an engine is loaded, say."""
        self._last_fault = f"{type(error).__name__}: {error}"

    def warn(self) -> None:
        """Warns of faults that were counted: of the first, and now and then while they last.

        Apart from counting, for when nobody waits any more: a handler of the log may take its time, or never return.
        """
        if self._warnings.due("faults"):
            self._warn_of("faults", "no answer from the store", self._last_fault)
            self._failing = True

    def answered(self) -> None:
        """Says once that the store answers again, after a warning that it did not."""
        if self._failing:
            self._failing = False
            faults = self._sums.read()["faults"][0]
            _LOG.warning("the store answers again, after %d questions without an answer", faults)

    def overrun(self, budget_ms: float | None) -> None:
        """Counts one batch that its budget was too short for, and warns as for a fault, but for a budget of nothing."""
        self.count("overruns")
        if budget_ms and self._warnings.due("overruns"):
            why = f"ids that a batch waited for got default rows{self._mean_call()}"
            self._warn_of("overruns", f"no answer from the store within budget_ms={budget_ms:g}", why)

    def dropped(self) -> None:
        """Counts one fetch that the queue had no place for, and warns as for a fault."""
        self.count("dropped")
        if self._warnings.due("dropped"):
            why = f"the ids of a fetch that was not made got default rows{self._mean_call()}"
            self._warn_of("dropped", "the queue of fetches from the store is full", why)

    def damaged(self, keys: npt.NDArray[np.uint64]) -> None:
        """Counts distinct keys of which something is stored that cannot be served, and warns as for a fault."""
        key = int(keys[0])
        self._last_fault = (
            f"StoreError: key {key} (id {key & (1 << ID_BITS) - 1} of table {key >> ID_BITS}): expected a row of the "
            f"table's width, undamaged, got another"
        )
        self.count("damaged", len(keys))
        if self._warnings.due("damaged"):
            self._warn_of("damaged", "the store has a row that cannot be served", self._last_fault)

    def count(self, what: str, number: int = 1) -> None:
        """Adds to one of the sums that `_STORE` names."""
        self._sums.add([(what, (number,))])

    def _warn_of(self, what: str, said: str, why: str | None) -> None:
        """Warns of one of the sums, with how far it grew since the last warning."""
        total = int(self._sums.read()[what][0])
        since, self._said[what] = total - self._said.get(what, 0), total
        more = "" if since == total else f" ({since} since the last warning)"
        _LOG.warning("%s%s: %s", said, more, why)

    def _mean_call(self) -> str:
        """Returns what a call to the store takes, in words; nothing before the first has come back."""
        sums = self._sums.read()
        calls = sums.get("calls", (0,))[0]
        return f"; a call to it has taken {sums['nanoseconds'][0] / calls / 1e6:.3g} ms on average" if calls else ""

    def read(self) -> MissCounts:
        """Returns total, fields and tables (counts each), defaults by reason, and store."""
        looked_up = {place: list(counts) for place, counts in self.looked_up.read().items()}
        sums = self._sums.read()
        counted: dict[str, Any] = {name: sums.get(name, (0,))[0] for name in _STORE}
        counted["seconds"] = round(counted.pop("nanoseconds") / 1e9, 6)
        return {
            "total": _added(looked_up.values()),
            "fields": _by(0, looked_up),
            "tables": _by(1, looked_up),
            "defaults": {reason: sums.get(code, (0,))[0] for code, reason in enumerate(REASONS)},
            "store": {**counted, "last_fault": self._last_fault},
        }


def _by(part: int, sums: dict[tuple[str, str], list[int]]) -> dict[str, LookupCounts]:
    """Sums by field (0) or table (1)."""
    names = dict.fromkeys(place[part] for place in sums if place[part])
    return {name: _added(counts for place, counts in sums.items() if place[part] == name) for name in names}


def _added(parts: Iterable[list[int]]) -> LookupCounts:
    keys, hits, negative_hits, defaults, unavailable = [sum(some) for some in zip(*parts, strict=True)] or [0] * 5
    return {
        "keys": keys,
        "hits": hits,
        "misses": keys - hits - negative_hits,
        "negative_hits": negative_hits,
        "defaults": defaults,
        "unavailable": unavailable,
    }
