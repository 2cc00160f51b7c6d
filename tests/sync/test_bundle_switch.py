"""Bundles of a log that the follower has errors over."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pepnet_infer.sync.bundle_switch import BundleSwitch
from pepnet_infer.sync.logs.transport import BundleHead


class Damaged:
    """A log of bundles that nobody can open, and what follows it."""

    model_version = left_behind = 0

    def bundles(self) -> list[BundleHead]:
        return [BundleHead(f"{number:020d}", 9) for number in range(5)]

    def bundle(self, position: str) -> Any:
        raise ArithmeticError(f"of {position}")

    def identity(self) -> str:
        return "a log"


def test_of_many_bundles_with_one_error_one_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    log: Any = Damaged()
    refused: list[str] = []
    taker = BundleSwitch(log, log, lambda error: refused.append(error.reason))
    with caplog.at_level(logging.ERROR):
        taker.take()
    assert refused == ["internal"] * 5
    assert [record.exc_info is not None for record in caplog.records] == [True]
