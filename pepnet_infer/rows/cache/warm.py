"""Filling a cache before it serves: the rows that a bundle's tables score highest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pepnet_infer._kernels import Fetch, distinct
from pepnet_infer.errors import StoreError
from pepnet_infer.rows.cache.misses import Fetcher, Others
from pepnet_infer.schema.ids import Keys

if TYPE_CHECKING:
    Scored = tuple[Keys, npt.NDArray[np.float32]]

_CHUNK = 1 << 16  # keys looked at, or fetched, in one step
_HALF = 1 << 16


def warm(fetcher: Fetcher, tables: Sequence[Scored]) -> int:
    """Fetches the highest scored of `tables`, (keys [N], scores [N]) each, up to the capacity. Returns how many.

    Memory: the keys chosen and one chunk of rows, whatever the tables' size. Ends early when the store fails, which
    is counted.
    """
    cache = fetcher.cache
    room = cache.capacity_rows
    if sum(len(keys) for keys, _ in tables) <= room:
        chosen = ((keys[at : at + _CHUNK]) for keys, _ in tables for at in range(0, len(keys), _CHUNK))
    else:
        keys, scores = choose([(keys, scores) for keys, scores in tables], room)
        # With scores of its own the cache needs no order; else what was written last is evicted last.
        order = np.argsort(scores, kind="stable") if cache.policy != "gset" else np.arange(len(keys))
        chosen = (keys[order[at : at + _CHUNK]] for at in range(0, len(keys), _CHUNK))
    fetched = 0
    for some in chosen:
        mine, _ = fetcher.fetch(np.array(some), fetcher.ended)
        if mine is None:
            continue
        if mine.fetched is None:
            break
        fetched += int(np.count_nonzero(mine.fetched.found))
    return fetched


def prefetch(fetcher: Fetcher, keys: Keys) -> int:
    """Fetches what the cache lacks of `keys`; see `CachedRows.prefetch`."""
    core, there = fetcher.cache.core, 0
    for begin in range(0, len(keys), _CHUNK):
        some = keys[begin : begin + _CHUNK]
        done = False
        while not done:
            ended = fetcher.ended
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
    """Returns the `count` highest scored of `tables` in their order: (keys, scores). There are more than that.

    Scores are counted by the upper half of their bits and then, where the last place falls, by the lower half: two
    passes and no copy of the scores.
    """
    upper = np.zeros(_HALF, np.int64)
    for _, bits in _pieces(tables):
        upper += np.bincount(bits >> np.uint32(16), minlength=_HALF)
    edge, above = _edge(upper, count)
    lower = np.zeros(_HALF, np.int64)
    for _, bits in _pieces(tables):
        at_edge = bits[bits >> np.uint32(16) == edge]
        lower += np.bincount(at_edge & np.uint32(_HALF - 1), minlength=_HALF)
    last, more = _edge(lower, count - above)
    least = np.uint32(edge << 16 | last)
    ties = count - above - more  # of those with the lowest score of all, the first ones
    parts = []
    for (keys, scores), bits in _pieces(tables):
        taken = bits > least
        equal = np.flatnonzero(bits == least)[:ties]
        ties -= len(equal)
        taken[equal] = True
        parts.append((keys[taken], scores[taken]))
    return np.concatenate([keys for keys, _ in parts]), np.concatenate([scores for _, scores in parts])


def _edge(counts: npt.NDArray[np.int64], count: int) -> tuple[int, int]:
    """Returns the largest value of which `counts` has `count` at or above it, and how many are above it."""
    reached = np.cumsum(counts[::-1])
    at = int(np.searchsorted(reached, count))
    return len(counts) - 1 - at, int(reached[at] - counts[::-1][at])


def _pieces(tables: Sequence[Scored]) -> Iterator[tuple[Scored, npt.NDArray[np.uint32]]]:
    """Yields (keys, scores) piece by piece, and the scores as integers of the same order."""
    for keys, scores in tables:
        for at in range(0, len(keys), _CHUNK):
            some = np.array(scores[at : at + _CHUNK], np.float32)  # a copy: a mapped file may lie at any address
            bits = some.view(np.uint32)
            negative = bits >> np.uint32(31) != 0
            yield (np.array(keys[at : at + _CHUNK]), some), np.where(negative, ~bits, bits | np.uint32(1 << 31))
