"""The fastest gather this machine has for a table and a batch size: what a cache's lookup is measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pepnet_infer.bench.cache_peers import Batch, Gather
from pepnet_infer.bench.cache_peers.contender import contiguous
from pepnet_infer.bench.cache_peers.native import Dense

AHEAD = (4, 8, 12, 16, 24, 32, 48, 64)
PASSES = 3
BATCHES_A_PASS = 8


def sweep(
    dense: Dense, batches: Sequence[Batch], widths: Sequence[int], say: Callable[[str], None] = lambda _: None
) -> tuple[Gather, list[dict[str, Any]]]:
    """Returns the fastest way to gather and what every way took: ahead, width, ns a row.

    Every way is timed in C++ on successive batches, in several passes over all ways; its figure is the fastest pass's
    median.
    """
    ways = [Gather(ahead, width) for width in widths for ahead in AHEAD]
    destination = contiguous(batches[0].rows, dense.table.shape[1])
    medians: dict[Gather, list[float]] = {way: [] for way in ways}
    at = 0
    for number in range(PASSES):
        for way in ways:
            say(f"looking for the fastest gather; pass {number + 1} of {PASSES}, {way.ahead} rows ahead")
            took = []
            for _ in range(BATCHES_A_PASS):
                took.append(dense.nanoseconds(batches[at % len(batches)], way, destination))
                at += 1
            medians[way].append(float(np.median(took)))
    best = min(ways, key=lambda way: min(medians[way]))
    table = [{"ahead": w.ahead, "width": w.width, "ns_a_row": min(medians[w])} for w in ways]
    return best, table
