"""A log in a directory, on a disk that publisher and followers share. Nothing to install.

    deltas/POSITION/      a delta; positions are numbers of 20 digits
    bundles/POSITION/     a bundle: deltas after POSITION lead on from it
    followers/NAME.json   how far a follower has come
    writer.lock           held by a publisher while it appends

Entries are written beside their place, forced to the disk and renamed, so that one is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pepnet_infer.errors import UpdateError
from pepnet_infer.files import sync_tree
from pepnet_infer.sync.delta import DeltaHead, read_head
from pepnet_infer.sync.transport import Entry, Kind, Position, Progress

_POSITION = re.compile(r"\d{20}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_FOLDERS: dict[Kind, str] = {"delta": "deltas", "bundle": "bundles"}
#: Seconds between two looks at the directory while nothing is there: a shared disk tells nobody of a rename.
_LOOK_S = 0.02


class DirectoryLog:
    """A `Transport` over a directory. One that is not there is made by the first append."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))

    def append(self, delta: Path) -> Position:
        """Puts a delta at the end, linked where the file system can; see `Transport.append`."""
        with self._writing("delta") as (number, staging):
            shutil.copytree(delta, staging, symlinks=True, copy_function=_link)
            return self._place(staging, "delta", number)

    def append_bundle(self, bundle: Path) -> Position:
        """Copies a bundle to the end; see `Transport.append_bundle`."""
        with self._writing("bundle") as (number, staging):
            shutil.copytree(bundle, staging, symlinks=True)
            return self._place(staging, "bundle", number)

    def read(self, after: Position, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        """Returns deltas after a position; see `Transport.read`."""
        ends = time.monotonic() + wait_s
        while True:
            there = [position for position in self._positions("delta") if position > after][:most]
            left = ends - time.monotonic()
            if there or left <= 0:
                return [self._entry("delta", position) for position in there]
            time.sleep(min(_LOOK_S, left))

    def newest_bundle(self) -> Entry | None:
        """Returns the last full bundle."""
        there = self._positions("bundle")
        return self._entry("bundle", there[-1]) if there else None

    def last_delta(self) -> tuple[Position, DeltaHead] | None:
        """Returns the last delta."""
        there = self._positions("delta")
        return (there[-1], read_head(self._entry("delta", there[-1]).path)) if there else None

    def acknowledge(self, follower: str, progress: Progress) -> None:
        """Notes durably how far a follower has come."""
        if _NAME.fullmatch(follower) is None:
            raise UpdateError("transport", f"follower: expected letters, digits, dots and dashes, got {follower!r}")
        folder = self.path / "followers"
        staging = folder / f".{follower}.{secrets.token_hex(4)}"
        with _failures(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with open(staging, "x", encoding="utf-8") as file:
                    json.dump(progress._asdict(), file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(staging, folder / f"{follower}.json")
                _sync(folder)
            finally:
                staging.unlink(missing_ok=True)

    def progress(self) -> dict[str, Progress]:
        """Returns how far each follower has come."""
        found = {}
        for path in sorted((self.path / "followers").glob("*.json")):
            with _failures(path):
                try:
                    said = Progress(**json.loads(path.read_text(encoding="utf-8")))
                    found[path.stem] = Progress(str(said.position), int(said.model_version), float(said.at))
                except (ValueError, TypeError) as error:
                    raise UpdateError("transport", f"{path}: expected a follower's progress, got: {error}") from error
        return found

    def trim(self, keep: int, silent_after_s: float = 86400.0) -> int:
        """Removes what nobody needs; see `Transport.trim`."""
        with self._locked():
            bundle = self.newest_bundle()
            if bundle is None:
                return 0
            deltas = self._positions("delta")
            heard = [p.position for p in self.progress().values() if p.at >= time.time() - silent_after_s]
            edge = min([bundle.position, *heard])
            old = [p for p in deltas[: max(0, len(deltas) - keep)] if p <= edge]
            gone = [self._entry("delta", p).path for p in old]
            gone += [self._entry("bundle", p).path for p in self._positions("bundle")[:-1]]
            for path in gone:
                with _failures(path):
                    # Renamed first: a reader finds it whole or not at all.
                    hidden = path.with_name(f".{path.name}.gone")
                    os.rename(path, hidden)
                    shutil.rmtree(hidden)
            return len(gone)

    def _positions(self, kind: Kind) -> list[Position]:
        folder = self.path / _FOLDERS[kind]
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UpdateError("transport", f"{folder}: cannot be read: {error}") from error
        return sorted(name for name in names if _POSITION.fullmatch(name))

    def _entry(self, kind: Kind, position: Position) -> Entry:
        return Entry(position, kind, self.path / _FOLDERS[kind] / position)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with _failures(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with _failures(self.path):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _writing(self, kind: Kind) -> Iterator[tuple[int, Path]]:
        """Yields the next number and a place to build the entry in, which is gone afterwards."""
        folder = self.path / _FOLDERS[kind]
        with self._locked():
            with _failures(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for left in folder.glob(".*"):  # of a writer that died: we hold the lock
                    shutil.rmtree(left)
            last = max([*self._positions("delta"), *self._positions("bundle")], default="0")
            # A bundle stands where the last delta does: what comes after it leads on from it.
            number = int(last) + 1
            staging = folder / f".{number:020d}"
            try:
                with _failures(staging):
                    yield number, staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def _place(self, staging: Path, kind: Kind, number: int) -> Position:
        entry = self._entry(kind, f"{number:020d}")
        sync_tree(staging)
        os.rename(staging, entry.path)
        _sync(entry.path.parent)
        return entry.position


def _link(source: str, target: str) -> None:
    """Gives a file that nobody changes any more a second name, or copies it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UpdateError("transport", f"{path}: cannot be used: {error}") from error
