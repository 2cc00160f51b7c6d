"""What happens to the keys of a batch that the cache has no row of. Read from top to bottom:

1. `Missed`: what one field lacks. Keys that are known not to exist (negative entries) get the default row at once.
2. `CachedRows.answer`: the keys of all fields whose tables have one width make one question. It is decided there
   whether the batch waits for the answers (`async_above`), until when (`budget_ms`), and what a store that fails costs
   it (`on_fault`).
3. `MissBatch`: one question. Keys that another thread is fetching already are not asked for again (single flight): the
   batch waits for that fetch. Of each key that then has no row, it is known why.
4. `Fetcher`: one fetch. It asks the store, wakes those who wait, and fills the cache: with rows, and with negative
   entries for keys that do not exist. Where the batch does not wait, or only for a while, a worker's thread does it.

A fetch ends with the call that asked, at whichever instruction an exception may come (a signal's handler that raises,
KeyboardInterrupt, MemoryError): `Fetches.ask` has it on the stack of C++, around the Python that asks. Who waits for
one that ended without an answer asks again. No thread waits for another's fetch before its own is settled, so that none
waits in a ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

import numpy as np
import numpy.typing as npt

from pepnet_infer import _kernels
from pepnet_infer._kernels import Fetch
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.cache.counters import ABSENT, DAMAGED, DEFERRED, DROPPED, FAULT, LATE, REASONS, MissCounters
from pepnet_infer.rows.cache.embedding_cache import EmbeddingCache
from pepnet_infer.rows.cache.workers import MissWorkers, Submitted, in_worker
from pepnet_infer.rows.protocols import CachedTable, RowRequest, Rows, Store
from pepnet_infer.rows.stores.checked_answers import ask
from pepnet_infer.schema.ids import MISSING_KEY, Keys
from pepnet_infer.schema.row_batch import Positions, RowBatch

Others = list[tuple[Fetch, Positions]]  # fetches of other calls, and where their keys stand

_MISS, _ROW, _ABSENT = 0, 1, 2  # outcomes of a lookup
#: In the place of `Fetches.ended`: rows may have come to the cache since the keys were missed.
LONG_AGO = 2**64 - 1


class Missed:
    """A request of which the cache lacks rows."""

    def __init__(self, request: RowRequest, table: CachedTable, job: _kernels.Job, at: int) -> None:
        """job: what `look_up` was given for it. at: which of the batch's requests it is."""
        self.request, self.table, self.at = request, table, at
        outcomes = job[-1]
        #: keys, every repeat counted, that are known not to exist; that got the default row; of how many of these it
        #: is not known whether there is a row
        self.negative_hits, self.defaults, self.unavailable = 0, 0, 0
        if request.offsets is None:
            rows, keys = request.out, request.keys
        else:
            # The rows of all bags are read again, one by one: what was there may be gone meanwhile, or the other way.
            first, last = int(request.offsets[0]), int(request.offsets[-1])
            keys = request.keys[first:last]
            rows = np.empty((len(keys), table.dim), np.float32)
            self.negative_hits = int(np.count_nonzero(outcomes[first:last] == _ABSENT))
            outcomes = np.empty(len(keys), np.uint8)
            _kernels.look_up([(*job[:3], keys, rows, None, "sum", outcomes)], False)
        self.rows: Rows = rows  #: [N, dim], where the rows of the others are already
        #: positions [M] of the keys without a row; which of these the store is asked for (None: all), and their keys
        self.positions, self.asked, self.wanted = _kernels.lacking(keys, outcomes)
        if request.offsets is None:
            self.negative_hits = len(self.positions) - len(self.wanted)


class MissBatch:
    """One question of a batch: the misses in the tables of one width. Call `ask`, `wait`, `serve` from one thread."""

    def __init__(
        self, fetcher: Fetcher, workers: MissWorkers, missed: Sequence[Missed], waits: bool, hurries: bool
    ) -> None:
        """waits: whether the batch waits for the answer; hurries: whether only for some time, so that a worker asks."""
        self._fetcher, self._workers, self._missed = fetcher, workers, missed
        self._counters = fetcher.counters
        self._waits, self._hurries = waits, hurries
        wanted = missed[0].wanted if len(missed) == 1 else np.concatenate([one.wanted for one in missed])
        self._keys, self._which = _kernels.distinct(wanted)
        self._place = np.full(len(self._keys), -1)  # of each key's row in the blocks; -1: the default row
        self._reason = np.full(len(self._keys), ABSENT, np.uint8)  # why a key has none
        self._blocks: list[Rows] = []
        self._waiting: list[tuple[Fetch, Positions]] = []  # and where the keys of each stand
        self.fault: StoreError | None = None
        self.late = False

    def ask(self, ended: int) -> None:
        """Asks the store for what no other batch is asking for."""
        real = self._keys != MISSING_KEY  # the key that stands for "no id"
        if not real.all():
            self._fetcher.cache.core.mark_absent(self._keys[~real])
        self._ask(np.flatnonzero(real), ended)

    def _ask(self, at: Positions, ended: int) -> None:
        if len(at):
            fetcher = self._fetcher
            fetcher.fetches.ask(fetcher.cache.flights, self._keys[at], ended, partial(self._begin, at))

    def _begin(self, at: Positions, mine: Fetch | None, ours: Positions | None, others: Others) -> None:
        """Has the store asked by this thread or a worker, and notes what to wait for. at: where the keys stand."""
        submitted = None
        if mine is not None and self._waits and not self._hurries:
            self._fetcher.run(mine)
        elif mine is not None:
            handed = self._fetcher.fetches.hand_over(mine, self._fetcher.run)
            submitted = self._workers.submit(handed)
            if submitted is Submitted.REFUSED:
                handed()
            elif submitted is Submitted.FULL:
                handed.drop()
        own = at if ours is None else at[ours]
        if self._waits or submitted is Submitted.REFUSED:
            self._waiting += [(fetch, at[theirs]) for fetch, theirs in others]
            if mine is not None and submitted is not Submitted.FULL:
                self._waiting.append((mine, own))
            if others:
                self._counters.count("joined", len(others))
        else:
            self._reason[at] = DEFERRED
        if submitted is Submitted.FULL:
            self._reason[own] = DROPPED
            self._counters.dropped()

    def wait(self, deadline: float | None) -> None:
        """Waits for the answers, until `deadline` (of `monotonic`; None: however long it takes)."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            for fetch, at in waiting:
                if not fetch.wait(None if deadline is None else deadline - monotonic()):
                    self._reason[at] = LATE
                    self.late = True
                elif fetch.given_up:  # the call that asked was interrupted
                    self._counters.count("again")
                    self._ask(at, LONG_AGO)
                elif fetch.fetched is None:
                    self._reason[at] = FAULT
                    self.fault = fetch.fault
                else:
                    self._take(at, fetch, fetch.fetched)

    def _take(self, at: Positions, fetch: Fetch, fetched: RowBatch) -> None:
        """Notes where the rows of the keys at some positions are, and which are damaged."""
        there = positions(fetch, self._keys[at])
        if fetched.damaged is not None:
            self._reason[at[fetched.damaged[there]]] = DAMAGED
        before = sum(map(len, self._blocks))
        self._place[at] = np.where(fetched.found[there], there + before, -1)
        self._blocks.append(fetched.rows)

    def serve(self) -> None:
        """Writes the rows of each request, and the default row where there is none; counts why."""
        blocks = self._blocks or [np.empty((0, self._fetcher.cache.dim), np.float32)]
        rows = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        places, all_absent = self._place[self._which], not (self._reason != ABSENT).any()
        counts, begin = np.zeros(len(REASONS), np.int64), 0
        for one in self._missed:
            end = begin + len(one.wanted)
            sources = wanted = places[begin:end]
            if one.asked is not None:
                sources = np.full(len(one.positions), -1, np.int64)
                sources[one.asked] = wanted
            one.defaults = _kernels.serve(rows, sources, one.positions, one.table.default_row, one.rows)
            if one.defaults:
                if not all_absent:
                    lacking = self._which[begin:end][wanted < 0]
                    reasons = np.bincount(self._reason[lacking], minlength=len(REASONS))
                    reasons[ABSENT] = 0
                    one.unavailable = int(reasons.sum())
                    counts += reasons
                counts[ABSENT] += one.defaults - one.unavailable  # negative entries as well, which nobody asked for
            if (offsets := one.request.offsets) is not None:
                _kernels.pool(one.rows, offsets - offsets[0], one.request.pooling, one.request.out)
            begin = end
        if counts.any():
            self._counters.defaults(counts)


class Fetcher:
    """Fetches rows of one width.

    Between a miss and `ask` another fetch may have ended with the row. Then the fetch looks into the cache before the
    store is asked: else an id would be asked for twice, and a row that is newer than the cache's would be served and,
    if an update touched it, not kept, so that the next reader is back at the older one.

    The row of an id for which an update came meanwhile is served, and written only in place of an older one, before
    anybody is served: none who has seen it finds the older row in the cache afterwards (`kernels/cache/flights.h`).
    """

    def __init__(self, cache: EmbeddingCache, store: Store, counters: MissCounters, fetches: _kernels.Fetches) -> None:
        """fetches: those of all caches of an engine."""
        self.cache, self.store, self.counters, self.fetches = cache, store, counters, fetches

    def fetch(self, keys: Keys, ended: int) -> tuple[Fetch | None, Others]:
        """Fetches what is its own of distinct `keys` in this thread. Returns that, all admitted, and the others.

        The cache lacked the keys after `ended` fetches had ended: see `Fetches.ask`.
        """

        def work(mine: Fetch | None, _: Positions | None, others: Others) -> tuple[Fetch | None, Others]:
            if mine is not None:
                self.run(mine, certain=True)
            return mine, others

        return self.fetches.ask(self.cache.flights, keys, ended, work)

    def run(self, fetch: Fetch, certain: bool = False) -> None:
        """Asks the store, wakes those who wait, and writes what came to the cache. A fault is the fetch's.

        certain: what came is admitted, whatever the fields' probability.
        """
        try:
            answer, asked, fetched = self._look_and_fetch(fetch)
        except StoreError as error:
            self._fail(fetch, None, error)
            return
        except BaseException as error:
            # In a worker whatever comes out of a store is a fault, also what is no Exception, such as asyncio's
            # CancelledError: would the fetch end without an answer, who waits would ask again, over and over.
            if not in_worker():
                raise
            fault = StoreError(f"{type(self.store).__name__}: expected an answer, got {type(error).__name__}")
            fault.__cause__ = error
            self._fail(fetch, None, fault)
            return
        try:
            kept = self.cache.flights.land(asked, fetch.number)
            if kept is not None and (older := fetched.found & ~kept).any():  # only in place of older versions
                some = replace(fetched, keys=asked).take(older)
                self.cache.core.write(*some.entries, update=True, known=True)
            fetch.settle(answer, None)
            self._fill(asked, kept, fetched, certain)
        except Exception as error:  # the rows are served all the same
            self._fail(fetch, answer, error)

    def _fail(self, fetch: Fetch, answer: RowBatch | None, error: Exception) -> None:
        """Counts a fault and wakes those who wait: without an answer it is theirs too. Warns when nobody waits."""
        self.counters.fault(error)
        fetch.settle(answer, error if answer is None else None)
        self.counters.warn()

    def _look_and_fetch(self, fetch: Fetch) -> tuple[RowBatch, Keys, RowBatch]:
        """Returns the answer for a fetch, what the store was asked, and what it has of that."""
        keys, asked = fetch.keys, None
        if fetch.looks_again:
            cached = RowBatch.nothing(len(keys), self.cache.dim)
            outcomes = np.empty(len(keys), np.uint8)
            self.cache.core.lookup(keys, cached.rows, outcomes, False)
            if outcomes.any():
                cached.found[:] = outcomes == _ROW
                asked = np.flatnonzero(outcomes == _MISS)
                keys = keys[asked]
        fetched = RowBatch.nothing(0, self.cache.dim)
        if len(keys):
            begin = monotonic()
            try:
                fetched = ask(self.store, keys, self.cache.dim)
            finally:
                self.counters.asked(len(keys), monotonic() - begin)
            self.counters.answered()
        if fetched.damaged is not None and fetched.damaged.any():
            self.counters.damaged(keys[fetched.damaged])
        return fetched if asked is None else cached.put(asked, fetched), keys, fetched

    def _fill(self, keys: Keys, kept: npt.NDArray[np.bool_] | None, fetched: RowBatch, certain: bool) -> None:
        """Writes rows and negative entries to the cache, of those keys that no update touched (`kept`)."""
        core = self.cache.core
        if certain and self.cache.policy != "gset":  # a score that is restored counts in lfu, a store's does not
            fetched = replace(fetched, scores=np.full(len(keys), np.nan, np.float32))
        there = fetched.found if kept is None else fetched.found & kept
        if there.any():
            some, rows = (keys, fetched) if there.all() else (keys[there], fetched.take(there))
            core.write(some, rows.rows, rows.scores, rows.versions, rows.expires, restore=certain)
        absent = ~fetched.found if kept is None else kept & ~fetched.found
        if fetched.damaged is not None:
            absent &= ~fetched.damaged  # asked for again: that it is not known to be unknown must not be forgotten
        if self.cache.remembers_absent and absent.any():
            core.mark_absent(keys[absent])
        if kept is not None:
            self.counters.count("touched", int(kept.size - np.count_nonzero(kept)))


def positions(fetch: Fetch, keys: Keys) -> Positions:
    """Returns where `keys`, all of them among those of the fetch, stand in them."""
    if np.array_equal(keys, fetch.keys):
        return np.arange(len(keys))  # the batch that made it
    order = fetch.order
    if order is None:  # two threads may both do this, with one result
        order = fetch.order = np.argsort(fetch.keys)
    return order[np.searchsorted(fetch.keys, keys, sorter=order)]
