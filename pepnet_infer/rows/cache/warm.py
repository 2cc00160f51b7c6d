"""Filling a cache before it serves: the rows that a bundle's tables score highest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import Fetch, distinct
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.cache.misses import Fetcher, Others
from pepnet_infer.schema.ids import Keys

Scored = tuple[Keys, npt.NDArray[np.float32]]

_CHUNK = 1 << 16  # keys looked at, or fetched, in one step


def warm(fetcher: Fetcher, tables: Sequence[Scored]) -> int:
    """Fetches the highest scored of `tables`, (keys [N], scores [N]) each, up to the capacity. Returns how many.

    Memory: the keys chosen and one chunk of rows, whatever the tables' size. Ends early when the store fails, which
    is counted.
    """
    cache = fetcher.cache
    if sum(len(keys) for keys, _ in tables) > cache.capacity_rows:
        keys, scores = choose(tables, cache.capacity_rows)
        if cache.policy != "gset":  # without scores of its own: what was written last is evicted last
            keys = keys[np.argsort(scores, kind="stable")]
        tables = [(keys, scores)]
    fetched = 0
    for keys, _ in tables:
        for at in range(0, len(keys), _CHUNK):
            mine, _ = fetcher.fetch(np.array(keys[at : at + _CHUNK]), fetcher.fetches.ended)
            if mine is None:
                continue
            if mine.fetched is None:
                return fetched
            fetched += int(np.count_nonzero(mine.fetched.found))
    return fetched


def prefetch(fetcher: Fetcher, keys: Keys) -> int:
    """Fetches what the cache lacks of `keys`; see `CachedRows.prefetch`."""
    core, there = fetcher.cache.core, 0
    for begin in range(0, len(keys), _CHUNK):
        some = keys[begin : begin + _CHUNK]
        done = False
        while not done:
            ended = fetcher.fetches.ended
            wanted = distinct(some[core.peek(some)["outcome"] == 0])[0]
            done = not len(wanted) or _all_came(*fetcher.fetch(wanted, ended))
        there += int(np.count_nonzero(core.peek(some)["outcome"] == 1))
    return there


def _all_came(mine: Fetch | None, others: Others) -> bool:
    """Waits for fetches. Returns False where the call that asked was interrupted. Raises StoreError for a fault."""
    fetches = [fetch for fetch, _ in others] + ([] if mine is None else [mine])
    for fetch in fetches:
        fetch.wait(None)
        if fetch.fault is not None:
            raise StoreError(str(fetch.fault)) from fetch.fault
    return not any(fetch.given_up for fetch in fetches)


def choose(tables: Sequence[Scored], count: int) -> Scored:
    """Returns the `count` highest scored of `tables`, which have more, in their order: (keys, scores).

    A score of NaN, which stands for none, is taken and returned as the lowest.

    Memory: twice the `count`, and one chunk of the tables.
    """
    best_keys, best = np.empty(0, np.uint64), np.empty(0, np.float32)
    step = max(count, _CHUNK)
    for keys, scores in tables:
        for at in range(0, len(keys), step):
            some = scores[at : at + step]
            best = np.append(best, np.where(np.isnan(some), np.float32(-np.inf), some))
            best_keys = np.append(best_keys, keys[at : at + step])
            if len(best) > count:
                least = np.partition(best, -count)[-count]
                taken = best > least
                taken[np.flatnonzero(best == least)[: count - np.count_nonzero(taken)]] = True
                best_keys, best = best_keys[taken], best[taken]
    return best_keys, best
