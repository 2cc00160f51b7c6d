"""Bundles of a log that the follower has errors over."""

from __future__ import annotations

import errno
import logging
from typing import Any

import pytest

from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.sync import bundle_switch
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


class Listed(Damaged):
    """A log of one bundle that is listed at first, and that is never there."""

    def __init__(self, lists: int) -> None:
        self.lists = lists

    def bundles(self) -> list[BundleHead]:
        self.lists -= 1
        return [BundleHead("0" * 20, 9)] if self.lists >= 0 else []

    def bundle(self, position: str) -> Any:
        return None


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(bundle_switch, "monotonic", lambda: now[0])
    return now


def test_a_bundle_that_was_trimmed_after_it_was_listed_is_passed_over() -> None:
    log: Any = Listed(1)
    refused: list[UpdateError] = []
    assert BundleSwitch(log, log, refused.append).take() is False
    assert refused == []


def test_a_bundle_that_is_listed_and_not_there_is_tried_again(now: list[float]) -> None:
    log: Any = Listed(100)
    refused: list[UpdateError] = []
    switch = BundleSwitch(log, log, refused.append)
    for now[0] in (100.0, 130.0, 161.0):
        switch.take()
    assert [(error.reason, str(error)) for error in refused] == [
        ("unreadable", f"bundle at {'0' * 20}: expected what the log lists, got nothing")
    ] * 2


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (MemoryError("none left"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (UpdateError("files", "chunk 0: expected it, got none"), False),
        (BundleError("expected another"), False),
    ],
)
def test_a_bundle_that_cannot_be_opened_is_refused_as_one_with_its_place(
    error: Exception, again: bool, now: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: Any = Listed(100)

    def fail(position: str) -> Any:
        raise error

    monkeypatch.setattr(log, "bundle", fail)
    refused: list[UpdateError] = []
    switch = BundleSwitch(log, log, refused.append)
    for now[0] in (100.0, 161.0):
        switch.take()
    assert [one.reason for one in refused] == ["bundle"] * (1 + again)
    assert str(refused[0]).startswith(f"bundle at {'0' * 20}: ")
    assert caplog.records == []
