"""How long an update takes to be seen by a reader in another thread."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from pepnet_infer.bench.cache_peers import Workload
from pepnet_infer.bench.cache_peers.ours import Filled
from pepnet_infer.bench.cache_speed_threads import UPDATE_ROWS
from pepnet_infer.errors import PepnetError

UPDATES = 200
_LIMIT_S = 10.0
#: Versions above all others, so that these updates apply after whatever was measured before.
_FROM = 1 << 40


def visibility(filled: Filled, workload: Workload, updates: int = UPDATES, seed: int = 0) -> dict[str, Any]:
    """Returns p50, p99 and the longest time in ms from the call of an update to a reader's first sight of its row.

    A batch of UPDATE_ROWS rows is written again and again, its last row saying how often; a reader looks that row up
    all the time. The rows are put back at the end.
    """
    core, dim = filled.cache.core, workload.table.shape[1]
    size = min(UPDATE_ROWS, filled.resident.size)
    positions = np.random.default_rng(seed).permutation(filled.resident)[:size]
    keys, original = workload.keys[positions], workload.table[positions]
    rows, versions = original.copy(), np.empty(size, np.uint64)
    seen_at = np.zeros(updates, np.int64)
    sent_at = np.zeros(updates, np.int64)
    seen, stop = threading.Event(), threading.Event()

    def read() -> None:
        out, last = np.full((1, dim), -1.0, np.float32), keys[-1:]
        for number in range(updates):
            while core.lookup(last, out) != 1 or out[0, 0] != number + 2:
                if stop.is_set():
                    return
            seen_at[number] = time.perf_counter_ns()
            seen.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(updates):
            rows[-1] = number + 2  # no random row: those are below 1
            versions[:] = _FROM + number
            sent_at[number] = time.perf_counter_ns()
            core.write(keys, rows, None, versions, None, True)
            if not seen.wait(_LIMIT_S):
                raise PepnetError(f"update {number}: expected a reader to see it, it did not within {_LIMIT_S:g} s")
            seen.clear()
    finally:
        stop.set()
        reader.join()
        versions[:] = _FROM + updates
        core.write(keys, original, None, versions, None, True)
    millis = (seen_at - sent_at) / 1e6
    p50, p99 = np.percentile(millis, (50, 99))
    return {"updates": updates, "p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(millis.max())}
