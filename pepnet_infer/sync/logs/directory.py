"""A log in a directory, on a disk that publisher and followers share. Nothing to install.

    log.json              which log this is: {"format": "pepnet-log", "format_version": 1, "id": 32 hex digits}
    deltas/POSITION/      a delta; positions are numbers of 20 digits, from the microsecond in which the log began
    bundles/POSITION/     a bundle: deltas after POSITION lead on from it
    followers/NAME.json   how far a follower has come
    writer.lock           held by a publisher while it appends

Entries are written beside their place, forced to the disk and renamed, so that one is there whole or not at all. What
else lies in these folders stands in nobody's way: under a position it is refused, and trimmed in its turn; under any
other name it is left alone.

An empty folder is what a disk that is not mounted looks like; a mistyped path is a folder that is not there. Neither is
a log without entries: that has its log.json.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pepnet_infer._kernels import FileLock
from pepnet_infer.errors import BundleError, UpdateError
from pepnet_infer.quoting import clip
from pepnet_infer.storage.atomic import link_or_copy, make_folder, move_all, put_directory, remove, write_file
from pepnet_infer.storage.document import document_bytes, open_regular, read_document
from pepnet_infer.storage.listing import FileState, file_states
from pepnet_infer.storage.local_path import check_local
from pepnet_infer.sync.delta import MANIFEST, DeltaHead, read_head
from pepnet_infer.sync.entry_faults import MAY_PASS, not_a_directory
from pepnet_infer.sync.logs.transport import (
    FOLDERS,
    MOST_PROGRESS,
    BundleHead,
    Entry,
    Kind,
    Position,
    Progress,
    Transport,
    bundle_version,
    check_follower,
    read_progress,
    trimmed_up_to,
)
from pepnet_infer.validation import convert

_LOG = logging.getLogger("pepnet_infer.sync")
#: With a first digit of 0: after a foreign entry at the end of what 20 digits can say there would be no place.
_POSITION = re.compile(r"0[0-9]{19}")
_MOST = 10**19 - 1
_LEFT_OVER = re.compile(r"\.[0-9]{20}(\.gone)?")
#: Seconds between two looks at the directory while nothing is there: a shared disk tells nobody of a rename.
_LOOK_S = 0.02
_REST = 5  # times as long as a look took: one at 100,000 entries takes a tenth of a second
_FILE = "log.json"


class _Log(msgspec.Struct, frozen=True):
    """What `log.json` holds. Another format is another number; a key more is not."""

    format: Literal["pepnet-log"]
    format_version: Literal[1]
    id: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class DirectoryLog(Transport):
    """A `Transport` over a directory, on a file system that keeps what was forced to it.

    One that this object has seen is never begun again by it: where it has gone, its disk is not mounted, say, every
    method raises UpdateError "missing".
    """

    def __init__(self, path: str | os.PathLike[str], create: bool | None = None) -> None:
        """create: whether this object may begin a log that is not there, apart from what is published, which may.

        True begins one at once. False never does: reading is UpdateError "missing" then. None lets a reader begin one,
        with a warning, in a folder that has no file or folder of that name yet; an empty folder is what a disk that is
        not mounted looks like, and is "missing". Raises UpdateError when `create` fails, and for a URL; without it
        nothing is looked at yet.
        """
        check_local(path, "a local folder", partial(UpdateError, "transport"))
        self.path = Path(os.path.abspath(path))
        self._found: tuple[dict[str, FileState], str] = ({}, "")  # what log.json is on the disk, and the log's identity
        self._read_from = ""
        self._put_in = ""  # the log that something was put into
        self._may_begin = create is None
        if create:
            with _usable(self.path), self._lock():
                self._begin()

    @property
    def read_from(self) -> str:
        """Which log was read last."""
        return self._read_from

    def identity(self) -> str:
        """Looks which log there is, and begins one where a reader may."""
        new = not self._is_there() and self._may_begin and not os.path.lexists(self.path)
        if not (new and self.path.parent.is_dir()):
            return self._found[1] or self._look()
        with _usable(self.path), self._lock():
            log = self._begin()
            _LOG.warning("%s: there was no log, so that one was begun; with create=False that is an error", self.path)
            return log

    def _look(self) -> str:
        try:
            states = file_states(self.path, [_FILE])
        except BundleError:
            states = {}
        if not states or states != self._found[0]:  # `_find_log` says why there is none
            self._found = states, _find_log(self.path)
        return self._found[1]

    def append(self, delta: str | os.PathLike[str]) -> Position:
        """Puts a delta at the end, linked where the file system can; see `Transport.append`."""
        version = read_head(delta).model_version
        with _usable(self.path), self._lock():
            log = self._begin()
            if self._put_in not in ("", log):
                raise UpdateError(
                    "log", f"{self.path}: expected the log {self._put_in}, got {log}: append a full bundle"
                )
            position = self._find(Path(delta), version) or self._put(Path(delta), "delta", copy_function=link_or_copy)
            self._put_in = log
            return position

    def append_bundle(self, bundle: str | os.PathLike[str]) -> Position:
        """Copies a bundle to the end; see `Transport.append_bundle`. The log may be another than before."""
        bundle_version(Path(bundle))
        with _usable(self.path), self._lock():
            log, position = self._begin(), self._put(Path(bundle), "bundle")
            self._put_in = log
            return position

    def read(self, after: Position, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        """Returns deltas after a position; see `Transport.read`."""
        ends = time.monotonic() + wait_s
        while True:
            begun = time.monotonic()
            log = self.identity()
            if self._read_from not in ("", log):
                after = ""
            self._read_from = log
            there = self._positions("delta")
            # Of what was ever read something as late stays: a bundle, when all deltas before it go.
            if after and after > max([*there, *self._positions("bundle")], default=after):
                after = ""
            there = [position for position in there if position > after][:most]
            now = time.monotonic()
            if there or now >= ends:
                return [self._entry("delta", position) for position in there]
            time.sleep(min(max(_LOOK_S, _REST * (now - begun)), ends - now))

    def bundles(self) -> Iterator[BundleHead]:
        """Returns the full bundles, the newest first. Their manifests are read as it goes."""
        if self._is_there():
            for position in reversed(self._positions("bundle")):
                entry = self._entry("bundle", position)
                try:
                    if entry.fault is not None:
                        raise entry.fault
                    yield BundleHead(position, bundle_version(entry.path))
                except UpdateError as error:
                    if error.reason in MAY_PASS:
                        raise UpdateError.of(error, reason="transport") from error
                    yield BundleHead(position, -1, error)

    def bundle(self, position: Position) -> Entry | None:
        """Returns a full bundle where it stands."""
        entry = self._entry("bundle", position)
        if entry.fault is not None:
            raise entry.fault
        return entry if entry.path.is_dir() else None

    def last_delta(self) -> tuple[Position, DeltaHead] | None:
        """Returns the last delta."""
        return next(self._heads(), None) if self._is_there() else None

    def acknowledge(self, follower: str, progress: Progress) -> None:
        """Notes durably how far a follower has come."""
        check_follower(follower)
        folder = self.path / "followers"
        first = not folder.is_dir()
        self._look()  # a log that has gone, even this moment, is not begun again by who reads it
        with _usable(folder):
            if first:
                make_folder(folder)
            write_file(folder / f"{follower}.json", msgspec.json.encode(progress))

    def progress(self) -> dict[str, Progress]:
        """Returns how far each follower has come."""
        found = {}
        if self._is_there():
            for path in sorted((self.path / "followers").glob("*.json")):
                try:
                    with _usable(path), open_regular(path) as file:
                        size = os.fstat(file.fileno()).st_size
                        found[path.stem] = read_progress(str(path), file.read(MOST_PROGRESS + 1), size)
                except (BundleError, UpdateError) as error:
                    if isinstance(error, UpdateError) and error.reason != "progress":
                        raise
                    _LOG.warning("passed over: %s", clip(error))
        return found

    def trim(self, keep: int, silent_after_s: float = 86400.0) -> int:
        """Removes what nobody needs; see `Transport.trim`."""
        self._look()
        with _usable(self.path), self._lock():
            self._look()
            last = self.last_bundle()
            if last is None:
                return 0
            deltas = self._positions("delta")
            edge, silent = trimmed_up_to(last[0], self.progress(), silent_after_s)
            for name in silent:
                (self.path / "followers" / f"{name}.json").unlink(missing_ok=True)
            old = [p for p in deltas[: max(0, len(deltas) - keep)] if p <= edge]
            gone = [self._entry("delta", p).path for p in old]
            gone += [self._entry("bundle", p).path for p in self._positions("bundle") if p < last[0]]
            hidden = [path.with_name(f".{path.name}.gone") for path in gone]
            # Renamed first, and that on the disk: a reader finds an entry whole or not at all, after a crash too.
            for away in hidden:  # what an earlier trim could not remove
                remove(away)
            move_all(list(zip(gone, hidden, strict=True)))
            for away in hidden:
                remove(away)
            return len(gone)

    def _positions(self, kind: Kind) -> list[Position]:
        folder = self.path / FOLDERS[kind]
        with _usable(folder):
            try:
                return sorted(name for name in os.listdir(folder) if _POSITION.fullmatch(name))
            except FileNotFoundError as error:
                if folder.is_symlink():  # to a disk that is not mounted, say: nothing was put there yet, or it is away
                    raise UpdateError("transport", f"{folder}: expected a folder, got a link to nothing") from error
                return []

    def _entry(self, kind: Kind, position: Position) -> Entry:
        path = self.path / FOLDERS[kind] / position
        return Entry(position, kind, path, not_a_directory(path))

    def _heads(self) -> Iterator[tuple[Position, DeltaHead]]:
        """Yields what deltas say of themselves, the last one first, but for damaged ones: followers say so."""
        for position in reversed(self._positions("delta")):
            entry = self._entry("delta", position)
            try:
                if entry.fault is None:
                    yield position, read_head(entry.path, whole=True)
            except UpdateError as error:
                if error.reason in MAY_PASS:
                    raise UpdateError.of(error, reason="transport") from error

    def _is_there(self) -> bool:
        """Whether there is a log. Raises UpdateError "missing" where there was one."""
        try:
            return bool(self._look())
        except UpdateError as error:
            if error.reason != "missing" or self._found[1]:
                raise
            return False

    def _lock(self) -> FileLock:
        """Returns the writers' lock, which is taken as it is entered: a generator in between keeps it when interrupted.

        Raises UpdateError where a log has gone.
        """
        if not self._is_there():
            make_folder(self.path)
        return FileLock(self.path / "writer.lock", os.O_RDWR | os.O_CREAT)

    def _begin(self) -> str:
        """Makes a log where none was ever seen, and returns the identity of the one there is. We hold the lock."""
        if not self._is_there():
            begun = _Log("pepnet-log", 1, secrets.token_hex(16))
            write_file(self.path / _FILE, document_bytes(msgspec.to_builtins(begun)))
        return self._look()

    def _put(self, source: Path, kind: Kind, **options: Any) -> Position:
        """Copies a directory to the end; options: of `copytree`. We hold the lock."""
        folder = self.path / FOLDERS[kind]
        make_folder(folder)
        for left in folder.glob(".*"):
            if _LEFT_OVER.fullmatch(left.name):  # of a writer that died
                remove(left)
        # A bundle stands where the last delta does: what comes after it leads on from it.
        there = [*self._positions("delta"), *self._positions("bundle")]
        number = int(max(there)) + 1 if there else time.time_ns() // 1000
        if number > _MOST:
            raise UpdateError("log", f"{folder}: expected positions that leave room, got {max(there)}: remove it")
        position, staging = f"{number:020d}", folder / f".{number:020d}"
        try:
            shutil.copytree(source, staging, symlinks=True, **options)
            put_directory(staging, folder / position)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return position

    def _find(self, delta: Path, version: int) -> Position | None:
        """Returns where a delta is already, looked for from the end back to one that leads to an earlier version."""
        for position, head in self._heads():
            if head.model_version < version:
                break
            same = self.path / FOLDERS["delta"] / position / MANIFEST
            if head.model_version == version and same.read_bytes() == (delta / MANIFEST).read_bytes():
                return position
        return None


def _usable(path: Path) -> AbstractContextManager[None]:
    """Raises UpdateError "transport" for what the file system refuses inside."""
    return UpdateError.in_place_of(OSError, reason="transport", within=f"{path}: cannot be used")


def _find_log(path: Path) -> str:
    """Returns the identity of the log in a directory.

    Raises UpdateError "missing" where there is none, "transport" where that cannot be told, "log" for a newer format.
    """
    try:
        os.lstat(path / _FILE)
        document = read_document(path, _FILE)
    except FileNotFoundError as error:
        got = f"a folder without {_FILE}; is its disk mounted?" if os.path.exists(path) else "nothing there."
        begins = "A log begins with what is published first, or with DirectoryLog(path, create=True)."
        raise UpdateError("missing", f"{path}: expected a log, got {got} {begins}") from error
    except NotADirectoryError as error:
        raise UpdateError("missing", f"{path}: expected a log, got a file, or one on the way there") from error
    except OSError as error:
        raise UpdateError("transport", f"{path}: expected a log, got a folder that cannot be read: {error}") from error
    except BundleError as error:
        reason = "transport" if isinstance(error.__cause__, OSError) else "log"
        raise UpdateError.of(error, reason=reason) from error
    log: _Log = convert(str(path / _FILE), document, _Log, partial(UpdateError, "log"))
    return log.id
