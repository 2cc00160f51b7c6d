"""The rows of recent calls that the drift guard keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pepnet_infer.errors import UpdateError
from pepnet_infer.sync.drift_guard import DriftGuard
from pepnet_infer.sync.follow_config import Guard


@dataclass
class Rows:
    """Features of which only the number of rows is known, and how often that was asked for."""

    count: int
    asked: list[int] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        self.asked.append(self.count)
        return self.count

    def select(self, rows: np.ndarray) -> Rows:
        return Rows(len(rows), self.asked)


def offer(guard: DriftGuard, features: Any) -> None:
    guard.offer(lambda: features)


def test_the_last_rows_are_kept_and_no_more_than_it_takes() -> None:
    guard, found = DriftGuard(Guard(rows=100, least_rows=1, batch_rows=40, every_s=0.0)), list[int]()

    class Backend:
        def inputs(self, features: Rows) -> Rows:
            return features

        def run(self, features: Rows) -> np.ndarray:
            found.append(features.count)
            return np.zeros((features.count, 1), np.float32)

    for count in (7, 0, 30, 50, 20, 45, 39):
        offer(guard, Rows(count))
    version: Any = type("Version", (), {"backend": Backend(), "assembler": Backend()})
    assert guard.check(version, version, ["ctr"])
    assert found == [40, 20, 40, 39] * 2  # without the first of them there would be 99


def test_a_call_does_not_go_through_all_that_is_kept() -> None:
    guard, features = DriftGuard(Guard(rows=1000, least_rows=1, every_s=0.0)), Rows(1)
    for _ in range(500):
        offer(guard, features)
    asked = len(features.asked)
    offer(guard, features)
    assert len(features.asked) - asked < 10


def test_a_row_that_was_no_number_before_says_nothing_of_new_weights() -> None:
    guard = DriftGuard(Guard(rows=10, least_rows=1, every_s=0.0, mean=0.1))
    offer(guard, Rows(4))
    old, same, worse = ([0.2, np.nan, 0.4, 0.6], [0.2, np.nan, 0.4, 0.6], [0.2, 0.1, np.nan, 0.6])

    def version(scores: list[float]) -> Any:
        class Backend:
            def inputs(self, features: Rows) -> Rows:
                return features

            def run(self, features: Rows) -> np.ndarray:
                return np.array(scores, np.float32)[:, None]

        return type("Version", (), {"backend": Backend(), "assembler": Backend()})

    assert guard.check(version(old), version(same), ["ctr"])
    with pytest.raises(UpdateError, match="expected finite scores of recent rows"):
        guard.check(version(old), version(worse), ["ctr"])
