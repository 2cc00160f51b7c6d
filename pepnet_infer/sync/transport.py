"""What carries deltas and bundles from one publisher to any number of followers: an ordered log."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from pepnet_infer.bundle import MANIFEST as BUNDLE_MANIFEST
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.storage.document import read_document, typed
from pepnet_infer.sync.delta import DeltaHead

#: Where an entry stands. Of two positions of one log the later one is larger as text. "" is before the first.
Position = str
Kind = Literal["delta", "bundle"]


class Entry(NamedTuple):
    """One thing in the log. It was written whole before it could be read, but nobody has checked what it is."""

    position: Position
    kind: Kind
    path: Path  #: a directory that stays as it is until the entry is trimmed


class Progress(NamedTuple):
    """How far a follower has come, by its own word."""

    position: Position
    model_version: int
    at: float  #: Unix seconds by the follower's clock


class Transport(Protocol):
    """A log of deltas, and of the full bundles that some of them led to. Safe from any thread and process.

    There is one publisher at a time. Every method raises UpdateError with reason "transport" when the log cannot be
    reached or written; nothing that failed is ever half there.

    Where a log was emptied and a new one begun, or lost its end, a position may be one that it does not lead to: after
    that, everything in the log is read. Positions of a new log are larger, as far as the publisher's clock goes on.
    """

    def append(self, delta: Path) -> Position:
        """Puts a delta, as `write_delta` left it, at the end. Its files must not change after that.

        One that is in the log, with the same manifest, is not put there again: its position is returned. So an append
        that failed may be tried again. Raises UpdateError "format" or "version" where `read_head` does.
        """

    def append_bundle(self, bundle: Path) -> Position:
        """Puts a full bundle at the end: whoever lacks deltas before it begins there. It is copied."""

    def read(self, after: Position, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        """Returns at most `most` deltas after a position, in order; if there is none, waits up to `wait_s` for one."""

    def newest_bundle(self) -> Entry | None:
        """Returns the last full bundle that is in the log."""

    def last_bundle(self) -> tuple[Position, int] | None:
        """Returns where the last full bundle stands and its model version, without fetching it."""

    def last_delta(self) -> tuple[Position, DeltaHead] | None:
        """Returns the last delta that is in the log: what a publisher goes on from, and what a follower is behind."""

    def acknowledge(self, follower: str, progress: Progress) -> None:
        """Notes durably how far a follower has come."""

    def progress(self) -> dict[str, Progress]:
        """Returns how far each follower has come."""

    def trim(self, keep: int, silent_after_s: float = 86400.0) -> int:
        """Removes what nobody needs: deltas before the newest bundle, and older bundles. Returns how many entries.

        Kept are the last `keep` deltas whatever comes, and all after the position of any follower that was heard from
        within `silent_after_s`; others are forgotten. Nothing goes before there is a bundle.
        """


_FOLLOWER = re.compile(r"[A-Za-z0-9._-]{1,100}")


def check_follower(name: str) -> None:
    """Raises UpdateError for a follower's name that no log takes."""
    if _FOLLOWER.fullmatch(name) is None:
        raise UpdateError("transport", f"follower: expected letters, digits, dots and dashes, got {name[:100]!r}")


def read_progress(where: str, text: str | bytes) -> Progress:
    """Returns what was noted as JSON. Raises UpdateError when it is something else."""
    try:
        data = json.loads(text)
        progress = Progress(**data)
        if not isinstance(progress.position, str) or not isinstance(progress.model_version, int):
            raise ValueError(f"got {data}")
        if not math.isfinite(progress.at):
            raise ValueError(f"expected a time, got {progress.at}")
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UpdateError("transport", f"{where}: expected a follower's progress, got: {error!s:.200}") from error
    return progress


def bundle_version(path: Path) -> int:
    """Reads the model version of a bundle and looks at nothing else. Raises UpdateError."""
    try:
        return typed(str(path), read_document(path, BUNDLE_MANIFEST), "model_version", int)
    except BundleError as error:
        raise UpdateError("files", str(error)) from error
