"""The misses of one batch in the tables of one width: asked for together, waited for, served."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer._kernels import Fetch
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.cache.flights import LONG_AGO, Flights, positions
from pepnet_infer.rows.cache.miss_counters import ABSENT, DAMAGED, DEFERRED, DROPPED, FAULT, LATE, REASONS, MissCounters
from pepnet_infer.rows.cache.miss_workers import MissWorkers, Submitted
from pepnet_infer.rows.protocols import Rows
from pepnet_infer.schema.ids import MISSING_KEY, Keys
from pepnet_infer.schema.row_batch import RowBatch

Positions = npt.NDArray[np.int64]


class Part(NamedTuple):
    """The keys of one field that the cache had no row of. `serve` writes theirs."""

    out: Rows  # [N, dim], where the rows of the others are already
    default_row: npt.NDArray[np.float32]
    positions: Positions  # [M] rows of `out`
    asked: Positions | None  # which of `positions` the store is asked for; the rest do not exist. None: all
    keys: Keys  # those asked for


class MissBatch:
    """One batch's questions. Call `start`, then `finish`, then `serve`, once each, from one thread."""

    def __init__(self, flights: Flights, parts: list[Part], counters: MissCounters) -> None:
        self._flights, self._parts, self._counters = flights, parts, counters
        keys = parts[0].keys if len(parts) == 1 else np.concatenate([part.keys for part in parts])
        self._keys, self._which = _kernels.distinct(keys)
        self._blocks: list[Rows] = []
        self._rows = 0
        self._place: Positions | None = None  # of each key in the blocks; -1: the default row. None: nothing came
        self._reason: npt.NDArray[np.uint8] | None = None  # why a key has none; None: the store has no such id
        self._waiting: list[tuple[Fetch, Positions | None]] = []
        self.fault: StoreError | None = None
        self.late = False

    def start(self, workers: MissWorkers, since: int, waits: bool, hurries: bool) -> None:
        """Asks the store for what no other batch is asking for.

        since: `Flights.ended` before the keys were looked up. waits: whether the batch will wait for the answer;
        hurries: whether only for some time, so that another thread must do the asking.
        """
        self._workers, self._waits, self._hurries = workers, waits, hurries
        wanted, at = self._wanted()
        if len(wanted):
            self._flights.ask(wanted, since, partial(self._asked, at))

    def _asked(
        self, at: Positions | None, mine: Fetch | None, ours: Positions | None, others: list[tuple[Fetch, Positions]]
    ) -> None:
        """Has the store asked by this thread or another, and notes what to wait for. at: where the keys stand."""
        submitted = None
        if mine is not None:
            if self._hurries or not self._waits:
                handed = self._flights.hand_over(mine)
                submitted = self._workers.submit(handed)
                if submitted is Submitted.REFUSED:
                    handed()
                elif submitted is Submitted.FULL:
                    handed.drop()
            else:
                self._flights.run(mine)
        if self._waits or submitted is Submitted.REFUSED:
            self._waiting = [(fetch, _compose(at, theirs)) for fetch, theirs in others]
            if submitted is not Submitted.FULL and mine is not None:
                self._waiting.append((mine, _compose(at, ours)))
            if others:
                self._counters.count("joined", len(others))
        else:
            self._why(slice(None), DEFERRED)
        if submitted is Submitted.FULL:
            self._why(_all_or(_compose(at, ours)), DROPPED)
            self._counters.dropped()

    def finish(self, deadline: float | None) -> None:
        """Waits for the answers, until `deadline` (of `monotonic`; None: however long it takes)."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            for fetch, at in waiting:
                where = _all_or(at)
                if not fetch.wait(None if deadline is None else deadline - monotonic()):
                    self._why(where, LATE)
                    self.late = True
                elif fetch.given_up:
                    lacking = np.arange(len(self._keys))[where]
                    self._counters.count("again")
                    self._flights.ask(self._keys[lacking], LONG_AGO, partial(self._asked_again, lacking))
                elif fetch.fetched is None:
                    self._why(where, FAULT)
                    self.fault = fetch.fault
                else:
                    self._came(where, fetch, fetch.fetched)

    def _asked_again(
        self, at: Positions, mine: Fetch | None, ours: Positions | None, others: list[tuple[Fetch, Positions]]
    ) -> None:
        """Does what `_asked` does when a call that this one waited for was interrupted."""
        already, self._waiting = self._waiting, []
        self._asked(at, mine, ours, others)
        self._waiting += already

    def serve(self) -> list[tuple[int, int]]:
        """Writes the rows of each part. Returns how many keys of each got the default row, and of these unavailable.

        Counts why.
        """
        dim = self._flights.cache.dim
        blocks = self._blocks
        rows = blocks[0] if len(blocks) == 1 else np.concatenate(blocks) if blocks else np.empty((0, dim), np.float32)
        sources = np.full(len(self._which), -1) if self._place is None else self._place[self._which]
        counts, begin, absent = [], 0, 0
        for part in self._parts:
            end = begin + len(part.keys)
            mine = sources[begin:end]
            if part.asked is not None:
                mine = np.full(len(part.positions), -1, np.int64)
                mine[part.asked] = sources[begin:end]
            defaults = _kernels.serve(rows, mine, part.positions, part.default_row, part.out)
            unavailable = 0 if self._reason is None or not defaults else self._count_unavailable(begin, end, sources)
            counts.append((defaults, unavailable))
            absent += defaults - unavailable
            begin = end
        if absent:
            self._counters.defaults(ABSENT, absent)
        return counts

    def _came(self, where: Positions | slice, fetch: Fetch, fetched: RowBatch) -> None:
        """Notes where the rows of the keys at `where` are, and which are damaged."""
        if fetched.damaged is not None:
            mine = np.arange(len(self._keys))[where]
            self._why(mine[fetched.damaged[positions(fetch, self._keys[mine])]], DAMAGED)
        if self._place is None and isinstance(where, slice) and fetch.keys is self._keys:  # one fetch, one's own
            there = np.arange(len(self._keys))
            self._place = there if fetched.found.all() else np.where(fetched.found, there, -1)
        else:
            if self._place is None:
                self._place = np.full(len(self._keys), -1, np.int64)
            there = positions(fetch, self._keys[where])
            self._place[where] = np.where(fetched.found[there], there + self._rows, -1)
        self._blocks.append(fetched.rows)
        self._rows += len(fetched.rows)

    def _why(self, where: Positions | slice, reason: int) -> None:
        if self._reason is None:
            self._reason = np.full(len(self._keys), ABSENT, np.uint8)
        self._reason[where] = reason

    def _count_unavailable(self, begin: int, end: int, sources: Positions) -> int:
        """Counts by reason which of keys `begin` to `end` of those asked for are unavailable. Returns how many."""
        assert self._reason is not None
        lacking = sources[begin:end] < 0
        reasons = np.bincount(self._reason[self._which[begin:end][lacking]], minlength=len(REASONS))
        reasons[ABSENT] = 0
        for code in np.flatnonzero(reasons):
            self._counters.defaults(int(code), int(reasons[code]))
        return int(reasons.sum())

    def _wanted(self) -> tuple[Keys, Positions | None]:
        """What is asked for, and where it stands in the keys: not the key that stands for "no id"."""
        real = self._keys != MISSING_KEY
        if real.all():
            return self._keys, None
        self._flights.cache.core.mark_absent(self._keys[~real])
        at = np.flatnonzero(real)
        return self._keys[at], at


def _compose(outer: Positions | None, inner: Positions | None) -> Positions | None:
    """Positions of positions; None is all of them."""
    if outer is None or inner is None:
        return outer if inner is None else inner
    return outer[inner]


def _all_or(at: Positions | None) -> Positions | slice:
    return slice(None) if at is None else at
