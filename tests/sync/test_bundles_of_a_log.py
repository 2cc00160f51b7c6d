"""Bundles of a log that the follower has errors over."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from children import PATIENCE_S

from pepnet_infer._kernels import SharedLock
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.stats import FollowStats
from pepnet_infer.sync import follower as follower_module
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.follower import Follower
from pepnet_infer.sync.logs.transport import BundleHead, Entry

#: Looks at the bundles of a log: one at the start, and then at each second read without a delta.
Looks = Callable[["Damaged", list[float]], FollowStats]


class Damaged:
    """A log of bundles that nobody can open, and no deltas, and what puts versions of it in place."""

    model_version = left_behind = layered_rows = 0
    waiting, read_from = False, "a log"

    def __init__(self) -> None:
        self.times: list[float] = []  # of each read
        self.now = 0.0
        self.was_read, self.over = threading.Event(), threading.Event()

    def read(self, *_: object) -> list[Entry]:
        if not self.times:
            self.was_read.set()
            self.over.wait(PATIENCE_S)
            return []
        self.now = self.times.pop(0)
        return []

    def bundles(self) -> list[BundleHead]:
        return [BundleHead(f"{number:020d}", 9) for number in range(5)]

    def bundle(self, position: str) -> Any:
        raise ArithmeticError(f"of {position}")

    def identity(self) -> str:
        return "a log"

    def acknowledge(self, *_: object) -> None:
        pass

    def write_back(self) -> None:
        pass


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    def run(log: Damaged, times: list[float]) -> FollowStats:
        """Follows a log that is looked at at these times, and returns what the follower has counted then."""
        log.times = [time for time in times for _ in range(2)]
        monkeypatch.setattr(follower_module, "Updater", lambda *_: log)
        monkeypatch.setattr(follower_module, "monotonic", lambda: log.now)
        anything: Any = SimpleNamespace(now=SimpleNamespace(model_version=0))
        transport: Any = log
        follower = Follower(anything, anything, transport, FollowConfig(name="test", guard=None), SharedLock())
        try:
            follower.start()
            assert log.was_read.wait(PATIENCE_S)
            return follower.stats()
        finally:
            log.over.set()
            follower.close()

    return run


def test_of_many_bundles_with_one_error_one_traceback_is_logged(caplog: pytest.LogCaptureFixture, looks: Looks) -> None:
    with caplog.at_level(logging.ERROR):
        said = looks(Damaged(), [100.0])
    assert said["refused"] == {"internal": 5}
    assert [record.exc_info is not None for record in caplog.records].count(True) == 1


class WithDelta(Damaged):
    """The same with a delta in its first read, which leads to an error of the same type."""

    def read(self, *_: object) -> list[Entry]:
        super().read()
        fault: Any = ArithmeticError("of a delta")
        return [Entry("1" * 20, "delta", Path("delta"), fault)] if len(self.times) == 3 else []


def test_a_traceback_of_a_delta_does_not_hide_that_of_a_bundle(caplog: pytest.LogCaptureFixture, looks: Looks) -> None:
    with caplog.at_level(logging.ERROR):
        looks(WithDelta(), [100.0, 100.0])
    tracebacks = [record.getMessage() for record in caplog.records if record.exc_info is not None]
    assert sorted(said.split(" ")[0] for said in tracebacks) == ["bundle", "delta:"]


class Listed(Damaged):
    """A log of one bundle that is listed at first, and whose content is what is done for it."""

    def __init__(self, lists: int, error: Exception | None = None) -> None:
        super().__init__()
        self.lists, self.error = lists, error

    def bundles(self) -> list[BundleHead]:
        self.lists -= 1
        return [BundleHead("0" * 20, 9)] if self.lists >= 0 else []

    def bundle(self, position: str) -> Any:
        if self.error is not None:
            raise self.error


def test_a_bundle_that_was_trimmed_after_it_was_listed_is_passed_over(looks: Looks) -> None:
    said = looks(Listed(1), [100.0])
    assert (said["refused"], said["bundles"]) == ({}, 0)


def test_a_bundle_that_is_listed_and_not_there_is_tried_again(looks: Looks) -> None:
    said = looks(Listed(100), [100.0, 130.0, 161.0])
    assert said["refused"] == {"unreadable": 2}
    assert said["last_refusal"] == f"bundle at {'0' * 20}: expected what the log lists, got nothing"


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
    error: Exception, again: bool, looks: Looks, caplog: pytest.LogCaptureFixture
) -> None:
    said = looks(Listed(100, error), [100.0, 161.0])
    assert said["refused"] == {"bundle": 1 + again}
    assert str(said["last_refusal"]).startswith(f"bundle at {'0' * 20}: ")
    assert not any(record.exc_info for record in caplog.records)
