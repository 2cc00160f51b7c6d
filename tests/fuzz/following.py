"""An engine that follows a log with a mutant in it, and what has to be true of it afterwards."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz.corpus import ROWS, VERSION, batch
from fuzz.target import Outcome, check_scores
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.engine import Engine
from pepnet_infer.errors import UpdateError
from pepnet_infer.rows.cache.open_bundle_rows import open_rows
from pepnet_infer.sync.delta import DeltaHead, read_head
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs.transport import BundleHead, Entry, Position, Progress, Transport
from pepnet_infer.versions.loading import Loading

_CONFIG = FollowConfig(name="fuzz", wait_s=0.001, retry_s=0.001, share=1.0)
_LOADING = Loading("native", "fp32", 1, "cpu", "default", None, {})
_BATCH = batch()
#: Errors that a fault or a refusal may name: ours, and what a server or a disk says.
_EXPECTED = ("UpdateError", "StoreError", "BundleError", "ResponseError", "ConnectionError", "TimeoutError")


class OneDelta:
    """A `Transport` that holds one delta: its directory, which nobody has checked."""

    def __init__(self, path: Path) -> None:
        self._entry = Entry("1", "delta", path)

    @property
    def read_from(self) -> str:
        return "one"

    def identity(self) -> str:
        return "one"

    def read(self, after: Position, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        return [self._entry] if after < self._entry.position else []

    def bundles(self) -> Iterator[BundleHead]:
        return iter(())

    def bundle(self, position: Position) -> Entry | None:
        return None

    def last_bundle(self) -> tuple[Position, int] | None:
        return None

    def last_delta(self) -> tuple[Position, DeltaHead] | None:
        return self._entry.position, read_head(self._entry.path)

    def acknowledge(self, follower: str, progress: Progress) -> None:
        pass

    def progress(self) -> dict[str, Progress]:
        return {}

    def append(self, delta: Path) -> Position:
        raise NotImplementedError

    def append_bundle(self, bundle: Path) -> Position:
        raise NotImplementedError

    def trim(self, keep: int, silent_after_s: float = 86400.0) -> int:
        raise NotImplementedError


def follow(bundle: Bundle, transport: Transport) -> Outcome:
    """Follows, scores, and returns whether the mutant was applied. An error that is not ours is an AssertionError."""
    rows = open_rows(bundle, "default", None)
    with Engine(bundle, rows, _LOADING.dense(bundle), _LOADING) as engine:  # not loaded: that reads everything again
        try:
            follower = engine.follow(transport, _CONFIG)
        except UpdateError as error:
            check_scores(engine.score(_BATCH), ROWS, len(engine.tasks))
            _check(f"{type(error.__cause__).__name__}: {error}" if error.reason == "transport" else "")
            return "refused"
        said: dict[str, Any] = follower.stats()
        check_scores(engine.score(_BATCH), ROWS, len(engine.tasks))
        for key in ("last_fault", "last_refusal"):
            _check(said[key] or "")
        if "internal" in said["refused"]:
            raise AssertionError(f"an error of the follower's own: {said['last_refusal']}")
        return "accepted" if engine.model_version != VERSION else "refused"


def _check(said: str) -> None:
    for name in re.findall(r"(?:^|: )(\w+(?:Error|Exception)): ", said):
        if name not in _EXPECTED and not issubclass(getattr(builtins, name, Exception), OSError):
            raise AssertionError(f"an error that is not ours: {said:.1000}")
