"""The helper that tests fork with: it sees a child that fails, and ends one that hangs."""

from __future__ import annotations

import os
import signal

import children
import pytest


def test_how_a_child_ended_is_seen() -> None:
    children.well_in_a_child(lambda: None)
    assert children.ended(children.fork(lambda: signal.raise_signal(signal.SIGKILL))) == -signal.SIGKILL
    with pytest.raises(AssertionError, match="the child ended with 1"):
        children.well_in_a_child(lambda: 1 / 0)


def test_a_child_that_hangs_is_killed_and_fails_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "PATIENCE_S", 0.01)
    child = children.fork(signal.pause)
    with pytest.raises(AssertionError, match=f"child {child} hangs"):
        children.ended(child)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)  # nothing is left of it
