"""Fetches from the store that are under way: each id once, whatever the threads that miss it."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import Fetch, Fetches, Handed
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
from pepnet_infer.rows.cache.miss_counters import MissCounters
from pepnet_infer.rows.cache.miss_workers import in_worker
from pepnet_infer.rows.stores.checked_answers import CheckedStore
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch

if TYPE_CHECKING:
    from pepnet_infer._kernels import Asked

Positions = npt.NDArray[np.int64]
_Result = TypeVar("_Result")

#: In the place of `Flights.ended`: rows may have come to the cache since the keys were missed.
LONG_AGO = 2**64 - 1


class Flights:
    """The fetches of one cache. No thread waits for another's before its own is settled, so that none waits in a ring.

    A fetch ends with the call that asked, at whichever instruction an exception may come (a signal's handler that
    raises, KeyboardInterrupt, MemoryError): `Fetches.ask` has it on the stack of C++, around the Python that asks. Who
    waits for one that ended without an answer asks again.

    Between a miss and `ask` another fetch may have ended with the row. Then the fetch looks into the cache before the
    store is asked: else an id would be asked for twice, and a row that is newer than the cache's would be served and,
    if an update touched it, not kept, so that the next reader is back at the older one.

    The row of an id for which an update came while it was fetched is served, and written only in place of an older one:
    see `FlightTable` in `kernels/cache/flights.h`. That comes before anybody is served, so that none who has seen
    it finds the older row in the cache afterwards.
    """

    def __init__(self, cache: EmbeddingCache, store: CheckedStore, counters: MissCounters, fetches: Fetches) -> None:
        """fetches: those of all caches of an engine."""
        self.cache = cache
        self.store = store
        self._counters = counters
        self._fetches = fetches

    @property
    def ended(self) -> int:
        """How many fetches have ended: to be read before a lookup, and handed to `ask`."""
        return self._fetches.ended

    def reset_after_fork(self) -> None:
        """In a child process: forgets fetches, whose threads are not here."""
        self.cache.reset_after_fork()

    def ask(self, keys: Keys, since: int, work: Asked[_Result]) -> _Result:
        """Begins a fetch of distinct `keys`, which the cache lacked after `ended` was `since`: see `Fetches.ask`.

        `work` gives what is its own to `run`, or to another thread by `hand_over`.
        """
        return self._fetches.ask(self.cache.flights, keys, since, work)

    def hand_over(self, fetch: Fetch) -> Handed:
        """Returns what runs a fetch in another thread when it is called."""
        return self._fetches.hand_over(fetch, self._run_for_others)

    def run(self, fetch: Fetch, certain: bool = False) -> None:
        """Asks the store, wakes those who wait, and writes what came to the cache. A fault is the fetch's.

        certain: what came is admitted, whatever the fields' probability.
        """
        try:
            answer, asked, fetched = self._ask(fetch)
        except StoreError as error:
            self._counters.fault(error)
            fetch.settle(None, error)
            self._counters.warn()
            return
        try:
            kept = self.cache.flights.land(asked, fetch.number)
            if kept is not None:
                self._replace_older(asked, fetched, fetched.found & ~kept)
            fetch.settle(answer, None)
            self._fill(asked, kept, fetched, certain)
        except Exception as error:  # the rows are served all the same
            fetch.settle(answer, None)
            self._counters.fault(error)
            self._counters.warn()

    def _run_for_others(self, fetch: Fetch) -> None:
        """Runs a fetch that was handed over. In a worker's thread whatever comes out of the store is a fault.

        A store may raise what is no Exception, as asyncio's CancelledError and gevent's Timeout are none. If the fetch
        ended without an answer then, as where the call that asked is interrupted, who waits would ask again at once,
        over and over.
        """
        try:
            self.run(fetch)
        except BaseException as error:
            if not in_worker():
                raise
            name = type(self.store.store).__name__
            fault = StoreError(f"{name}: expected an answer, got {type(error).__name__}")
            fault.__cause__ = error
            self._counters.fault(fault)
            fetch.settle(None, fault)
            self._counters.warn()

    def _ask(self, fetch: Fetch) -> tuple[RowBatch, Keys, RowBatch]:
        """Returns the answer for a fetch, what the store was asked, and what it has of that."""
        keys, asked = fetch.keys, None
        if fetch.looks_again:
            cached = RowBatch.nothing(len(keys), self.cache.dim)
            outcomes = np.empty(len(keys), np.uint8)
            self.cache.core.lookup(keys, cached.rows, outcomes, False)
            if outcomes.any():
                cached.found[:] = outcomes == 1
                asked = np.flatnonzero(outcomes == 0)
                keys = keys[asked]
        fetched = self._fetch(keys) if len(keys) else RowBatch.nothing(0, self.cache.dim)
        if len(keys):
            self._counters.answered()
        if fetched.damaged is not None and fetched.damaged.any():
            self._counters.damaged(keys[fetched.damaged])
        return fetched if asked is None else cached.put(asked, fetched), keys, fetched

    def _fetch(self, keys: Keys) -> RowBatch:
        begin = monotonic()
        try:
            fetched = self.store.get_many(keys, self.cache.dim)
        finally:
            self._counters.asked(len(keys), monotonic() - begin)
        return fetched

    def _replace_older(self, keys: Keys, fetched: RowBatch, which: npt.NDArray[np.bool_]) -> None:
        """Writes the rows at `which` [N] in place of older versions that are in the cache, and nowhere else."""
        if not which.any():
            return
        some = fetched.take(which)
        self.cache.core.write(keys[which], some.rows, some.scores, some.versions, some.expires, update=True, known=True)

    def _fill(self, keys: Keys, kept: npt.NDArray[np.bool_] | None, fetched: RowBatch, certain: bool) -> None:
        core = self.cache.core
        if certain and self.cache.policy != "gset":  # a score that is restored counts in lfu, a store's does not
            fetched = replace(fetched, scores=np.full(len(keys), np.nan, np.float32))
        there = fetched.found if kept is None else fetched.found & kept
        if there.all():
            core.write(keys, fetched.rows, fetched.scores, fetched.versions, fetched.expires, restore=certain)
            return
        if there.any():
            some = np.flatnonzero(there)
            scores, versions, expires = fetched.scores[some], fetched.versions[some], fetched.expires[some]
            core.write(keys[some], fetched.rows[some], scores, versions, expires, restore=certain)
        absent = ~fetched.found if kept is None else kept & ~fetched.found
        if fetched.damaged is not None:
            absent &= ~fetched.damaged  # asked for again: that it is not known to be unknown must not be forgotten
        if self.cache.remembers_absent and absent.any():
            core.mark_absent(keys[absent])
        if kept is not None:
            self._counters.count("touched", int(kept.size - np.count_nonzero(kept)))


def positions(fetch: Fetch, keys: Keys) -> Positions:
    """Returns where `keys`, all of them among those of the fetch, stand in them."""
    if np.array_equal(keys, fetch.keys):
        return np.arange(len(keys))  # the batch that made it
    order = fetch.order
    if order is None:  # two threads may both do this, with one result
        order = fetch.order = np.argsort(fetch.keys)
    return order[np.searchsorted(fetch.keys, keys, sorter=order)]
