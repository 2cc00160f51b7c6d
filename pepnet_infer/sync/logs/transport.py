"""What carries deltas and bundles from one publisher to any number of followers: an ordered log."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from pepnet_infer.bundle.bundle import MANIFEST as BUNDLE_MANIFEST
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.quoting import MOST_VALUE, clip
from pepnet_infer.storage.document import read_document, typed
from pepnet_infer.sync.delta import DeltaHead
from pepnet_infer.sync.entry_faults import reading
from pepnet_infer.validation import Finite, Version, convert

#: Where an entry stands. Of two positions of one log the later one is larger as text. "" is before the first.
Position = str
Kind = Literal["delta", "bundle"]
#: Where entries lie as directories.
FOLDERS: dict[Kind, str] = {"delta": "deltas", "bundle": "bundles"}


class Entry(NamedTuple):
    """One thing in the log. It was written whole before it could be read, but nobody has checked what it is."""

    position: Position
    kind: Kind
    path: Path  #: a directory that stays as it is until the entry is trimmed
    fault: UpdateError | None = None  #: why there is nothing to read at `path`: somebody else's entry, or a damaged one


class BundleHead(NamedTuple):
    """A full bundle in the log, before it is fetched."""

    position: Position
    model_version: int
    fault: UpdateError | None = None  #: why its version is not known; it is -1 then


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a follower has come, by its own word."""

    position: Position
    model_version: Version
    at: Finite  #: Unix seconds by the follower's clock


@runtime_checkable
class Readable(Protocol):
    """What any log can be told by."""

    def read(self, after: Position, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        """See `Transport.read`."""


class Transport(Readable, Protocol):
    """A log of deltas, and of the full bundles that some of them led to. Safe from any thread and process.

    There is one publisher at a time. Every method raises UpdateError with reason "transport" when the log cannot be
    reached or written, and "missing" where there is none, or none any more; nothing that failed is ever half there.
    Publishing into a place where no log was seen before begins one; nothing else does. A log has an identity of its
    own, so that one that was emptied, or is not mounted, is told apart from one without entries.

    What is in the log is not trusted: an entry that is damaged or that somebody else has put there comes with its
    `fault`, or is found out by who reads it, and stands in nobody's way.

    Where a log was emptied and a new one begun, or lost its end, a position may be one that it does not lead to: after
    that, everything in the log is read. Positions of a new log are larger, as far as the publisher's clock goes on.
    """

    @property
    def read_from(self) -> str:
        """Which log was read last: its identity, "" before any was."""

    def identity(self) -> str:
        """Looks which log there is, and returns its identity."""

    def append(self, delta: str | os.PathLike[str]) -> Position:
        """Puts a delta, as `write_delta` left it, at the end. Its files must not change after that.

        One that is in the log, with the same manifest, is not put there again: its position is returned. So an append
        that failed may be tried again. Raises UpdateError "format" or "version" where `read_head` does, and "log" when
        the log is another one than this object put something into before.
        """

    def append_bundle(self, bundle: str | os.PathLike[str]) -> Position:
        """Puts a full bundle at the end: whoever lacks deltas before it begins there. It is copied."""

    def read(self, after: Position, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        """Returns at most `most` deltas after a position, in order; if there is none, waits up to `wait_s` for one.

        A log that cannot be reached is asked again for no longer than that; with `wait_s` 0, as long as this log does.
        """

    def bundles(self) -> Iterator[BundleHead]:
        """Returns the full bundles in the log, the newest first. None is fetched."""

    def bundle(self, position: Position) -> Entry | None:
        """Fetches a full bundle. Returns None for one that is not there any more.

        Raises UpdateError "foreign", "files" or "path" for one that is none.
        """

    def last_bundle(self) -> tuple[Position, int] | None:
        """Returns where the last full bundle stands that says its model version, and that, without fetching it."""
        return next(((head.position, head.model_version) for head in self.bundles() if head.fault is None), None)

    def last_delta(self) -> tuple[Position, DeltaHead] | None:
        """Returns the last delta in the log that says what it is, and is whole: what a publisher goes on from."""

    def last_version(self) -> int | None:
        """Returns the model version that the log leads to, None where there is nothing in it."""
        return last_version(self.last_delta(), self.last_bundle())

    def acknowledge(self, follower: str, progress: Progress) -> None:
        """Notes durably how far a follower has come."""

    def progress(self) -> dict[str, Progress]:
        """Returns how far each follower has come, but for what is no progress."""

    def trim(self, keep: int, silent_after_s: float = 86400.0) -> int:
        """Removes what nobody needs: deltas before the newest bundle, and older bundles. Returns how many entries.

        Kept are the last `keep` deltas whatever comes, and all after the position of any follower that was heard from
        within `silent_after_s`; others are forgotten. Nothing goes before there is a bundle that says its version.
        """


def last_version(delta: tuple[Position, DeltaHead] | None, bundle: tuple[Position, int] | None) -> int | None:
    """Returns the model version that a log leads to whose last delta and last bundle these are; None for neither."""
    if bundle is not None and (delta is None or bundle[0] > delta[0]):
        return bundle[1]
    return None if delta is None else delta[1].model_version


MOST_PROGRESS = 4096  #: bytes of a follower's progress
_MOST_AHEAD_S = 366 * 86400.0  # of a follower's clock: who says so for longer would keep everything for ever
_FOLLOWER = re.compile(r"[A-Za-z0-9._-]{1,100}")


def check_follower(name: str) -> None:
    """Raises UpdateError for a follower's name that no log takes."""
    if _FOLLOWER.fullmatch(name) is None:
        raise UpdateError("transport", f"follower: expected letters, digits, dots and dashes, got {name[:100]!r}")


def read_progress(where: str, text: str | bytes, size: int = 0) -> Progress:
    """Returns what was noted as JSON. Raises UpdateError "progress" when it is something else.

    size: of the note, where `text` may be its beginning.
    """
    refused = partial(UpdateError, "progress")
    where = f"{where}: a follower's progress"
    if (size := max(size, len(text))) > MOST_PROGRESS:
        raise refused(f"{where}: expected at most {MOST_PROGRESS} characters, got {size}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refused(f"{where}: expected JSON, got: {clip(error, MOST_VALUE)}") from error
    read: Progress = convert(where, data, Progress, refused)
    if read.at > time.time() + _MOST_AHEAD_S:
        raise refused(f"{where}: at: expected a time, got one in a year or later: {read.at:g}")
    return read


def trimmed_up_to(
    bundle: Position, progress: Mapping[str, Progress], silent_after_s: float
) -> tuple[Position, list[str]]:
    """Returns up to where deltas may go, `bundle` at most, and the followers that are to be forgotten."""
    since = time.time() - silent_after_s
    heard = [said.position for said in progress.values() if said.at >= since]
    return min([bundle, *heard]), [name for name, said in progress.items() if said.at < since]


def bundle_version(path: Path) -> int:
    """Reads the model version of a bundle and looks at nothing else. Raises UpdateError."""
    with reading(path):
        with UpdateError.in_place_of(BundleError, reason="files"):
            version = typed(str(path), read_document(path, BUNDLE_MANIFEST), "model_version", int)
        if not 0 <= version < 1 << 63:
            raise UpdateError("version", f"{path}: model_version: expected 0 to 2^63 - 1, got {version!s:.40}")
        return version
