"""Counts of a follower that any thread reads while its own counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from children import PATIENCE_S

from pepnet_infer._kernels import Tally
from pepnet_infer.sync import sync_stats
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


def test_a_freshness_below_a_millisecond_is_counted() -> None:
    stats = SyncStats()
    for _ in range(10):
        stats.applied(1, 1, False, 0.0004)
    assert stats.read()["freshness"]["sum_s"] == 0.004


@pytest.mark.parametrize("count", [lambda stats: stats.refused("files", "why"), lambda stats: stats.fault("why")])
def test_no_message_is_seen_before_its_count(
    count: Callable[[SyncStats], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, Any]] = []

    class Interleaved(Tally):
        """Lets others read around each addition, and count one more right after the sums were read first."""

        between = True

        def add(self, sums: Any) -> None:
            found.append(stats.read())
            super().add(sums)
            found.append(stats.read())

        def read(self) -> dict[Any, tuple[int, ...]]:
            sums = super().read()
            if self.between:
                self.between = False
                count(stats)
            return sums

    monkeypatch.setattr(sync_stats, "Tally", Interleaved)
    stats = SyncStats()
    found.append(stats.read())
    for said in found:
        assert sum(said["refused"].values()) + said["faults"] or (said["last_refusal"], said["last_fault"]) == (
            None,
            None,
        )
