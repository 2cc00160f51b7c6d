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
    for said, deltas in ((found[0], 0), (stats.read(), 1)):
        assert said["applied"] == sum(said["freshness"]["counts"]) == deltas


def test_counts_by_reason_and_of_deltas() -> None:
    stats = SyncStats()
    assert [stats.refused(reason, f"why {reason}") for reason in ("files", "dense", "files")] == [1, 1, 2]
    stats.applied(5, 100, True, 0.3)
    stats.applied(7, 50, False, 1800.5)
    stats.fault("away")
    said = stats.read()
    assert {name: said[name] for name in ("applied", "dense", "rows", "bytes", "faults", "gaps")} == {
        "applied": 2,
        "dense": 1,
        "rows": 12,
        "bytes": 150,
        "faults": 1,
        "gaps": 0,
    }
    assert (said["refused"], said["last_refusal"], said["last_fault"]) == (
        {"files": 2, "dense": 1},
        "why files",
        "away",
    )
    assert (said["freshness"]["counts"][5], said["freshness"]["counts"][-1]) == (1, 1)
    assert said["freshness"]["sum_s"] == 1800.8
