"""Counts of a follower that any thread reads while its own counts."""

from __future__ import annotations

import threading
from typing import Any

from children import PATIENCE_S

from pepnet_infer.sync.sync_stats import SyncStats

_LONG_S = 0.2  # longer than a read takes that nothing holds up


def test_no_delta_is_counted_before_its_freshness() -> None:
    stats = SyncStats()
    found: list[dict[str, Any]] = []

    class Freshness(float):
        """Is compared in the middle of a count, where it lets another thread read."""

        def __gt__(self, edge: float) -> bool:
            if not readers:
                readers.append(threading.Thread(target=lambda: found.append(stats.read())))
                readers[0].start()
                readers[0].join(_LONG_S)
            return float(self) > edge

    readers: list[threading.Thread] = []
    stats.applied(5, 100, True, Freshness(0.3))
    [reader] = readers
    reader.join(PATIENCE_S)
    assert found[0]["applied"] == sum(found[0]["freshness"]["counts"]) == 1
