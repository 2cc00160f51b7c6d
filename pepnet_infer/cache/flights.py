"""Fetches from the store that are under way: each id once, whatever the threads that miss it."""

from __future__ import annotations

import threading
from time import monotonic
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pepnet_infer.cache.embedding_cache import EmbeddingCache
from pepnet_infer.cache.miss_counters import MissCounters
from pepnet_infer.errors import StoreError
from pepnet_infer.ids import Keys
from pepnet_infer.store import Fetched
from pepnet_infer.store.checked import CheckedStore

Positions = npt.NDArray[np.int64]


class Flight:
    """One question to the store. Whoever misses one of its `keys` meanwhile waits for it instead of asking again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.looks_again = False  # whether rows of its keys may have come to the cache since they were missed
        self.keys: Keys = np.empty(0, np.uint64)
        self.fetched: Fetched | None = None  # set once, before `fault` or it is looked at
        self.fault: StoreError | None = None
        self._settled = threading.Event()
        self._order: Positions | None = None

    def settle(self, fetched: Fetched | None, fault: StoreError | None) -> None:
        """Says what came of it, and wakes those who wait."""
        self.fetched, self.fault = fetched, fault
        self._settled.set()

    @property
    def settled(self) -> bool:
        """Whether it is known what came of it."""
        return self._settled.is_set()

    def wait(self, deadline: float | None) -> bool:
        """Returns whether it is settled, by `deadline` (of `monotonic`; None: however long it takes)."""
        return self._settled.wait(None if deadline is None else max(0.0, deadline - monotonic()))

    def positions(self, keys: Keys) -> Positions:
        """Returns where `keys`, all of them among its own, stand in them."""
        if np.array_equal(keys, self.keys):
            return np.arange(len(keys))  # the batch that made it
        order = self._order
        if order is None:  # two threads may both do this, with one result
            order = self._order = np.argsort(self.keys)
        return order[np.searchsorted(self.keys, keys, sorter=order)]


class Boarding(NamedTuple):
    """Who fetches the keys of a batch: a flight of its own, and the flights of others by the keys they have."""

    mine: Flight | None
    at: Positions | None  # where the keys of `mine` stand in the batch; None: they are all of it
    others: list[tuple[Flight, Positions]]


class Flights:
    """The flights of one cache. No thread waits for a flight before its own is settled, so that none waits in a ring.

    Between a miss and `begin` another flight may have come down with the row. Then the flight looks into the cache
    before it asks: else an id would be asked for twice, and a row that is newer than the cache's would be served and,
    if an update touched it, not kept, so that the next reader is back at the older one.

    The row of an id for which an update came while it was fetched is served and not written: see `FlightTable` in
    `kernels/src/cache/flights.h`.
    """

    def __init__(self, cache: EmbeddingCache, store: CheckedStore, counters: MissCounters) -> None:
        self.cache = cache
        self.store = store
        self._counters = counters
        self._reset()

    def _reset(self) -> None:
        # Held for calls into the table that are short: an id's owner is never seen before it can be waited for.
        self._lock = threading.Lock()
        self._under_way: dict[int, Flight] = {}
        self._last = 0
        #: how many have ended: to be read before a lookup, and handed to `begin`
        self.ended = 0

    def reset_after_fork(self) -> None:
        """In a child process: forgets flights, whose threads are not here."""
        self.cache.reset_after_fork()
        self._reset()

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, keys: Keys, since: int) -> Boarding:
        """Enters distinct `keys`, which the cache lacked after `ended` was `since`.

        What it returns as `mine` must be given to `run` or `drop`.
        """
        table = self.cache.flights
        with self._lock:
            self._last += 1
            mine = Flight(self._last)
            mine.looks_again = self.ended != since
            owners = table.begin(keys, mine.number)
            try:
                ours = owners == mine.number
                if ours.all():
                    mine.keys = keys
                    self._under_way[mine.number] = mine
                    return Boarding(mine, None, [])
                at = np.flatnonzero(ours)
                others = [
                    (self._under_way[int(number)], np.flatnonzero(owners == number))
                    for number in np.unique(owners[~ours])
                ]
                if not at.size:
                    return Boarding(None, None, others)
                mine.keys = keys[at]
                self._under_way[mine.number] = mine
                return Boarding(mine, at, others)
            except BaseException:  # out of memory, or a signal: nobody would ever settle it
                self._under_way.pop(mine.number, None)
                table.end(keys, mine.number)
                raise

    def run(self, flight: Flight, certain: bool = False) -> None:
        """Asks the store, wakes those who wait, and writes what came to the cache. A fault is the flight's.

        certain: what came is admitted, whatever the fields' probability.
        """
        try:
            try:
                asked, fetched = self._ask(flight)
            except StoreError as error:
                self._counters.fault(error)
                flight.settle(None, error)
                return
            try:
                self._fill(asked, flight.number, fetched, certain)
            except Exception as error:  # the rows are served all the same
                self._counters.fault(error)
        finally:
            self._end(flight)

    def drop(self, flight: Flight) -> None:
        """Ends a flight that will not be run."""
        self._end(flight)

    def _end(self, flight: Flight) -> None:
        with self._lock:
            self.cache.flights.end(flight.keys, flight.number)
            self._under_way.pop(flight.number, None)
            self.ended += 1
        if not flight.settled:
            flight.settle(None, StoreError("store: expected an answer, got none: the question was given up"))

    def _ask(self, flight: Flight) -> tuple[Keys, Fetched]:
        """Settles the flight, and returns what the store was asked and what it has of that."""
        keys, asked = flight.keys, None
        if flight.looks_again:
            cached = Fetched.nothing(len(keys), self.cache.dim)
            outcomes = np.empty(len(keys), np.uint8)
            self.cache.core.lookup(keys, cached.rows, outcomes, False)
            if outcomes.any():
                cached.found[:] = outcomes == 1
                asked = np.flatnonzero(outcomes == 0)
                keys = keys[asked]
        fetched = self._fetch(keys) if len(keys) else Fetched.nothing(0, self.cache.dim)
        if asked is None:
            flight.settle(fetched, None)
        else:
            cached.rows[asked], cached.found[asked] = fetched.rows, fetched.found
            flight.settle(cached, None)
        return keys, fetched

    def _fetch(self, keys: Keys) -> Fetched:
        begin = monotonic()
        try:
            return self.store.get_many(keys, self.cache.dim)
        finally:
            self._counters.asked(len(keys), monotonic() - begin)

    def _fill(self, keys: Keys, number: int, fetched: Fetched, certain: bool) -> None:
        core = self.cache.core
        if certain and self.cache.policy != "gset":  # a score that is restored counts in lfu, a store's does not
            fetched = fetched._replace(scores=np.full(len(keys), np.nan, np.float32))
        kept = self.cache.flights.land(keys, number)
        there = fetched.found if kept is None else fetched.found & kept
        if there.all():
            core.write(keys, fetched.rows, fetched.scores, fetched.versions, fetched.expires, restore=certain)
            return
        if there.any():
            some = np.flatnonzero(there)
            scores, versions, expires = fetched.scores[some], fetched.versions[some], fetched.expires[some]
            core.write(keys[some], fetched.rows[some], scores, versions, expires, restore=certain)
        absent = ~fetched.found if kept is None else kept & ~fetched.found
        if self.cache.remembers_absent and absent.any():
            core.mark_absent(keys[absent])
        if kept is not None:
            self._counters.touched(int(kept.size - np.count_nonzero(kept)))
